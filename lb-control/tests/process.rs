//! The program itself: signals, exit codes, and what survives its sudden death.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use common::{app, channel, eventually, soon};
use lb_proto::v1::{self, fleet_client::FleetClient};
use tonic::transport::Channel;

/// Killed when dropped.
struct Process {
    child: Child,
    grpc: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        Self::start_logging(directory, "error")
    }

    fn start_logging(directory: &Path, level: &str) -> Self {
        let grpc = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_lb-control"))
            .args(["--grpc", &grpc.to_string(), "--admin", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .env("LB_CONFIG", directory.join("lb.toml"))
            .env("LB_LOG", level)
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        Self { child, grpc }
    }

    async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(channel(self.grpc).await)
    }

    fn signal(&self, name: &str) {
        let arguments = [format!("-{name}"), self.child.id().to_string()];
        let sent = Command::new("kill").args(arguments).status().expect("kill runs");
        assert!(sent.success());
    }

    async fn ended(mut self) -> Output {
        let status = eventually("it ends", async || self.child.try_wait().expect("is ours")).await;
        let mut stderr = Vec::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            std::io::Read::read_to_end(&mut pipe, &mut stderr).expect("reads");
        }
        Output { status, stdout: Vec::new(), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free a moment ago, which is as good as it gets for another process.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("is bound")
}

fn directory_with(config: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("lb.toml"), config).expect("writes");
    directory
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let directory = directory_with("");
    let mut acknowledged = 0;
    for round in 0..5 {
        let mut process = Process::start(directory.path());
        let mut fleet = process.fleet().await;
        let found = fleet.get(v1::GetRequest::default()).await.expect("is there").into_inner();
        assert!(found.revision >= acknowledged, "{} < {acknowledged}", found.revision);

        let writer = tokio::spawn(async move {
            let mut last = found.revision;
            for weight in (1..100).cycle() {
                match fleet.apply(app(weight)).await {
                    Ok(applied) => last = applied.into_inner().revision,
                    Err(_) => break,
                }
            }
            last
        });
        let pause = std::time::Duration::from_millis(40 + 17 * round);
        tokio::time::sleep(pause).await;
        process.child.kill().expect("is running");
        acknowledged = soon("the writer notices", writer).await.expect("does not panic");
    }
    assert!(acknowledged > 5, "something was written: {acknowledged}");
}

#[tokio::test]
async fn it_ends_in_order_when_asked_to() {
    let directory = directory_with("");
    let process = Process::start(directory.path());
    let mut fleet = process.fleet().await;
    let _watch = fleet.watch(v1::WatchRequest {}).await.expect("watches");
    process.signal("TERM");
    let output = process.ended().await;
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn a_hangup_does_not_undo_what_was_changed_since_the_file_was_applied() {
    let directory = directory_with("[[backend_sets]]\nname = \"one\"\n");
    let mut process = Process::start_logging(directory.path(), "info");
    let mut fleet = process.fleet().await;
    fleet.apply(app(1)).await.expect("is valid");
    let before = fleet.get(v1::GetRequest::default()).await.expect("is there").into_inner();
    process.signal("HUP");
    let log = BufReader::new(process.child.stderr.take().expect("is piped"));
    let line = tokio::task::spawn_blocking(move || {
        let mut lines = log.lines().map_while(Result::ok);
        lines.find(|line| line.contains("is as it was applied last, and changes nothing"))
    });
    let line = soon("it is logged", line).await.expect("does not panic");
    assert!(line.is_some_and(|line| line.contains("lb.toml")));
    let after = fleet.get(v1::GetRequest::default()).await.expect("is there").into_inner();
    assert_eq!((after.revision, after.spec), (before.revision, before.spec));
}

#[tokio::test]
async fn a_file_that_becomes_wrong_changes_nothing_and_the_log_says_why() {
    let directory = directory_with("[[backend_sets]]\nname = \"one\"\n");
    let mut process = Process::start(directory.path());
    let mut fleet = process.fleet().await;
    // The port is open before the file is read; the first answer comes after.
    fleet.get(v1::GetRequest::default()).await.expect("is there");
    let file = directory.path().join("lb.toml");
    fs::write(&file, "[[backend_sets]]\nname = \"a set\"\n").expect("writes");
    let mut log = BufReader::new(process.child.stderr.take().expect("is piped"));
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        log.read_line(&mut line).map(|_| line)
    });
    let line = soon("it is logged", line).await.expect("does not panic").expect("reads");
    let at = format!("{}:2:1: backend_sets[a set].name: ", file.display());
    assert!(line.contains(&at), "{line}");
    let got = fleet.get(v1::GetRequest::default()).await.expect("is there").into_inner();
    assert_eq!((got.revision, got.spec.expect("has a spec").backend_sets.len()), (1, 1));
}

#[tokio::test]
async fn it_says_what_is_wrong_and_exits_with_1() {
    let directory = directory_with("[[listeners]]\nname = \"web\"\nport = 80\n");
    let output = Process::start(directory.path()).ended().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let at = format!("{}:3:1: unknown field `port`", directory.path().join("lb.toml").display());
    assert!(said.contains(&at), "{said}");
}
