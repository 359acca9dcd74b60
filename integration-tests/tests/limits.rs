//! Limits of connections, heads and bodies: what one does to whoever reaches it, and to nobody else.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use integration_tests::{
    access_log::{check, line, with_proxy},
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request, Response},
    eventually::{eventually, holds},
    fleet::{Fleet, app, app_with, listening, tcp},
    ports::Port,
};
use serde_json::json;

/// One proxy with an access log, before one backend.
async fn fleet(listener: &str, route: &str, backend: &Backend) -> (Fleet, PathBuf) {
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let spec = listening(&app_with(route, "", &backend.entry("one")), listener);
    (with_proxy(fleet, "full", &log, &spec).await, log)
}

#[track_caller]
fn refused(answer: &Response, status: u16, error: &str) {
    let got = (answer.status(), answer.proxy_error(), answer.header("connection"));
    assert_eq!(got, (status, Some(error), Some("close")), "{answer:?}");
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_the_others_go_on() {
    let gate = Gate::closed();
    let backend = Backend::holding(&gate, |seen| Reply::ok(seen.head.target())).await;
    let (fleet, _log) = fleet("max_connections = 3", "", &backend).await;
    let proxy = &fleet.proxies[0];
    let mut busy = Vec::new();
    for i in 1..=3 {
        let mut client = Client::connect(proxy.web()).await;
        client.send(&Request::get("/held")).await;
        backend.has_waiting(i).await;
        busy.push(client);
    }
    for i in 1..=2 {
        let mut client = Client::connect(proxy.web()).await;
        client.send(&Request::get("/more")).await;
        refused(&client.response().await, 503, "connection_limit_reached");
        client.expect_closed().await;
        assert_eq!(proxy.limit_hits("max_connections").await, i);
    }
    gate.open();
    for client in &mut busy {
        assert_eq!(client.response().await.text(), "held");
    }
    // The first one idles longest now, so it makes room.
    for client in &mut busy[1..] {
        assert_eq!(client.get("/again").await.text(), "/again");
    }
    assert_eq!(client::get(proxy.web(), "/room").await.text(), "/room");
    let mut closed = busy.remove(0);
    closed.expect_closed().await;
    for client in &mut busy {
        assert_eq!(client.get("/kept").await.text(), "/kept");
    }
    assert_eq!(backend.count(), 8, "the refused ones reached nobody");
    fleet.idle().await;
}

/// Each takes the place of one that idles, and none is forgotten.
#[tokio::test]
async fn however_many_connections_come_and_go_no_more_than_the_limit_are_open() {
    let backend = Backend::named("here").await;
    for limit in ["max_connections = 2", "max_connections_per_client = 2"] {
        let (fleet, _log) = fleet(limit, "", &backend).await;
        let proxy = &fleet.proxies[0];
        let mut all = Vec::new();
        for i in 0..10 {
            let mut client = Client::connect(proxy.web()).await;
            assert_eq!(client.get("/").await.text(), "here", "{limit}, {i}");
            all.push(client);
            eventually("what made room is closed", async || {
                let open = proxy.open_connections().await;
                holds(open <= 2, || format!("{limit}: {open} open after {i}"))
            })
            .await;
        }
        drop(all);
        fleet.idle().await;
    }
}

#[tokio::test]
async fn one_client_takes_no_more_than_its_own_connections() {
    let gate = Gate::closed();
    let backend = Backend::holding(&gate, |seen| Reply::ok(seen.head.target())).await;
    let (fleet, _log) = fleet("max_connections_per_client = 2", "", &backend).await;
    let proxy = &fleet.proxies[0];
    let from = |n| Ipv4Addr::new(127, 0, 0, n);
    let mut busy = Vec::new();
    for i in 1..=2 {
        let mut client = Client::connect_from(from(1), proxy.web()).await;
        client.send(&Request::get("/held")).await;
        backend.has_waiting(i).await;
        busy.push(client);
    }
    let mut third = Client::connect_from(from(1), proxy.web()).await;
    third.send(&Request::get("/more")).await;
    refused(&third.response().await, 503, "connection_limit_reached");
    assert_eq!(proxy.limit_hits("max_connections_per_client").await, 1);
    for other in [2, 3] {
        let mut client = Client::connect_from(from(other), proxy.web()).await;
        assert_eq!(client.get("/other").await.text(), "/other");
    }
    gate.open();
    for client in &mut busy {
        assert_eq!(client.response().await.text(), "held");
    }
    let mut next = Client::connect_from(from(1), proxy.web()).await;
    assert_eq!(next.get("/room").await.text(), "/room");
    fleet.idle().await;
}

/// Both limits are reached: who has too many itself makes room, and nobody else.
#[tokio::test]
async fn a_client_with_too_many_connections_takes_nobody_elses_place() {
    let backend = Backend::named("here").await;
    let limits = "max_connections = 3\nmax_connections_per_client = 2";
    let (fleet, _log) = fleet(limits, "", &backend).await;
    let web = fleet.proxies[0].web();
    // The first one is the one that idles longest.
    let mut other = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), web).await;
    assert_eq!(other.get("/").await.text(), "here");
    let mut greedy = Vec::new();
    for _ in 0..6 {
        let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 0, 3), web).await;
        assert_eq!(client.get("/").await.text(), "here");
        greedy.push(client);
    }
    assert_eq!(other.get("/").await.text(), "here", "it was not closed");
    fleet.idle().await;
}

