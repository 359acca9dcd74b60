//! `lb demo`: what it prints is true.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use integration_tests::{
    eventually::{eventually, holds},
    process::{Process, Signal},
    tools::tool,
};
use tempfile::TempDir;

struct Demo {
    process: Process,
    /// What it says to try.
    commands: Vec<String>,
    /// The file that it runs.
    file: PathBuf,
    /// Of its log.
    _dir: TempDir,
}

impl Demo {
    /// Everything on free ports.
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let args = [
            "demo",
            "--http=127.0.0.1:0,127.0.0.1:0",
            "--grpc=127.0.0.1:0",
            "--admin=127.0.0.1:0",
            "--proxy-admin=127.0.0.1:0,127.0.0.1:0",
        ];
        let args = [&args[..], more].concat();
        let mut process =
            Process::start(dir.path(), "demo", Path::new(env!("CARGO_BIN_EXE_lb")), &args);
        let said = eventually("the demo says what to try", async || {
            assert!(process.is_running(), "it ended");
            let log = process.log();
            holds(log.contains("/lb.toml\n"), || log.clone()).map(|()| log)
        });
        let said = said.await;
        let mut commands: Vec<String> =
            said.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
        let file = commands.pop().expect("the file comes last").into();
        Self { process, commands, file, _dir: dir }
    }

    fn command(&self, part: &str) -> &str {
        let found = self.commands.iter().find(|command| command.contains(part));
        found.unwrap_or_else(|| panic!("no command has {part:?} in it: {:#?}", self.commands))
    }
}

impl Drop for Demo {
    /// A demo that is killed cannot clean up.
    fn drop(&mut self) {
        self.process.kill();
        // It is gone already if the demo ended by itself.
        let _ = std::fs::remove_dir_all(self.file.parent().expect("it is in a directory"));
    }
}

fn sh(command: &str) -> String {
    // It may be where only tests look.
    let command = command.replace("grpcurl", tool("grpcurl").to_str().expect("its path is text"));
    let done = Command::new("sh").args(["-c", &command]).output().expect("there is a shell");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

#[tokio::test]
async fn with_tls_clients_check_the_certificate_that_it_made() {
    let demo = Demo::start_with(&["--tls"]).await;
    let curl = demo.command("curl --cacert ");
    assert!(curl.contains(" https://") && sh(curl).starts_with("hello from backend"), "{curl}");
    assert!(sh(demo.command("/ListCertificates")).contains("\"127.0.0.1\""));
    let shown = demo.command("openssl ");
    sh(&format!("{{ {shown}; }} 2>&1 | grep TLSv1.3"));
}

#[tokio::test]
async fn three_backends_answer_in_turn() {
    let demo = Demo::start().await;
    let curl = demo.command("curl ");
    let answers: Vec<String> = (0..6).map(|_| sh(curl)).collect();
    assert_eq!(answers[..3], answers[3..], "each exactly twice, in turn");
    let mut first: Vec<_> = answers[..3].iter().map(|a| a.split(" (").next()).collect();
    first.sort_unstable();
    let expected = [1, 2, 3].map(|number| format!("hello from backend {number}"));
    assert_eq!(first, expected.iter().map(|e| Some(e.as_str())).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_command_that_it_prints_works() {
    let demo = Demo::start().await;
    let said: Vec<String> = demo.commands.iter().map(|command| sh(command)).collect();
    let answer = |part: &str| {
        let position = demo.commands.iter().position(|command| command.contains(part));
        &said[position.unwrap_or_else(|| panic!("no command has {part:?} in it"))]
    };
    #[rustfmt::skip]
    let expected = [
        ("/slow",              "slowly",                1),
        ("/status/503",        "HTTP/1.1 503",          1),
        (" list",              "lb.v1.Fleet",           1),
        ("describe",           "rpc Apply ",            1),
        ("ListProxies",        "\"inSync\": true",      2),
        ("ListBackends",       "\"address\"",           3),
        ("dry_run",            "\"dryRun\": true",      1),
        ("more for backend 1", "\"revision\": \"2\"",   1),
        ("DrainBackend",       "\"drained\": true",     1),
        ("History",            "\"time\"",              3),
        ("UndrainBackend",     "\"revision\": \"4\"",   1),
        ("Rollback",           "\"revision\": \"5\"",   1),
        ("/table",             "\"usable\": true",      3),
    ];
    for (command, part, times) in expected {
        let said = answer(command);
        assert_eq!(said.matches(part).count(), times, "{part:?} in what {command:?} says: {said}");
    }
}

#[tokio::test]
async fn a_sick_backend_leaves_both_proxies_and_comes_back() {
    let demo = Demo::start().await;
    let tables: Vec<_> = demo.commands.iter().filter(|c| c.contains("/table")).collect();
    assert_eq!(tables.len(), 2);
    let usable = async |expected: [usize; 2]| {
        eventually(&format!("the proxies use {expected:?} backends"), async || {
            let count = |i: usize| sh(tables[i]).matches("\"usable\": true").count();
            let now = [count(0), count(1)];
            holds(now == expected, || format!("{now:?}"))
        })
        .await;
    };
    usable([3, 3]).await;
    sh(demo.command("/health/off"));
    usable([2, 2]).await;
    sh(demo.command("/health/on"));
    usable([3, 3]).await;
}

#[tokio::test]
async fn it_ends_in_order_and_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut demo = Demo::start().await;
        let dir = demo.file.parent().expect("it is in a directory").to_owned();
        assert!(dir.is_dir(), "{}", dir.display());
        demo.process.signal(signal);
        assert_eq!(demo.process.exit_code().await, 0);
        assert!(!dir.exists(), "{}", dir.display());
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let started = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["demo", &format!("--grpc={address}")])
        .output()
        .expect("there is an lb");
    let said = String::from_utf8_lossy(&started.stderr);
    let expected = format!("lb: cannot listen on {address}; --grpc gives another address: ");
    assert!(said.starts_with(&expected), "{said}");
    assert_eq!(started.status.code(), Some(1));
}
