//! `lb run`: serves what a file says, follows the file, and ends in order.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use integration_tests::{
    backend::{Backend, Gate, Reply, is_listening},
    certs::Ca,
    client::{Client, Request, get},
    curl,
    eventually::{eventually, holds},
    grpcurl::Grpcurl,
    ports::Port,
    process::{Process, Signal},
};
use serde_json::json;
use tempfile::TempDir;

/// One `lb run`, with a listener of its own.
struct Run {
    process: Process,
    port: Port,
    file: PathBuf,
    dir: TempDir,
}

const FREE_PORTS: [&str; 3] =
    ["--grpc=127.0.0.1:0", "--admin=127.0.0.1:0", "--proxy-admin=127.0.0.1:0"];

impl Run {
    /// Serves `backend`, and returns when it does. What it keeps goes with the test, however that
    /// ends.
    async fn start(backend: SocketAddr, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = format!("--data-dir={}", dir.path().join("data").display());
        let args: Vec<_> = args.iter().copied().chain([data.as_str()]).collect();
        Self::start_in(dir, backend, &args).await
    }

    async fn start_in(dir: TempDir, backend: SocketAddr, args: &[&str]) -> Self {
        let file = dir.path().join("lb.toml");
        let port = Port::reserve();
        fs::write(&file, spec(port.address(), backend)).expect("it is our directory");
        let program = Path::new(env!("CARGO_BIN_EXE_lb"));
        let mut all = vec!["run", file.to_str().expect("its path is text")];
        all.extend(FREE_PORTS.iter().chain(args));
        let process = Process::start(dir.path(), "lb-run", program, &all);
        let mut run = Self { process, port, file, dir };
        run.says(&format!("lb: serving http://{} (listener web)\n", run.port.address())).await;
        run
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    async fn says(&mut self, part: &str) {
        eventually(&format!("it says {part:?}"), async || {
            assert!(self.process.is_running(), "it ended");
            holds(self.process.log().contains(part), || self.process.log())
        })
        .await;
    }

    /// Waits for its listener: of a file that is wrong it speaks before it opens one.
    async fn listens(&self) {
        eventually("it listens", async || {
            holds(is_listening(self.address()).await, || "it does not".into())
        })
        .await;
    }

    /// Puts the file there whole, as careful editors do.
    fn edit(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).expect("it is our directory");
        fs::rename(&new, &self.file).expect("it is our directory");
    }

    async fn answers(&self, body: &str) {
        eventually(&format!("it answers {body:?}"), async || {
            let answer = get(self.address(), "/").await;
            holds(answer.text() == body, || format!("{} {}", answer.status(), answer.text()))
        })
        .await;
    }
}

fn spec(listener: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "[[listeners]]\nname = \"web\"\naddress = \"{listener}\"\n\n\
         [[routes]]\nname = \"app\"\nbackend_set = \"app\"\n\n\
         [[backend_sets]]\nname = \"app\"\nbackends = [{{ address = \"{backend}\" }}]\n"
    )
}

fn lb_run(file: &Path) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_lb"))
        .arg("run")
        .arg(file)
        .args(FREE_PORTS)
        .output()
        .expect("there is an lb");
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into())
}

#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_wrong_one_is_not() {
    let (old, new) = (Backend::named("old").await, Backend::named("new").await);
    let mut run = Run::start(old.address(), &[]).await;
    run.answers("old").await;

    let good = spec(run.address(), new.address());
    run.edit(&good);
    run.answers("new").await;

    run.edit(&good.replace("backend_set = \"app\"", "backend_set = \"api\""));
    run.says("routes[app].backend_set: no backend set is called \"api\"; there are app").await;
    assert_eq!(get(run.address(), "/").await.text(), "new");

    run.edit(&spec(run.address(), old.address()));
    run.answers("old").await;
}

#[tokio::test]
async fn a_listener_that_the_file_drops_goes_and_a_new_one_comes() {
    let backend = Backend::named("it").await;
    let run = Run::start(backend.address(), &[]).await;
    let other = Port::reserve();
    run.edit(&spec(other.address(), backend.address()));
    eventually("the new address serves and the old one is closed", async || {
        let now = (is_listening(run.address()).await, is_listening(other.address()).await);
        holds(now == (false, true), || format!("{now:?}"))
    })
    .await;
    assert_eq!(get(other.address(), "/").await.text(), "it");
}

#[tokio::test]
async fn sighup_reads_the_file_again() {
    let (old, new) = (Backend::named("old").await, Backend::named("new").await);
    let mut run = Run::start(old.address(), &[]).await;
    run.edit(&spec(run.address(), new.address()));
    run.process.signal(Signal::HUP);
    run.answers("new").await;
    run.edit("nonsense");
    run.process.signal(Signal::HUP);
    run.says("lb.toml").await;
    assert_eq!(get(run.address(), "/").await.text(), "new");
    assert!(run.process.is_running(), "SIGHUP does not end it");
}

