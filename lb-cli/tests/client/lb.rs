//! `lb` as an operator runs it: in a pipe, or on a terminal.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
};

use integration_tests::{
    eventually::{PATIENCE, eventually, holds, within},
    fleet::Fleet,
    tools::tool,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
};

pub const LB: &str = env!("CARGO_BIN_EXE_lb");

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs `lb` against this fleet.
pub async fn lb(fleet: &Fleet, args: &[&str]) -> Said {
    lb_with(fleet, args, "").await
}

/// As [`lb`], with something on standard input.
pub async fn lb_with(fleet: &Fleet, args: &[&str], stdin: &str) -> Said {
    run(&mut command(fleet.controller.grpc(), args), stdin).await
}

/// As [`lb`], where nothing is to go wrong.
///
/// # Panics
/// If something does.
#[track_caller]
pub fn ok(said: Said) -> String {
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", said.out);
    said.out
}

/// Its JSON.
///
/// # Panics
/// If something goes wrong, or it is not JSON.
pub async fn json(fleet: &Fleet, args: &[&str]) -> Value {
    let said = ok(lb(fleet, &[args, &["--json"]].concat()).await);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

pub fn command(controller: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new(LB);
    command.args(args).kill_on_drop(true);
    clean(&mut command);
    command.env("LB_CONTROL", format!("http://{controller}"));
    command
}

/// What the test's environment says is not for the program under test.
fn clean(command: &mut Command) {
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("LB_"))
    {
        command.env_remove(key);
    }
    for key in ["NO_COLOR", "VISUAL", "EDITOR"] {
        command.env_remove(key);
    }
}

/// # Panics
/// If it does not end.
pub async fn run(command: &mut Command, stdin: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut input = child.stdin.take().expect("it is piped");
    // It may end without reading all of it.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = within(PATIENCE, &format!("{command:?} ends"), child.wait_with_output()).await;
    let output = output.expect("it was started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// `lb` on a terminal of its own: real input, real output, a real controlling terminal.
pub struct Terminal {
    child: Child,
    input: ChildStdin,
    said: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

// === impl Terminal ===

impl Terminal {
    /// Of so many columns. `command` is for a shell, and may use `lb`.
    pub fn start(fleet: &Fleet, columns: u16, command: &str) -> Self {
        let command = format!("stty cols {columns} rows 40 -echo; {command}");
        let mut script = Command::new(tool("script"));
        clean(&mut script);
        let path = std::path::Path::new(LB).parent().expect("it is in a directory");
        script
            .args(["-qefc", &command, "/dev/null"])
            .env(
                "PATH",
                format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default()),
            )
            .env("LB_CONTROL", format!("http://{}", fleet.controller.grpc()))
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = script.spawn().unwrap_or_else(|error| panic!("{script:?}: {error}"));
        let input = child.stdin.take().expect("it is piped");
        let mut output = child.stdout.take().expect("it is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer).await {
                heard.lock().expect("nobody panics with it").extend(&buffer[..n]);
            }
        });
        Self { child, input, said, reader }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("nobody panics with it")).into()
    }

    /// Whatever its colours.
    pub async fn shows(&self, part: &str) {
        eventually(&format!("the terminal shows {part:?}"), async || {
            let text = plain(&self.text());
            holds(text.contains(part), || text)
        })
        .await;
    }

    pub async fn types(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).await.expect("the terminal is there");
        self.input.flush().await.expect("the terminal is there");
    }

    /// All that was shown, and the exit code.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let status = within(PATIENCE, "the command on the terminal ends", self.child.wait()).await;
        within(PATIENCE, "the terminal closes", &mut self.reader).await.expect("it only reads");
        (status.expect("it was started").code(), self.text())
    }
}

/// Without colours.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    plain + rest
}
