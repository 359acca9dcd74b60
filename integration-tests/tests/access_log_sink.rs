//! Where the access log goes: it is complete there, whatever happens to it meanwhile, and nobody
//! waits for it.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use integration_tests::{
    access_log::{check, counted, line, lines, parse, with_proxy},
    backend::Backend,
    client::{self, Client},
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    process::Signal,
    wrk::Wrk,
};
use serde_json::json;

/// A fleet of one proxy with a full log in this file.
async fn logged(spec: &str) -> (Fleet, PathBuf) {
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    (with_proxy(fleet, "full", &log, spec).await, log)
}

#[tokio::test]
async fn under_load_there_is_a_line_for_every_request() {
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let args = ["--access-log=full".into(), format!("--access-log-to={}", log.display())];
    fleet.add_proxy("p1", &args);
    fleet.apply(&app("", "", &[backend.address()])).await;
    let wrk = Wrk { connections: 16, pause: Duration::ZERO, ..Wrk::new(fleet.proxies[0].web()) };
    let load = wrk.start(fleet.dir());
    eventually("there were some thousand requests", async || {
        let (written, _) = counted(&fleet).await;
        holds(written >= 10_000.0, || written.to_string())
    })
    .await;
    let report = load.stop().await;
    report.assert_flawless();
    // Those that wrk had begun when it was stopped have ended, too.
    fleet.idle().await;
    fleet.proxies[0].process.signal(Signal::TERM);
    assert_eq!(fleet.proxies[0].process.exit_code().await, 0);

    let lines = parse(&fs::read(&log).expect("it is there"));
    let whole = lines.iter().filter(|line| line["reason"].is_null()).count() as u64;
    let begun = 16;
    println!("{} requests, {} lines, {whole} of whole ones", report.requests, lines.len());
    assert!((report.requests..=report.requests + begun).contains(&(lines.len() as u64)));
    assert!(report.requests <= whole, "{whole} of {}", report.requests);
    assert!(lines.iter().all(|line| line["status"] == 200 || line["reason"] == "client_gone"));
}

#[tokio::test]
async fn no_line_is_lost_at_the_end_and_none_is_counted_as_dropped() {
    let backend = Backend::named("here").await;
    let (mut fleet, log) = logged(&app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for i in 0..2_000 {
        client.get(&format!("/{i}")).await;
    }
    assert_eq!(counted(&fleet).await.1, 0.0);
    fleet.proxies[0].process.signal(Signal::TERM);
    assert_eq!(fleet.proxies[0].process.exit_code().await, 0);
    let lines = parse(&fs::read(&log).expect("it is there"));
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().expect("text")).collect();
    let expected: Vec<_> = (0..2_000).map(|i| format!("/{i}")).collect();
    assert_eq!(paths, expected, "each once, in order");
}

/// A pipe with a name, which nobody reads.
fn pipe(dir: &Path) -> PathBuf {
    let path = dir.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().expect("coreutils are there");
    assert!(made.success());
    path
}

