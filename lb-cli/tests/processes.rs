//! `lb control`, `lb proxy`, `lb backend` and `lb health`: a fleet out of the one binary.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use integration_tests::{
    backend::is_listening,
    client::{Client, Request, get},
    eventually::{eventually, holds},
    ports::Port,
    process::{Process, Signal},
};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lb"))
}

/// Runs `lb health` to its end.
fn health(target: &str) -> Output {
    let output = Command::new(program()).args(["health", target]).output();
    output.expect("it runs")
}

/// # Errors
/// What it says instead.
fn is_ready(admin: SocketAddr) -> Result<(), String> {
    let output = health(&admin.to_string());
    holds(output.status.code() == Some(0), || format!("{output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into()
}

#[tokio::test]
async fn one_binary_is_a_whole_fleet() {
    let dir = tempfile::tempdir().expect("a directory");
    let [grpc, admin, proxy_admin, web, backend] = std::array::from_fn(|_| Port::reserve());
    let file = dir.path().join("lb.toml");
    let spec = format!(
        "listeners = [{{ name = 'web', address = '{}' }}]
         routes = [{{ name = 'app', backend_set = 'app' }}]
         backend_sets = [{{ name = 'app', backends = [{{ address = '{}' }}] }}]",
        web.address(),
        backend.address()
    );
    fs::write(&file, spec).expect("it is our directory");
    let start = |name: &str, args: &[String]| Process::start(dir.path(), name, program(), args);

    let mut backend_process = start(
        "backend",
        &["backend".into(), format!("--listen={}", backend.address()), "--name=blue".into()],
    );
    let mut proxy = start(
        "proxy",
        &[
            "proxy".into(),
            "--id=p1".into(),
            format!("--control=http://{}", grpc.address()),
            format!("--admin={}", proxy_admin.address()),
            format!("--data-dir={}", dir.path().join("proxy-data").display()),
        ],
    );
    eventually("the proxy runs", async || {
        holds(is_listening(proxy_admin.address()).await, || proxy.log())
    })
    .await;
    let early = health(&proxy_admin.address().to_string());
    assert_eq!(early.status.code(), Some(1), "it has no controller yet: {early:?}");
    assert!(text(&early.stderr).contains("503: no routing table yet"), "{early:?}");

    let mut control = start(
        "control",
        &[
            "control".into(),
            format!("--grpc={}", grpc.address()),
            format!("--admin={}", admin.address()),
            format!("--config={}", file.display()),
        ],
    );
    eventually("the controller is ready", async || is_ready(admin.address())).await;
    eventually("the proxy is ready", async || is_ready(proxy_admin.address())).await;
    let ready = health(&format!("http://{}/", proxy_admin.address()));
    assert_eq!(text(&ready.stdout), "ready\n", "{ready:?}");
    let expected = format!("hello from blue ({})\n", backend.address());
    eventually("the backend is reached", async || {
        let answer = get(web.address(), "/").await;
        holds(answer.text() == expected, || format!("{answer:?}"))
    })
    .await;

    for process in [&mut proxy, &mut control, &mut backend_process] {
        process.signal(Signal::TERM);
        assert_eq!(process.exit_code().await, 0, "{}", process.name());
    }
}

#[tokio::test]
async fn a_backend_that_is_told_to_end_answers_what_it_has_begun() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = Port::reserve();
    let args = [format!("--listen={}", port.address())];
    let args: Vec<_> = std::iter::once("backend".to_owned()).chain(args).collect();
    let mut backend = Process::start(dir.path(), "backend", program(), &args);
    eventually("it listens", async || holds(is_listening(port.address()).await, || backend.log()))
        .await;
    // Two: one is in a request, and one is between two.
    let mut idle = Client::connect(port.address()).await;
    assert_eq!(idle.get("/").await.status(), 200);
    let mut busy = Client::connect(port.address()).await;
    assert_eq!(busy.get("/").await.status(), 200);
    busy.send(&Request::get("/slow?ms=300")).await;
    // It reads in the order in which things come, so by this answer it has begun that one.
    assert_eq!(get(port.address(), "/health").await.status(), 200);
    backend.signal(Signal::TERM);
    idle.expect_closed().await;
    assert!(busy.response().await.text().ends_with("slowly\n"));
    assert_eq!(backend.exit_code().await, 0);
}

#[test]
fn health_says_why_not_and_what_would_be_an_address() {
    let port = Port::reserve();
    let nobody = health(&port.address().to_string());
    assert_eq!(nobody.status.code(), Some(1));
    let expected = format!("lb: http://{}/readyz does not answer", port.address());
    assert!(text(&nobody.stderr).starts_with(&expected), "{nobody:?}");
    let wrong = health("7101");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("give an address like 127.0.0.1:7101"), "{wrong:?}");
}
