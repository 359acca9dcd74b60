//! Health checks: what is asked, what is decided, and who learns of it.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use integration_tests::{
    backend::{Backend, Reply},
    client,
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    ports::Port,
};
use lb_proto::v1::{BackendStatus, Health};
use tonic_health::{ServingStatus, server::HealthReporter};

fn healthy(status: &BackendStatus) -> bool {
    status.health() == Health::Healthy
}

fn unhealthy(status: &BackendStatus) -> bool {
    status.health() == Health::Unhealthy
}

/// Waits until both proxies run the same as the controller, by their own words.
async fn applied_by_all(fleet: &Fleet) {
    let list = fleet.settled(0).await;
    for proxy in &list.proxies {
        assert_eq!((proxy.version, &proxy.hash), (list.version, &list.hash), "{list:?}");
    }
    for proxy in &fleet.proxies {
        let running = proxy.table().await["running"].clone();
        assert_eq!(running["hash"], list.hash, "{} says something else", proxy.id);
    }
}

async fn answers(fleet: &Fleet) -> Vec<String> {
    let mut texts = Vec::new();
    for proxy in &fleet.proxies {
        for _ in 0..6 {
            texts.push(client::get(proxy.web(), "/").await.text());
        }
    }
    texts
}

#[tokio::test]
async fn a_backend_that_fails_its_http_checks_is_left_alone_by_all_proxies() {
    let status = Arc::new(AtomicU16::new(200));
    let shared = Arc::clone(&status);
    let sick = Backend::start(move |seen| match seen.head.target() {
        "/alive?full=1" => Reply::status(shared.load(SeqCst), ""),
        _ => Reply::ok("sick"),
    })
    .await;
    let well = Backend::named("well").await;
    let check = "health_check = { http = '/alive?full=1', interval = '50ms', host = 'check.test',
                   headers = { x-check = '1' }, statuses = ['200', '3xx'] }";
    let fleet = Fleet::start(2, &app("", check, &[sick.address(), well.address()])).await;
    let found = fleet.backend_is(sick.address(), "healthy", healthy).await;
    assert_eq!(found.why, "status 200");

    status.store(503, SeqCst);
    let found = fleet.backend_is(sick.address(), "unhealthy", unhealthy).await;
    assert_eq!(found.why, "status 503, expected 200 or 3xx");
    let probe = found.last_probe.clone().expect("it was probed");
    assert!(!probe.passed && probe.took.is_some() && found.since.is_some(), "{found:?}");
    applied_by_all(&fleet).await;
    assert!(answers(&fleet).await.iter().all(|text| text == "well"));

    status.store(301, SeqCst);
    fleet.backend_is(sick.address(), "healthy", healthy).await;
    applied_by_all(&fleet).await;
    assert!(answers(&fleet).await.iter().any(|text| text == "sick"));
}

#[tokio::test]
async fn a_check_is_sent_as_it_was_asked_for() {
    let (sender, mut probes) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::start(move |seen| {
        let _ = sender.send(seen.head.clone());
        Reply::ok("")
    })
    .await;
    let check = "health_check = { http = '/alive', interval = '50ms', host = 'check.test',
                   headers = { x-check = '1' } }";
    let _fleet = Fleet::start(1, &app("", check, &[backend.address()])).await;
    let head = probes.recv().await.expect("it is probed");
    assert_eq!(head.start, "GET /alive HTTP/1.1");
    assert_eq!(head.fields.get("host"), Some("check.test"));
    assert_eq!(head.fields.get("x-check"), Some("1"));
}

#[tokio::test]
async fn a_check_goes_to_another_port_and_looks_into_what_comes_from_there() {
    let ready = Arc::new(AtomicU16::new(0));
    let shared = Arc::clone(&ready);
    let traffic = Backend::named("traffic").await;
    let checked = Backend::start(move |_| {
        Reply::ok(if shared.load(SeqCst) == 0 { "starting" } else { "is ready" })
    })
    .await;
    let port = checked.address().port();
    let check = format!(
        "health_check = {{ port = {port}, expect_body = 'ready', interval = '50ms', timeout = '5s' }}"
    );
    let fleet = Fleet::start(1, &app("", &check, &[traffic.address()])).await;
    let found = fleet.backend_is(traffic.address(), "unhealthy", unhealthy).await;
    assert_eq!(found.why, "status 200, of its body expected \"ready\", got \"starting\"");
    ready.store(1, SeqCst);
    fleet.backend_is(traffic.address(), "healthy", healthy).await;
    assert_eq!(traffic.probes(), 0, "nobody asked it");
}

#[tokio::test]
async fn a_tcp_check_may_say_something_and_look_for_an_answer() {
    let backend = Backend::script(|mut wire, _| async move {
        let ping = wire.exactly(6).await.expect("the check speaks first");
        assert_eq!(ping, b"PING\r\n");
        wire.send("+PONG\r\n").await.expect("the check listens");
        wire.closed().await;
    })
    .await;
    let check = r#"health_check = { tcp = true, send = "PING\r\n", expect = "+PONG", interval = "50ms",
                     timeout = "5s" }"#;
    let fleet = Fleet::start(1, &app("", check, &[backend.address()])).await;
    let found = fleet.backend_is(backend.address(), "healthy", healthy).await;
    assert_eq!(found.why, "answered \"+PONG\"");
}

