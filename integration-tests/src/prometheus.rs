//! A real Prometheus, as Debian has it, with the project's own configuration and rules.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    client,
    eventually::{eventually, holds},
    fleet::Fleet,
    ports::Port,
    process::Process,
    tools::tool,
};

/// It scrapes a fleet four times a second.
#[derive(Debug)]
pub struct Prometheus {
    port: Port,
    _process: Process,
}

/// The directory of the project's configuration for Prometheus.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus")
}

/// Runs promtool. Returns what it printed.
///
/// # Panics
/// If it has anything against it.
pub fn promtool(args: &[&str], input: &str) -> String {
    let mut command = Command::new(tool("promtool"));
    command.args(args).current_dir(directory());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("promtool prints text");
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

// === impl Prometheus ===

impl Prometheus {
    /// Watches over a fleet as `deploy/prometheus` says, only faster: intervals and the `for` of
    /// alerts are parts of a second. Returns when it serves.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(fleet: &Fleet) -> Self {
        let dir = fleet.dir().join("prometheus");
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let proxies: Vec<_> = fleet.proxies.iter().map(|p| p.admin().to_string()).collect();
        let config = read("prometheus.yml");
        let config = replaced(&config, "127.0.0.1:7001", &fleet.controller.admin().to_string());
        let config = replaced(&config, "127.0.0.1:7101", &proxies.join(", "));
        let config = replaced(&config, "_interval: 15s", "_interval: 250ms");
        let write = |name: &str, text: String| {
            let file = dir.join(name);
            fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        };
        write("prometheus.yml", config);
        let rules = read("alerts.yml");
        let rules = rules.lines().map(|line| match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 250ms\n"),
            _ => format!("{line}\n"),
        });
        write("alerts.yml", rules.collect());

        let port = Port::reserve();
        let args = [
            format!("--config.file={}", dir.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={}", port.address()),
            "--log.level=warn".into(),
        ];
        let process = Process::start(fleet.dir(), "prometheus-log", &tool("prometheus"), &args);
        let prometheus = Self { port, _process: process };
        eventually("prometheus is ready", async || {
            let up = crate::backend::is_listening(prometheus.address()).await
                && client::get(prometheus.address(), "/-/ready").await.status() == 200;
            holds(up, || "it is not".into())
        })
        .await;
        prometheus
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The `data` of an answer of its API.
    ///
    /// # Panics
    /// If it is an error.
    pub async fn api(&self, path: &str) -> Value {
        let answer = client::get(self.address(), &format!("/api/v1/{path}")).await;
        let mut value: Value = serde_json::from_str(&answer.text())
            .unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"));
        assert_eq!(value["status"], "success", "{path}: {value}");
        value["data"].take()
    }

    /// What an expression is now.
    ///
    /// # Panics
    /// If it is not valid.
    pub async fn query(&self, expression: &str) -> Value {
        let encoded = expression.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        });
        let encoded: String = encoded.collect();
        self.api(&format!("query?query={encoded}")).await["result"].take()
    }

    /// Alerts that fire: their names, and the value of the given label.
    pub async fn firing(&self, label: &str) -> Vec<(String, String)> {
        let alerts = self.api("alerts").await["alerts"].take();
        let alerts = alerts.as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        firing
            .map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["labels"][label])))
            .collect()
    }
}

fn read(name: &str) -> String {
    let file = directory().join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What is to be replaced is to be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?} in {text}");
    text.replace(from, to)
}