/// Requests with long lines, until lines are dropped.
async fn until_lines_are_dropped(fleet: &Fleet) -> f64 {
    let mut requests = 0.0;
    let path = format!("/{}", "x".repeat(2_000));
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    loop {
        for _ in 0..500 {
            assert_eq!(client.get(&path).await.status(), 200);
        }
        requests += 500.0;
        if counted(fleet).await.1 > 0.0 {
            return requests;
        }
        assert!(requests < 100_000.0, "nothing was dropped; lines cannot all be in memory");
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_a_pipe_that_nobody_reads_and_neither_does_the_end() {
    let backend = Backend::named("here").await;
    let fleet = Fleet::empty().await;
    let log = pipe(fleet.dir());
    let mut fleet = with_proxy(fleet, "full", &log, &app("", "", &[backend.address()])).await;
    until_lines_are_dropped(&fleet).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.status(), 200);
    fleet.proxies[0].process.signal(Signal::TERM);
    assert_eq!(fleet.proxies[0].process.exit_code().await, 0, "drained");
    assert!(fleet.proxies[0].process.log().contains("lines are lost"));
}

#[tokio::test]
async fn when_a_full_pipe_is_read_again_every_line_was_written_or_counted() {
    let backend = Backend::named("here").await;
    let fleet = Fleet::empty().await;
    let log = pipe(fleet.dir());
    let (read, reads) = mpsc::channel::<()>();
    let reader = thread::spawn({
        let log = log.clone();
        move || {
            // It is opened, and then nothing is read until the test says so.
            let mut file = File::open(log).expect("it is a pipe");
            reads.recv().expect("the test goes on");
            let mut text = Vec::new();
            file.read_to_end(&mut text).expect("it can be read");
            text
        }
    });
    let mut fleet = with_proxy(fleet, "full", &log, &app("", "", &[backend.address()])).await;
    let requests = until_lines_are_dropped(&fleet).await;
    read.send(()).expect("it waits");
    eventually("every line has been dealt with", async || {
        let (written, dropped) = counted(&fleet).await;
        holds(written + dropped == requests, || format!("{written} + {dropped} of {requests}"))
    })
    .await;
    let (written, _) = counted(&fleet).await;
    fleet.proxies[0].process.signal(Signal::TERM);
    assert_eq!(fleet.proxies[0].process.exit_code().await, 0);
    let text = reader.join().expect("it reads to the end");
    assert_eq!(parse(&text).len() as f64, written, "and all of them are whole");
}

#[tokio::test]
async fn a_disk_that_is_full_costs_lines_and_no_requests() {
    let backend = Backend::named("here").await;
    let fleet = Fleet::empty().await;
    let full = Path::new("/dev/full");
    let fleet = with_proxy(fleet, "full", full, &app("", "", &[backend.address()])).await;
    for _ in 0..10 {
        assert_eq!(client::get(fleet.proxies[0].web(), "/").await.status(), 200);
    }
    eventually("the lines are counted", async || {
        let counted = counted(&fleet).await;
        holds(counted == (0.0, 10.0), || format!("{counted:?}"))
    })
    .await;
    let log = fleet.proxies[0].process.log();
    let complaints = log.lines().filter(|line| line.contains("access log cannot be written"));
    assert!((1..10).contains(&complaints.count()), "once in a while, and not for each line");
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_an_error_at_the_start() {
    let mut fleet = Fleet::empty().await;
    let args = ["--access-log=full".into(), "--access-log-to=/nowhere/access.json".into()];
    fleet.add_proxy("p1", &args);
    assert_eq!(fleet.proxies[0].process.exit_code().await, 1);
    let log = fleet.proxies[0].process.log();
    assert!(log.contains("--access-log-to /nowhere/access.json: No such file"), "{log}");
}

#[tokio::test]
async fn a_log_that_is_rotated_goes_on_in_the_new_file() {
    let backend = Backend::named("here").await;
    let (fleet, log) = logged(&app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    client::get(web, "/before").await;
    check(&line(&log).await, json!({ "path": "/before" }));

    let old = fleet.dir().join("access.json.1");
    fs::rename(&log, &old).expect("it is there");
    client::get(web, "/meanwhile").await;
    check(&lines(&old, 2).await[1], json!({ "path": "/meanwhile" }));
    fleet.proxies[0].process.signal(Signal::HUP);
    eventually("there is a new file", async || holds(log.exists(), || "not yet".into())).await;
    client::get(web, "/after").await;
    check(&line(&log).await, json!({ "path": "/after" }));
    lines(&old, 2).await;

    // The other way to rotate: a copy is made, and then the file is emptied.
    OpenOptions::new().write(true).truncate(true).open(&log).expect("it is there");
    client::get(web, "/emptied").await;
    check(&line(&log).await, json!({ "path": "/emptied" }));
}

#[tokio::test]
async fn a_hangup_does_not_end_a_proxy_that_has_no_log() {
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    fleet.proxies[0].process.signal(Signal::HUP);
    fleet.proxies[0].process.signal(Signal::TERM);
    assert_eq!(fleet.proxies[0].process.exit_code().await, 0);
}
