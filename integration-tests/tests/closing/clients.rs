//! Clients that end their side, go away, or reset.

use std::time::Duration;

use integration_tests::{
    backend::{Backend, Blackhole, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app, listening, tcp},
    ports::Port,
};
use tokio::time::timeout;

use super::{NO_EJECTION, silent_stream};

#[tokio::test]
async fn a_client_that_sends_no_more_is_answered_all_the_same() {
    let backend = Backend::start(|seen| match seen.head.target() {
        "/long" => Reply::ok(vec![b'x'; 10_000_000]),
        "/echo" => Reply::echo(seen),
        target => Reply::ok(target),
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let get = |path: &str| Request::get(path).to_bytes();
    let post = Request::post("/echo", "hello").to_bytes();
    let chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5\r\nhello\r\n0\r\n\r\n";
    let long = "x".repeat(10_000_000);
    let cases: Vec<(&str, Vec<u8>, Vec<&str>)> = vec![
        ("one", get("/a"), vec!["/a"]),
        ("two", [get("/a"), get("/b")].concat(), vec!["/a", "/b"]),
        ("ten", get("/a").repeat(10), vec!["/a"; 10]),
        ("a long answer", get("/long"), vec![&long]),
        ("one after a long answer", [get("/long"), get("/b")].concat(), vec![&long, "/b"]),
        ("with a body", post.clone(), vec!["hello"]),
        ("with chunks", chunked.to_vec(), vec!["hello"]),
        ("with a body, and one more", [post, get("/b")].concat(), vec!["hello", "/b"]),
        ("and half a head", [get("/a"), b"GET /b HT".to_vec()].concat(), vec!["/a"]),
        ("of HTTP/1.0", b"GET /a HTTP/1.0\r\n\r\n".to_vec(), vec!["/a"]),
    ];
    for (what, bytes, expected) in cases {
        let mut client = Client::connect(web).await;
        client.send_raw(&bytes).await;
        client.wire.half_close().await.expect("it is open");
        let rest = within(PATIENCE, what, client.wire.rest()).await;
        let rest = rest.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut read = Client::replay(rest, vec![]);
        for text in expected {
            let answer = read.response().await;
            let (got, wanted) = (answer.body.bytes.len(), text.len());
            assert!(answer.text() == *text, "{what}: {got} bytes instead of {wanted}: {answer:?}");
        }
        // Half a head may be told that it is one.
        let more = read.try_response().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let may = what == "and half a head" && more.as_ref().is_some_and(|m| m.status() == 400);
        assert!(more.is_none() || may, "{what}: {more:?}");
    }
    fleet.nothing_is_left().await;
}

/// Each of them comes soon; that all of them take longer is nobody's impatience.
#[tokio::test]
async fn a_client_that_sends_no_more_is_answered_all_it_asked_though_that_takes_a_while() {
    let backend = Backend::script(|mut wire, _| async move {
        while let Ok(Some(head)) = wire.head().await {
            tokio::time::sleep(Duration::from_millis(900)).await;
            let (target, length) = (head.target(), head.target().len());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
            let _ = wire.send(answer).await;
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let paths = ["/a", "/b", "/c", "/d"];
    let requests: Vec<_> = paths.iter().flat_map(|path| Request::get(path).to_bytes()).collect();
    client.send_raw(requests).await;
    client.wire.half_close().await.expect("it is open");
    for path in paths {
        assert_eq!(client.response().await.text(), path);
    }
    client.expect_closed().await;
}

#[tokio::test]
async fn clients_that_send_just_when_they_are_to_be_let_go_stop_nobody() {
    integration_tests::raise_descriptor_limit();
    let backend = Backend::named("here").await;
    let spec = listening(&app("", "", &[backend.address()]), "idle_timeout = '1s'");
    let mut fleet = Fleet::empty().await;
    let port = Port::reserve();
    fleet.add_proxy("p1", &["--workers=1".into(), format!("--listen=web={}", port.address())]);
    fleet.apply(&spec).await;
    for _ in 0..3 {
        let mut idle = Vec::new();
        for _ in 0..1_000 {
            let mut client = Client::connect(port.address()).await;
            client.get("/").await;
            idle.push(client);
        }
        // The first one is let go, and so are all others in a moment.
        let mut first = idle.remove(0);
        first.expect_closed().await;
        for client in &mut idle {
            let _ = client.wire.send("G").await;
        }
        assert_eq!(client::get(port.address(), "/").await.text(), "here");
    }
}

#[tokio::test]
async fn a_client_that_sends_no_more_is_not_waited_for_for_ever() {
    let backend = Backend::start(|_| Reply::Hang).await;
    let fleet = Fleet::start(1, &app("timeout = '10m'", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    client.wire.half_close().await.expect("it is open");
    eventually("its request is cancelled", async || {
        holds(backend.abandoned() == 1, || format!("{} wait", backend.waiting()))
    })
    .await;
    within(PATIENCE, "its connection ends", client.wire.closed()).await;
    fleet.idle().await;
}

#[tokio::test]
async fn a_stream_whose_client_went_away_is_ended() {
    for how in ["ends", "resets", "ends after more requests than are read ahead"] {
        println!("the client {how}");
        let gone = Gate::closed();
        let backend = silent_stream(gone.clone()).await;
        let route = "stream_idle_timeout = '0s'";
        let fleet = Fleet::start(1, &app(route, "", &[backend.address()])).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send(&Request::get("/")).await;
        client.wire.head().await.expect("HTTP").expect("an answer");
        assert_eq!(client.wire.exactly(12).await.expect("a chunk"), b"7\r\ndata: 1\r\n");
        match how {
            "ends" => drop(client),
            "resets" => client.wire.reset(),
            _ => {
                client.send_raw(Request::get("/").to_bytes().repeat(2_000)).await;
                drop(client);
            }
        }
        within(PATIENCE, "the backend's stream ends", gone.passed()).await;
        fleet.idle().await;
    }
}

#[tokio::test]
async fn a_client_that_resets_is_gone_whatever_it_was_doing() {
    let backend = Backend::start(|_| Reply::Hang).await;
    let fleet = Fleet::start(1, &app("timeout = '10m'", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    for begun in [
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let mut client = Client::connect(web).await;
        client.send_raw(begun).await;
        eventually("it is under way", async || {
            let open = fleet.proxies[0].open_connections().await;
            let asked = !begun.starts_with("GET / HTTP") || backend.waiting() == 1;
            holds(open == 1 && asked, || format!("{open} open, {} wait", backend.waiting()))
        })
        .await;
        client.wire.reset();
        eventually(&format!("{begun:?}: both sides are closed"), async || {
            let open = fleet.proxies[0].open_connections().await;
            let state = (open, backend.waiting(), backend.open_connections());
            holds(state == (0, 0, 0), || format!("{state:?}"))
        })
        .await;
    }
    fleet.idle().await;
}

/// What has come of it waits for the backend, and nobody reads on.
#[tokio::test]
async fn a_client_that_resets_while_its_backend_takes_nothing_is_gone() {
    let backend = Backend::script(|mut wire, _| async move {
        let _ = wire.peek().await;
        std::future::pending::<()>().await;
    })
    .await;
    let port = Port::reserve();
    let http = app("timeout = '10m'", NO_EJECTION, &[backend.address()]);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    for (spec, first) in [(http, head), (tcp(port.address(), "", backend.address()), "")] {
        let fleet = Fleet::start(1, &spec).await;
        let proxy = &fleet.proxies[0];
        let mut client =
            Client::connect(if first.is_empty() { port.address() } else { proxy.web() }).await;
        client.send_raw(first).await;
        let piece = vec![b'x'; 64 * 1024];
        // Until nobody takes more.
        while let Ok(sent) = timeout(Duration::from_millis(300), client.wire.send(&piece)).await {
            sent.expect("it is open");
        }
        assert_eq!(proxy.open_connections().await, 1);
        client.wire.reset();
        eventually("it is gone", async || {
            let open = proxy.open_connections().await;
            holds(open == 0, || format!("{open} open"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_goes_while_its_backend_is_connected_to_is_gone_at_once() {
    let hole = Blackhole::start().await;
    let set = "connect_timeout = '10m'\noutlier_ejection = { disabled = true }";
    let fleet = Fleet::start(1, &app("timeout = '10m'", set, &[hole.address()])).await;
    let web = fleet.proxies[0].web();
    for request in [Request::get("/"), Request::post("/", "x")] {
        let mut client = Client::connect(web).await;
        client.send(&request).await;
        eventually("it is under way", async || {
            let metrics = fleet.proxies[0].metrics().await;
            let (connects, open) = (
                metrics.sum("lb_proxy_connects_total", &[]),
                fleet.proxies[0].open_connections().await,
            );
            holds(connects >= 1.0 && open == 1, || format!("{connects} connects, {open} open"))
        })
        .await;
        client.wire.reset();
        fleet.nothing_is_left().await;
    }
    assert_eq!(fleet.proxies[0].blamed().await, 0.0);
}

#[tokio::test]
async fn a_client_that_goes_while_its_next_attempt_is_waited_for_is_gone_at_once() {
    let backend = Backend::start(|_| Reply::status(503, "")).await;
    let route = "timeout = '24h'\nretry = { on = ['5xx'], backoff = '1h', budget_percent = 100 }";
    let fleet = Fleet::start(1, &app(route, "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::new("PUT", "/").body("x")).await;
    eventually("it was tried once", async || {
        holds(backend.count() == 1, || format!("{} requests", backend.count()))
    })
    .await;
    client.wire.reset();
    fleet.nothing_is_left().await;
    assert_eq!(backend.count(), 1);
}