#[tokio::test]
async fn a_tcp_connection_too_many_is_closed() {
    let backend = Backend::script(|mut wire, _| async move {
        while let Ok(bytes) = wire.some().await {
            if bytes.is_empty() || wire.send(bytes).await.is_err() {
                return;
            }
        }
    })
    .await;
    let port = Port::reserve();
    let fleet =
        Fleet::start(1, &tcp(port.address(), "max_connections = 2", backend.address())).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(port.address()).await;
        client.send_raw("x").await;
        assert_eq!(client.wire.exactly(1).await.expect("it is carried"), b"x");
        kept.push(client);
    }
    let mut more = Client::connect(port.address()).await;
    more.expect_closed().await;
    assert_eq!(fleet.proxies[0].limit_hits("max_connections").await, 1);
    for client in &mut kept {
        client.send_raw("y").await;
        assert_eq!(client.wire.exactly(1).await.expect("it is carried"), b"y");
    }
    assert_eq!(backend.connections(), 2);
    kept.pop();
    eventually("there is room again", async || {
        let mut client = Client::connect(port.address()).await;
        let _ = client.wire.send("z").await;
        let got = client.wire.exactly(1).await.map_err(|error| error.to_string())?;
        holds(got == b"z", || format!("{got:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_connection_ends_after_so_many_requests() {
    let backend = Backend::named("here").await;
    let (fleet, _log) = fleet("max_requests_per_connection = 3", "", &backend).await;
    let proxy = &fleet.proxies[0];
    let mut client = Client::connect(proxy.web()).await;
    for connection in [None, None, Some("close")] {
        let answer = client.get("/").await;
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("here", connection));
    }
    client.expect_closed().await;
    assert_eq!(proxy.limit_hits("max_requests_per_connection").await, 1);

    // What is pipelined after them is not served, so that it can be sent again.
    let mut client = Client::connect(proxy.web()).await;
    client.send_raw(Request::get("/").to_bytes().repeat(5)).await;
    for _ in 0..3 {
        assert_eq!(client.response().await.text(), "here");
    }
    client.expect_closed().await;
    assert_eq!(backend.count(), 6);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413() {
    let backend = Backend::start(Reply::echo).await;
    let (fleet, _log) = fleet("", "max_request_bytes = 10", &backend).await;
    let proxy = &fleet.proxies[0];
    let head = |framing: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");

    // As early as its length tells.
    let mut client = Client::connect(proxy.web()).await;
    client.send_raw(head("Content-Length: 11")).await;
    refused(&client.response().await, 413, "http_request_error");
    client.expect_closed().await;
    let mut client = Client::connect(proxy.web()).await;
    client.send_raw(head("Content-Length: 11\r\nExpect: 100-continue")).await;
    let answer = client.response().await;
    refused(&answer, 413, "http_request_error");
    assert!(answer.informational.is_empty(), "{answer:?}");
    assert_eq!(backend.connections(), 0);

    // Otherwise when it has come.
    let mut client = Client::connect(proxy.web()).await;
    let chunks = "6\r\nhello \r\n6\r\nworld!\r\n";
    client.send_raw(format!("{}{chunks}", head("Transfer-Encoding: chunked"))).await;
    refused(&client.response().await, 413, "http_request_error");
    client.expect_closed().await;
    assert_eq!(backend.count(), 0, "no whole request came");
    assert_eq!(proxy.limit_hits("max_request_bytes").await, 3);

    let just = "0123456789";
    assert_eq!(client::request(proxy.web(), &Request::post("/", just)).await.text(), just);
    let chunked = format!("{}a\r\n{just}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked"));
    assert_eq!(client::raw(proxy.web(), chunked).await.text(), just);
    fleet.idle().await;
}

#[tokio::test]
async fn a_route_may_take_no_body_at_all() {
    let backend = Backend::named("here").await;
    let (fleet, log) = fleet("", "max_request_bytes = 0", &backend).await;
    let web = fleet.proxies[0].web();
    let answer = client::request(web, &Request::post("/", "x")).await;
    refused(&answer, 413, "http_request_error");
    check(&line(&log).await, json!({ "status": 413, "reason": "max_request_bytes" }));
    for request in [Request::get("/"), Request::post("/", "")] {
        assert_eq!(client::request(web, &request).await.text(), "here");
    }
    let empty = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(client::raw(web, empty).await.text(), "here");
}

#[tokio::test]
async fn a_head_has_the_limits_of_its_listener() {
    let backend = Backend::named("here").await;
    let limits = "max_header_bytes = 2048\nmax_header_fields = 10\nmax_target_bytes = 100";
    let (fleet, _log) = fleet(limits, "", &backend).await;
    let proxy = &fleet.proxies[0];
    let path = |length: usize| format!("/{}", "p".repeat(length - 1));
    let fields = |count: usize| -> Request {
        // Host is one.
        (1..count).fold(Request::get("/"), |request, i| request.header(&format!("X-{i}"), "1"))
    };
    let bytes = |length: usize| Request::get("/").header("X", &"x".repeat(length));
    let cases = [
        ("max_target_bytes", Request::get(&path(100)), Request::get(&path(101)), 414),
        ("max_header_fields", fields(10), fields(11), 431),
        ("max_header_bytes", bytes(1_900), bytes(2_100), 431),
    ];
    let hits = async |limit: &str| match limit {
        // Both are about a head that is too large.
        "max_header_fields" => proxy.limit_hits("max_header_bytes").await,
        limit => proxy.limit_hits(limit).await,
    };
    for (limit, within, beyond, status) in cases {
        let before = hits(limit).await;
        assert_eq!(client::request(proxy.web(), &within).await.text(), "here", "{limit}");
        let answer = client::request(proxy.web(), &beyond).await;
        refused(&answer, status, "http_request_error");
        assert_eq!(hits(limit).await, before + 1, "{limit}");
    }
    assert_eq!(backend.count(), 3);
}

/// What waits for clients that do not read is so much, and no more is taken in then.
#[tokio::test]
async fn when_buffers_are_full_a_request_is_told_so_and_later_served() {
    let backend = Backend::script(|mut wire, _| async move {
        while let Ok(Some(head)) = wire.head().await {
            if head.target() == "/small" {
                let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmall").await;
                continue;
            }
            let _ = wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            while wire.send(&chunk).await.is_ok() {}
            return;
        }
    })
    .await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--max-buffer-bytes=65536".into(), "--workers=1".into()]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    let proxy = &fleet.proxies[0];
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect_narrow(proxy.web()).await;
        client.send(&Request::get("/endless")).await;
        slow.push(client);
    }
    let half = "GET /small HTTP/1.1\r\nHost: a\r\nX: ";
    let refusal = eventually("no more is taken in", async || {
        let mut client = Client::connect(proxy.web()).await;
        client.send_raw(half).await;
        tokio::time::timeout(Duration::from_millis(200), client.response())
            .await
            .map_err(|_| "it waits for the rest".to_owned())
    })
    .await;
    refused(&refusal, 503, "proxy_internal_error");
    assert!(proxy.limit_hits("max_buffer_bytes").await >= 1);
    drop(slow);
    eventually("there is room again", async || {
        let mut client = Client::connect(proxy.web()).await;
        client.send_raw(half).await;
        client.send_raw("1\r\n\r\n").await;
        let answer = client.response().await;
        holds(answer.text() == "small", || format!("{answer:?}"))
    })
    .await;
    fleet.idle().await;
}

#[tokio::test]
async fn a_route_may_go_without_via() {
    let backend = Backend::named("here").await;
    let (fleet, _log) = fleet("", "via = false", &backend).await;
    let request = Request::get("/").header("Via", "1.1 outer");
    let answer = client::request(fleet.proxies[0].web(), &request).await;
    assert_eq!(answer.fields().all("via"), ["1.1 lb"], "of answers, nobody minds it");
    let seen = backend.only_request();
    assert_eq!(seen.head.fields.all("via"), ["1.1 outer"], "what others said stays");
}