#[tokio::test]
async fn sigterm_lets_a_request_finish() {
    let gate = Gate::closed();
    let reply = gate.clone();
    let backend = Backend::start(move |_| Reply::ok("late").behind(&reply)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut run = Run::start_in(dir, backend.address(), &[]).await;

    let mut client = Client::connect(run.address()).await;
    client.send(&Request::get("/")).await;
    eventually("the request arrives", async || {
        holds(backend.waiting() == 1, || backend.waiting().to_string())
    })
    .await;
    run.process.signal(Signal::TERM);
    eventually("it accepts no more", async || {
        holds(!is_listening(run.address()).await, || "it accepts".into())
    })
    .await;
    assert!(run.process.is_running(), "a request is under way");
    gate.open();

    let response = client.response().await;
    assert_eq!((response.status(), response.text().as_str()), (200, "late"));
    assert_eq!(run.process.exit_code().await, 0);
}

#[tokio::test]
async fn the_exit_code_says_that_a_request_was_cut() {
    let backend = Backend::start(|_| Reply::Hang).await;
    let mut run = Run::start(backend.address(), &["--drain-timeout=100ms"]).await;
    let mut client = Client::connect(run.address()).await;
    client.send(&Request::get("/")).await;
    eventually("the request arrives", async || {
        holds(backend.count() == 1, || backend.count().to_string())
    })
    .await;
    run.process.signal(Signal::TERM);
    assert_eq!(run.process.exit_code().await, 3);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let backend = Backend::start(|_| Reply::Hang).await;
        let mut run = Run::start(backend.address(), &["--drain-timeout=1h"]).await;
        let mut client = Client::connect(run.address()).await;
        client.send(&Request::get("/")).await;
        eventually("the request arrives", async || {
            holds(backend.count() == 1, || backend.count().to_string())
        })
        .await;
        run.process.signal(signal);
        run.says("draining").await;
        run.process.signal(signal);
        assert_eq!(run.process.exit_code().await, code);
    }
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lb.toml");
    fs::write(&file, "[[listeners]]\nname = \"web\"\naddress = \"8080\"\n").expect("it is ours");
    let expected = format!(
        "{}:3:1: listeners[web].address: \"8080\" is not valid; give an IP address and a port, \
         \"127.0.0.1:3001\"\n",
        file.display()
    );
    assert_eq!(lb_run(&file), (Some(1), expected), "a wrong file");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    fs::write(&file, spec(address, address)).expect("it is ours");
    let (code, said) = lb_run(&file);
    let expected = format!("lb: listener web cannot listen on {address}: ");
    assert!(said.starts_with(&expected) && said.contains("in use"), "a port that is taken: {said}");
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn a_data_directory_keeps_what_was_decided() {
    let backend = Backend::named("it").await;
    let mut run = Run::start(backend.address(), &[]).await;
    run.process.signal(Signal::TERM);
    assert_eq!(run.process.exit_code().await, 0);
    for part in ["control", "proxy"] {
        let files =
            fs::read_dir(run.dir.path().join("data").join(part)).expect("it is a directory");
        assert_ne!(files.count(), 0, "{part} has something in it");
    }
    run.process.restart();
    run.listens().await;
    run.answers("it").await;
}

#[tokio::test]
async fn a_file_that_is_wrong_at_a_start_is_told_and_what_was_decided_goes_on() {
    let backend = Backend::named("it").await;
    let mut run = Run::start(backend.address(), &[]).await;
    run.process.signal(Signal::TERM);
    assert_eq!(run.process.exit_code().await, 0);
    let text = spec(run.address(), backend.address());
    run.edit(&text.replace("backend_set = \"app\"", "backend_set = \"api\""));
    run.process.restart();
    run.says("routes[app].backend_set: no backend set is called \"api\"; there are app").await;
    run.listens().await;
    run.answers("it").await;
    // And it is followed from then on.
    let other = Backend::named("mended").await;
    run.edit(&spec(run.address(), other.address()));
    run.answers("mended").await;
}

#[tokio::test]
async fn what_the_api_changed_outlives_a_restart_with_the_same_file() {
    let backend = Backend::named("it").await;
    let mut run = Run::start(backend.address(), &[]).await;
    let other = Port::reserve();
    let log = run.process.log();
    let (_, api) = log.split_once("grpc://").expect("it says where its API is");
    let api = api.split(',').next().and_then(|api| api.parse().ok()).expect("it is an address");
    let moved = json!({ "listeners": [{ "name": "web", "address": other.address().to_string() }] });
    Grpcurl(api).ok("Apply", &moved).await;

    run.process.signal(Signal::TERM);
    assert_eq!(run.process.exit_code().await, 0);
    run.process.restart();
    run.says(&format!("lb: serving http://{} (listener web)\n", other.address())).await;
    assert_eq!(get(other.address(), "/").await.text(), "it");
}

#[tokio::test]
async fn a_listener_with_tls_is_served_from_files_beside_the_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, port) = (Ca::new("a test's"), Port::reserve());
    let pair = ca.sign(&["a.test"]);
    let both = [pair.cert, pair.key].concat();
    fs::write(dir.path().join("both.pem"), both).expect("it is our directory");
    let (file, address) = (dir.path().join("lb.toml"), port.address());
    let text = format!(
        "certificates = [{{ name = 'a', cert = 'both.pem', key = 'both.pem' }}]\n\
         routes = [{{ name = 'hi', answer = {{ status = 200, body = 'hi' }} }}]\n\
         [[listeners]]\nname = 'web'\naddress = '{address}'\ntls = {{ certificates = ['a'] }}\n"
    );
    fs::write(&file, text).expect("it is our directory");
    let program = Path::new(env!("CARGO_BIN_EXE_lb"));
    let mut all = vec!["run", file.to_str().expect("its path is text")];
    all.extend(FREE_PORTS);
    let process = Process::start(dir.path(), "lb-run", program, &all);
    let mut run = Run { process, port, file, dir };
    run.says(&format!("lb: serving https://{address} (listener web)\n")).await;
    let pem = ca.write(run.dir.path());
    let answer = curl::https(address, "a.test", "/", &pem, &[]).await;
    assert_eq!((answer.status, &*answer.body), (200, "hi"), "{}", answer.log);
}
