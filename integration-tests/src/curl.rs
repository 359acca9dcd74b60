//! curl, the real one.

use std::{net::SocketAddr, path::Path, process::Stdio};

use tokio::process::Command;

use crate::tools::tool;

/// What came of one call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 0 if no answer came.
    pub status: u16,
    pub body: String,
    /// curl's own; 0 is well.
    pub code: i32,
    /// What it said of it.
    pub log: String,
}

/// Asks for `https://{host}:PORT{path}` at this address. `flags` are more of curl's.
///
/// # Panics
/// If curl cannot be run.
pub async fn https(at: SocketAddr, host: &str, path: &str, ca: &Path, flags: &[&str]) -> Answer {
    let port = at.port();
    let mut command = Command::new(tool("curl"));
    command
        .args(["--silent", "--show-error", "--verbose", "--max-time", "20", "--noproxy", "*"])
        .args(["--write-out", "\n%{http_code}"])
        .arg("--resolve")
        .arg(format!("{host}:{port}:{}", at.ip()))
        .arg("--cacert")
        .arg(ca)
        .args(flags)
        .arg(format!("https://{host}:{port}{path}"))
        .stdin(Stdio::null());
    let output = command.output().await.expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    Answer {
        status: status.parse().unwrap_or(0),
        body: body.into(),
        code: output.status.code().unwrap_or(-1),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
