//! PROXY protocol headers, written by hand: who is believed, and what becomes of the others.

use std::time::Duration;

use integration_tests::{
    access_log::{check, line, with_proxy},
    backend::{Backend, Gate, Reply},
    client::{Client, Request},
    eventually::{eventually, holds},
    exchange::{End, Pieces, exchange},
    fleet::{Fleet, Proxy, app, listening, tcp},
    ports::Port,
};
use serde_json::json;

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 443\r\n";
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\xc0\0\x02\x07\xc0\0\x02\x09\x12\x67\x01\xbb\
    \x05\0\x03uid";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// Answers with the client's address as it gets it.
async fn echo() -> Backend {
    Backend::start(|seen| Reply::ok(seen.head.fields.get("x-forwarded-for").unwrap_or("-"))).await
}

/// One proxy whose listener `web` believes `trusted`.
async fn web(trusted: &str, how: &str, more: &str, backend: &Backend) -> Fleet {
    let lines = format!("trusted_proxies = ['{trusted}']\nproxy_protocol = '{how}'\n{more}");
    Fleet::start(1, &listening(&app("", "", &[backend.address()]), &lines)).await
}

/// What comes back for these bytes, and how it ends.
async fn said(proxy: &Proxy, bytes: &[&[u8]], pieces: Pieces) -> (String, End) {
    let exchange = exchange(proxy.web(), &bytes.concat(), pieces).await;
    (String::from_utf8_lossy(&exchange.received).into_owned(), exchange.end)
}

async fn headers(proxy: &Proxy, result: &str) -> f64 {
    proxy.metrics().await.sum("lb_proxy_proxy_headers_total", &[("result", result)])
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let backend = echo().await;
    for how in ["required", "optional"] {
        let fleet = web("127.0.0.0/8", how, "", &backend).await;
        let proxy = &fleet.proxies[0];
        for (header, client) in [(LINE, "192.0.2.7"), (BINARY, "192.0.2.7"), (LOCAL, "127.0.0.1")] {
            for pieces in [Pieces::Whole, Pieces::Bytes] {
                let (answer, _) = said(proxy, &[header, GET], pieces).await;
                let is_right = answer.starts_with("HTTP/1.1 200") && answer.ends_with(client);
                assert!(is_right, "{how}, {pieces:?}: {answer:?}");
            }
        }
        // For all requests of the connection.
        let mut client = Client::connect(proxy.web()).await;
        client.send_raw(LINE).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.text(), "192.0.2.7");
        }
        eventually("headers are counted", async || {
            let read = headers(proxy, "read").await;
            holds(read == 7.0, || format!("{read}"))
        })
        .await;
    }
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let backend = echo().await;
    let optional = web("10.0.0.0/8", "optional", "", &backend).await;
    for header in [LINE, BINARY, LOCAL] {
        let (answer, _) = said(&optional.proxies[0], &[header, GET], Pieces::Whole).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    }
    assert_eq!(backend.count(), 0);
    let (answer, _) = said(&optional.proxies[0], &[GET], Pieces::Whole).await;
    assert!(answer.ends_with("127.0.0.1"), "{answer:?}");

    let required = web("10.0.0.0/8", "required", "", &backend).await;
    for bytes in [&[LINE, GET][..], &[BINARY, GET], &[GET]] {
        let (answer, end) = said(&required.proxies[0], bytes, Pieces::Whole).await;
        assert!(answer.is_empty() && end != End::Open, "{answer:?}, {end:?}");
    }
    assert_eq!(headers(&required.proxies[0], "untrusted").await, 3.0);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn without_a_header_only_who_need_not_send_one_is_served() {
    let backend = echo().await;
    for (how, is_served) in [("optional", true), ("required", false)] {
        let fleet = web("127.0.0.1", how, "", &backend).await;
        let (answer, end) = said(&fleet.proxies[0], &[GET], Pieces::Whole).await;
        assert_eq!(answer.ends_with("127.0.0.1"), is_served, "{answer:?}, {end:?}");
        assert_eq!(answer.is_empty(), !is_served);
        let absent = headers(&fleet.proxies[0], "absent").await;
        assert_eq!(absent, if is_served { 0.0 } else { 1.0 });
    }
}