#[tokio::test]
async fn one_failure_among_passes_changes_nothing() {
    let backend = {
        let count = AtomicU16::new(0);
        Backend::start(move |_| {
            let fails = count.fetch_add(1, SeqCst) % 3 == 2;
            Reply::status(if fails { 500 } else { 200 }, "")
        })
        .await
    };
    let check = "health_check = { interval = '20ms', healthy_after = 2, unhealthy_after = 2 }";
    let fleet = Fleet::start(1, &app("", check, &[backend.address()])).await;
    let before = fleet.backend_is(backend.address(), "healthy", healthy).await;
    let probed = backend.probes();
    eventually("there were thirty probes more", async || {
        holds(backend.probes() >= probed + 30, || format!("{}", backend.probes()))
    })
    .await;
    let after = fleet.backend_is(backend.address(), "healthy", healthy).await;
    assert_eq!(before.since, after.since, "it never was anything else");
}

#[tokio::test]
async fn a_backend_that_hangs_fails_its_checks_by_their_timeout() {
    let backend = Backend::start(|seen| match seen.head.target() {
        "/health" => Reply::Hang,
        _ => Reply::ok(""),
    })
    .await;
    let check = "health_check = { interval = '50ms', timeout = '100ms' }";
    let fleet = Fleet::start(1, &app("", check, &[backend.address()])).await;
    let found = fleet.backend_is(backend.address(), "unhealthy", unhealthy).await;
    assert_eq!(found.why, "no answer within 100ms");
}

#[tokio::test]
async fn a_tcp_check_needs_nothing_but_a_connection() {
    let backend = Backend::script(|mut wire, _| async move { wire.closed().await }).await;
    let address = backend.address();
    let check = "health_check = { tcp = true, interval = '50ms' }";
    let fleet = Fleet::start(2, &app("", check, &[address])).await;
    let found = fleet.backend_is(address, "healthy", healthy).await;
    assert_eq!(found.why, "connected");

    let port = backend.stop().await;
    let found = fleet.backend_is(address, "unhealthy", unhealthy).await;
    assert_eq!(found.why, "connection refused");
    applied_by_all(&fleet).await;

    let _back = Backend::start_at(port, |_| Reply::ok("")).await;
    fleet.backend_is(address, "healthy", healthy).await;
    applied_by_all(&fleet).await;
}

/// A server that only answers `grpc.health.v1`.
async fn grpc_backend() -> (Port, HealthReporter, tokio::task::JoinSet<()>) {
    let port = Port::reserve();
    let listener = port.listen().await;
    let (reporter, service) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.expect("it serves until it is dropped");
    });
    (port, reporter, task)
}

#[tokio::test]
async fn a_grpc_check_asks_for_its_service() {
    let (port, reporter, _task) = grpc_backend().await;
    let (up, down) = (ServingStatus::Serving, ServingStatus::NotServing);
    reporter.set_service_status("shop", up).await;
    let check = "health_check = { grpc = 'shop', interval = '50ms' }";
    let fleet = Fleet::start(2, &app("", check, &[port.address()])).await;
    let found = fleet.backend_is(port.address(), "healthy", healthy).await;
    assert_eq!(found.why, "SERVING");

    reporter.set_service_status("shop", down).await;
    let found = fleet.backend_is(port.address(), "unhealthy", unhealthy).await;
    assert_eq!(found.why, "NOT_SERVING, expected SERVING");
    applied_by_all(&fleet).await;

    reporter.set_service_status("shop", up).await;
    fleet.backend_is(port.address(), "healthy", healthy).await;
    applied_by_all(&fleet).await;
}

#[tokio::test]
async fn a_backend_without_a_verdict_is_used_unless_it_has_to_prove_itself_first() {
    let backend = Backend::start(|seen| match seen.head.target() {
        "/health" => Reply::Hang,
        _ => Reply::ok("used"),
    })
    .await;
    // No verdict comes as long as a probe lasts.
    let check = |more: &str| format!("health_check = {{ timeout = '60s'{more} }}");
    let fleet = Fleet::start(1, &app("", &check(""), &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    assert_eq!(client::get(web, "/").await.text(), "used");
    fleet.backend_is(backend.address(), "unknown", |s| s.health() == Health::Unknown).await;

    fleet.apply(&app("", &check(", prove_first = true"), &[backend.address()])).await;
    assert_eq!(client::get(web, "/").await.status(), 503);
}

#[tokio::test]
async fn checks_that_fail_for_most_of_a_set_take_half_of_it_out() {
    let well = Backend::start(|_| Reply::ok("served")).await;
    let sick = |seen: &integration_tests::backend::Seen| match seen.head.target() {
        "/health" => Reply::status(500, ""),
        _ => Reply::ok("served"),
    };
    let others =
        [Backend::start(sick).await, Backend::start(sick).await, Backend::start(sick).await];
    let addresses: Vec<_> = [&well].into_iter().chain(&others).map(Backend::address).collect();
    let check = "health_check = { interval = '50ms', unhealthy_after = 2 }";
    let fleet = Fleet::start(2, &app("", check, &addresses)).await;
    for backend in &others {
        fleet.backend_is(backend.address(), "unhealthy", unhealthy).await;
    }
    applied_by_all(&fleet).await;
    let set = fleet.backend_sets().await.remove(0);
    assert_eq!((set.usable, set.held), (2, 1));
    assert!(answers(&fleet).await.iter().all(|text| text == "served"));
}
