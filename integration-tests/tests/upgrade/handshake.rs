//! How a tunnel begins, and what does not begin one.

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, within},
    fleet::{Fleet, app},
};

use crate::{SWITCHED, check_echo, echo, echo_behind, handshake, switch, tunnel};

/// The request as the backend gets it, which refuses it.
async fn seen_by_backend(route: &str, request: &str) -> Vec<(String, String)> {
    let backend = Backend::start(|_| Reply::ok("plain")).await;
    let fleet = Fleet::start(1, &app(route, "", &[backend.address()])).await;
    let answer = client::raw(fleet.proxies[0].web(), request).await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "plain"), "{request}");
    backend.only_request().head.fields.0
}

fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn a_handshake_passes_without_what_else_is_between_neighbours() {
    let lines = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
                 Connection: X-Private, TE\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nOrigin: http://a\r\n";
    let fields = seen_by_backend("", &handshake("/", lines)).await;
    assert_eq!(all(&fields, "upgrade"), ["websocket"]);
    let connection = all(&fields, "connection");
    assert!(connection.len() == 1 && connection[0].eq_ignore_ascii_case("upgrade"), "{fields:?}");
    for (name, value) in [
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "chat"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Origin", "http://a"),
        ("X-Forwarded-For", "127.0.0.1"),
    ] {
        assert_eq!(all(&fields, name), [value], "{name}");
    }
    for name in ["x-private", "keep-alive", "te", "proxy-connection", "proxy-authorization"] {
        assert!(all(&fields, name).is_empty(), "{name} of {fields:?}");
    }
}

#[tokio::test]
async fn a_client_gets_the_backends_101_without_what_is_between_neighbours() {
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(_)) = wire.head().await else { return };
        let more = "Connection: Upgrade, X-Internal\r\nX-Internal: 1\r\nKeep-Alive: 5\r\nX-Kept: 1";
        // What follows belongs to the tunnel already.
        let _ = wire.send(format!("{}early", SWITCHED.replace("Connection: Upgrade", more))).await;
        crate::send_back(&mut wire).await;
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let (mut client, head) = switch(fleet.proxies[0].web(), handshake("/", "")).await;
    assert_eq!(head.status(), 101);
    let fields = &head.fields;
    assert_eq!(fields.get("upgrade"), Some("websocket"));
    let connection = fields.get("connection").expect("it is there");
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{connection:?}");
    assert_eq!(fields.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(fields.get("x-kept"), Some("1"));
    for name in ["x-internal", "keep-alive", "content-length", "transfer-encoding"] {
        assert!(!fields.has(name), "{name} of {fields:?}");
    }
    assert_eq!(client.wire.exactly(5).await.expect("it is there"), b"early");
    check_echo(&mut client, "after").await;
}

#[tokio::test]
async fn names_are_read_in_any_case() {
    let backend = echo().await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    for (upgrade, connection) in [
        ("WebSocket", "upgrade"),
        ("WEBSOCKET", "UPGRADE"),
        ("websocket", "x, Upgrade , keep-alive"),
    ] {
        let request = handshake("/", "")
            .replace("Upgrade: websocket", &format!("upgrade: {upgrade}"))
            .replace("Connection: keep-alive, Upgrade", &format!("connection: {connection}"));
        let (mut client, head) = switch(fleet.proxies[0].web(), request).await;
        assert_eq!(head.status(), 101, "{upgrade}, {connection}");
        check_echo(&mut client, "hello").await;
    }
}