#[tokio::test]
async fn a_header_that_is_malformed_is_the_end() {
    let backend = echo().await;
    for how in ["optional", "required"] {
        let fleet = web("127.0.0.1", how, "", &backend).await;
        let wrong: [&[u8]; 4] = [
            b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 0443\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 443\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc0\0\x02\x07",
        ];
        for header in wrong {
            let (answer, end) = said(&fleet.proxies[0], &[header, GET], Pieces::Whole).await;
            assert!(answer.is_empty() && end != End::Open, "{how}: {answer:?}, {end:?}");
        }
        assert_eq!(headers(&fleet.proxies[0], "malformed").await, 4.0);
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn who_does_not_come_to_the_end_of_its_header_is_let_go() {
    let backend = echo().await;
    let fleet = web("127.0.0.1", "required", "header_timeout = '1s'", &backend).await;
    let proxy = &fleet.proxies[0];
    let mut slow = Client::connect(proxy.web()).await;
    let mut half = Client::connect(proxy.web()).await;
    let mut silent = Client::connect(proxy.web()).await;
    half.send_raw(&LINE[..20]).await;
    // One byte each tenth of a second would take four seconds.
    let sent = slow.send_slowly(LINE, Duration::from_millis(100)).await;
    assert!(sent < LINE.len(), "all of it could be sent");
    half.expect_closed().await;
    silent.expect_closed().await;
    assert_eq!(proxy.limit_hits("header_timeout").await, 3);
    assert_eq!(backend.count(), 0);
    fleet.nothing_is_left().await;
}

#[tokio::test]
async fn connections_are_counted_as_those_of_the_clients_that_they_are_of() {
    let gate = Gate::closed();
    let backend = Backend::holding(&gate, |seen| Reply::ok(seen.head.target())).await;
    let mut fleet = Fleet::empty().await;
    // Only connections of the same worker make room for each other.
    fleet.add_proxy("p1", &["--workers=1".into()]);
    let lines = "trusted_proxies = ['127.0.0.1']\nproxy_protocol = 'required'
        max_connections_per_client = 1";
    fleet.apply(&listening(&app("", "", &[backend.address()]), lines)).await;
    let proxy = &fleet.proxies[0];
    let mut busy = Vec::new();
    for i in 1..=3 {
        let mut client = Client::connect(proxy.web()).await;
        client.send_raw(format!("PROXY TCP4 192.0.2.{i} 192.0.2.9 1 443\r\n")).await;
        client.send(&Request::get("/held")).await;
        backend.has_waiting(i).await;
        busy.push(client);
    }
    let mut second = Client::connect(proxy.web()).await;
    second.send_raw("PROXY TCP4 192.0.2.2 192.0.2.9 2 443\r\n").await;
    second.expect_closed().await;
    assert_eq!(proxy.limit_hits("max_connections_per_client").await, 1);
    gate.open();
    for client in &mut busy {
        assert_eq!(client.response().await.text(), "held");
    }
    // What idles makes room for another one of the same client.
    let mut again = Client::connect(proxy.web()).await;
    again.send_raw("PROXY TCP4 192.0.2.2 192.0.2.9 3 443\r\n").await;
    assert_eq!(again.get("/again").await.text(), "/again");
    busy[1].expect_closed().await;
    assert_eq!(busy[2].get("/kept").await.text(), "/kept");
}

#[tokio::test]
async fn a_tcp_backend_gets_what_follows_the_header_and_the_log_tells_both_addresses() {
    let backend = Backend::recording(|_| Reply::ok("here")).await;
    let fleet = Fleet::empty().await;
    let (log, port) = (fleet.dir().join("access.json"), Port::reserve());
    let lines = "trusted_proxies = ['127.0.0.1']\nproxy_protocol = 'required'";
    let spec = tcp(port.address(), lines, backend.address());
    let fleet = with_proxy(fleet, "full", &log, &spec).await;
    let mut client = Client::connect(port.address()).await;
    let peer = client.wire.local_address();
    client.send_raw([BINARY, &GET[..10]].concat()).await;
    client.send_raw(&GET[10..]).await;
    assert_eq!(client.response().await.text(), "here");
    drop(client);
    assert_eq!(backend.received(), [GET]);
    let bytes = GET.len();
    let expected = json!({
        "client": "192.0.2.7:4711", "peer": peer.to_string(), "bytes_in": bytes, "reason": null,
    });
    check(&line(&log).await, expected);
    fleet.nothing_is_left().await;
}