#[tokio::test]
async fn what_comes_before_the_backends_101_is_no_tunnel() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::recording_script(move |mut wire, _| {
        let hold = hold.clone();
        async move {
            while let Ok(Some(head)) = wire.head().await {
                if head.fields.has("upgrade") {
                    hold.passed().await;
                    let _ = wire.send(SWITCHED).await;
                    return crate::send_back(&mut wire).await;
                }
                let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").await;
            }
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut client = Client::connect(web).await;
    let early = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send_raw(format!("{}{early}", handshake("/", ""))).await;
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;
    // Others are served meanwhile, by whatever thread.
    for _ in 0..20 {
        assert_eq!(client::get(web, "/").await.text(), "plain");
    }
    let received = backend.received().concat();
    let received = String::from_utf8_lossy(&received);
    assert!(!received.contains("smuggled"), "{received}");
    gate.open();
    let head = within(PATIENCE, "the switch", client.wire.head()).await.expect("HTTP");
    assert_eq!(head.map(|head| head.status()), Some(101));
    let back = within(PATIENCE, "it is of the tunnel now", client.wire.exactly(early.len())).await;
    assert_eq!(back.expect("it comes back"), early.as_bytes());
}

#[tokio::test]
async fn a_backend_that_does_not_switch_leaves_a_connection_of_requests() {
    for status in ["200 OK", "403 Forbidden", "426 Upgrade Required", "500 No"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nplain");
        let backend = Backend::start(move |_| Reply::Raw(answer.clone().into_bytes())).await;
        let spec = app("match = { path = '/ws' }", "", &[backend.address()]);
        let fleet = Fleet::start(1, &spec).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        // The second one is no tunnel's business: it is routed, to nowhere.
        let next = Request::get("/elsewhere").to_bytes();
        client.send_raw([handshake("/ws", "").into_bytes(), next].concat()).await;
        let first = client.response().await;
        assert_eq!(
            (first.status().to_string(), first.text()),
            (status[..3].into(), "plain".into())
        );
        assert_eq!(client.response().await.status(), 404);
        assert_eq!(backend.count(), 1);
    }
}

#[tokio::test]
async fn a_switch_that_was_not_asked_for_is_502() {
    let other = SWITCHED.replace("websocket", "h2c");
    let none = SWITCHED.replace("Upgrade: websocket\r\n", "");
    let cases = [
        ("unasked", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), SWITCHED.to_owned()),
        ("forbidden", handshake("/forbidden", ""), SWITCHED.to_owned()),
        ("to another protocol", handshake("/", ""), other),
        ("to no protocol", handshake("/", ""), none),
        ("of another protocol", handshake("/", "").replace("websocket", "h2c"), {
            SWITCHED.replace("websocket", "h2c")
        }),
        ("in HTTP/1.0", handshake("/", "").replace("HTTP/1.1", "HTTP/1.0"), SWITCHED.to_owned()),
        (
            "with a body",
            handshake("/", "Content-Length: 2\r\n").replace("GET", "POST") + "hi",
            SWITCHED.to_owned(),
        ),
    ];
    for (what, request, answer) in cases {
        println!("a switch {what}");
        let answer = format!("{answer}tunnelled");
        let backend = Backend::start(move |_| Reply::Raw(answer.clone().into_bytes())).await;
        let spec = app("", "outlier_ejection = { disabled = true }", &[backend.address()]);
        let spec = format!(
            "{spec}
             [[routes]]
             name = 'forbidden'
             match = {{ path = '/forbidden' }}
             upgrade = []
             backend_set = 'app'"
        );
        let fleet = Fleet::start(1, &spec).await;
        let answer = client::raw(fleet.proxies[0].web(), request).await;
        let got = (answer.status(), answer.proxy_error());
        assert_eq!(got, (502, Some("http_protocol_error")), "{what}: {answer:?}");
        fleet.idle().await;
    }
}

#[tokio::test]
async fn a_request_that_may_not_switch_is_a_plain_one() {
    let with_body = handshake("/", "Content-Length: 2\r\n").replace("GET", "POST") + "hi";
    let chunked =
        handshake("/", "Transfer-Encoding: chunked\r\n").replace("GET", "POST") + "0\r\n\r\n";
    for (what, route, request) in [
        ("forbidden", "upgrade = []", handshake("/", "")),
        ("another protocol", "", handshake("/", "").replace("websocket", "h2c")),
        ("another one is allowed", "upgrade = ['echo']", handshake("/", "")),
        ("with a body", "", with_body),
        ("with chunks", "", chunked),
        ("of HTTP/1.0", "", handshake("/", "").replace("HTTP/1.1", "HTTP/1.0")),
        ("not of this connection", "", handshake("/", "").replace(", Upgrade", "")),
        ("to nothing", "", handshake("/", "").replace("Upgrade: websocket\r\n", "")),
    ] {
        let fields = seen_by_backend(route, &request).await;
        assert!(all(&fields, "upgrade").is_empty(), "{what}: {fields:?}");
        assert!(all(&fields, "connection").is_empty(), "{what}: {fields:?}");
    }
}

#[tokio::test]
async fn a_route_says_what_may_be_switched_to() {
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(head)) = wire.head().await else { return };
        let to = head.fields.get("upgrade").expect("it is asked to").to_owned();
        let _ = wire.send(SWITCHED.replace("websocket", &to)).await;
        crate::send_back(&mut wire).await;
    })
    .await;
    let route = "upgrade = ['echo', 'websocket']";
    let fleet = Fleet::start(1, &app(route, "", &[backend.address()])).await;
    for protocol in ["echo", "websocket"] {
        let request = handshake("/", "").replace("websocket", protocol);
        let (mut client, head) = switch(fleet.proxies[0].web(), request).await;
        assert_eq!((head.status(), head.fields.get("upgrade")), (101, Some(protocol)));
        check_echo(&mut client, "hello").await;
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_at_once_and_each_side_may_end_first() {
    let backend = echo().await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = tunnel(fleet.proxies[0].web(), "/").await;
    // More than the buffers on the way hold, so that both directions have to flow.
    let sent: Vec<u8> = (0..4_000_000_u32).flat_map(|i| i.to_le_bytes()).collect();
    let back = client.send_and_read(&sent, sent.len()).await;
    assert!(back == sent, "{} bytes came back changed", back.len());
    // The client's end is told to the backend, which says something more.
    client.wire.half_close().await.expect("it is open");
    let rest = within(PATIENCE, "the backend ends", client.wire.rest()).await;
    assert_eq!(rest.expect("it ends in order"), b"ended");
    fleet.idle().await;

    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(_)) = wire.head().await else { return };
        let _ = wire.send(SWITCHED).await;
        let _ = wire.half_close().await;
        let rest = wire.rest().await.unwrap_or_default();
        assert_eq!(rest, b"still here");
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = tunnel(fleet.proxies[0].web(), "/").await;
    let rest = within(PATIENCE, "the backend's end", client.wire.rest()).await;
    assert_eq!(rest.expect("it ends in order"), b"");
    client.send_raw("still here").await;
    drop(client);
    fleet.idle().await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_switch_leaves_nothing() {
    let gate = Gate::closed();
    let backend = echo_behind(gate.clone()).await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw(handshake("/", "")).await;
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;
    client.wire.reset();
    fleet.idle().await;
    gate.open();
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "plain");
    fleet.idle().await;
}
