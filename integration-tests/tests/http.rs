//! HTTP/1.1 in and out, byte by byte.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use integration_tests::{
    backend::{Backend, Gate, Reply, Seen},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app},
    wire::{Framing, Head, Wire},
};
use tokio::sync::mpsc;

/// One proxy before one backend.
async fn proxied(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Fleet, Backend) {
    before(Backend::start(reply).await).await
}

async fn before(backend: Backend) -> (Fleet, Backend) {
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    (fleet, backend)
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| b'a' + (i % 23) as u8).collect()
}

#[tokio::test]
async fn methods_targets_and_bodies_pass_unchanged() {
    let (fleet, backend) = proxied(|seen| {
        Reply::echo(seen).header("X-Method", seen.head.method()).header("X-Answer", "a, b; c=\"d\"")
    })
    .await;
    let target = "/a%20b//c/../d?x=1&y=%2F&&z";
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        for text in ["", "hello"] {
            let mut request = Request::new(method, target).header("X-Question", "1=2");
            if !text.is_empty() {
                request = request.body(text);
            }
            let response = client.request(&request).await;
            assert_eq!(response.status(), 200, "{method}: {response:?}");
            assert_eq!(response.header("x-method"), Some(method));
            assert_eq!(response.header("x-answer"), Some("a, b; c=\"d\""));
            assert_eq!(response.text(), text, "{method}");
        }
    }
    for seen in backend.requests() {
        assert_eq!(seen.head.target(), target);
        assert_eq!(seen.head.fields.get("x-question"), Some("1=2"));
        let framing = seen.head.request_framing().expect("it is clear");
        let expected = match seen.body.bytes.len() {
            0 => Framing::None,
            length => Framing::Length(length),
        };
        assert_eq!(framing, expected, "{:?}", seen.head);
    }
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways_with_their_trailers() {
    let (fleet, backend) = proxied(|_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
              5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 42\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..2 {
        client
            .send_raw(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\
                 Trailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n2\r\nde\r\n0\r\nX-Check: 7\r\n\r\n",
            )
            .await;
        let response = client.response().await;
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.text(), "hello world");
        assert_eq!(response.body.trailers.get("x-sum"), Some("42"), "{response:?}");
    }
    for seen in backend.requests() {
        assert_eq!(seen.head.request_framing().expect("it is clear"), Framing::Chunked);
        assert_eq!(seen.body.text(), "abcde");
        assert_eq!(seen.body.trailers.get("x-check"), Some("7"), "{seen:?}");
    }
    assert_eq!(backend.connections(), 1, "trailers do not end a connection");
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    let (fleet, backend) = proxied(Reply::echo).await;
    let sent = body(10_000_000);
    let response = client::request(fleet.proxies[0].web(), &Request::post("/", sent.clone())).await;
    assert_eq!(response.status(), 200);
    assert!(response.body.bytes == sent, "{} bytes came back changed", response.body.bytes.len());
    assert!(backend.only_request().body.bytes == sent);
}

/// More than all the buffers of the kernel on the way.
const FLOOD: usize = 96 * 1024 * 1024;
/// A writer that makes no step for so long is stalled.
const STALLED: Duration = Duration::from_millis(500);

/// Writes `FLOOD` bytes, and says how far it came when it first stalls.
async fn flood(wire: &mut Wire, stalled: mpsc::Sender<usize>) {
    let piece = body(64 * 1024);
    let mut written = 0;
    while written < FLOOD {
        let mut sending = std::pin::pin!(wire.send(&piece));
        match tokio::time::timeout(STALLED, &mut sending).await {
            Ok(result) => result.expect("the other end is there"),
            Err(_) => {
                // Only the first one counts.
                let _ = stalled.try_send(written);
                sending.await.expect("the other end is there");
            }
        }
        written += piece.len();
    }
    let _ = stalled.try_send(written);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_backend_back() {
    let (sender, mut stalled) = mpsc::channel(1);
    let backend = Backend::script(move |mut wire, _| {
        let sender = sender.clone();
        async move {
            wire.head().await.expect("a request").expect("a request");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n");
            wire.send(head).await.expect("the proxy is there");
            flood(&mut wire, sender).await;
        }
    })
    .await;
    let (fleet, _backend) = before(backend).await;

    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    let written = within(PATIENCE, "the backend stalls", stalled.recv()).await.expect("it writes");
    println!("the backend stalled after {written} bytes");
    assert!(written < FLOOD / 2, "the proxy takes {written} bytes that nobody reads");

    let response = client.response().await;
    assert!(response.body.bytes.len() == FLOOD, "all of it arrives once it is read");
}

#[tokio::test]
async fn a_backend_that_does_not_read_holds_the_client_back() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::script(move |mut wire, _| {
        let hold = hold.clone();
        async move {
            let head = wire.head().await.expect("a request").expect("a request");
            hold.passed().await;
            let framing = head.request_framing().expect("it is clear");
            let body = wire.body(framing).await.expect("a body");
            let length = body.bytes.len().to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length.len());
            wire.send(format!("{head}{length}")).await.expect("the proxy is there");
        }
    })
    .await;
    let (fleet, _backend) = before(backend).await;

    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {FLOOD}\r\n\r\n")).await;
    let (sender, mut stalled) = mpsc::channel(1);
    let opens = async {
        let written = stalled.recv().await.expect("the client writes");
        println!("the client stalled after {written} bytes");
        assert!(written < FLOOD / 2, "the proxy takes {written} bytes that nobody reads");
        gate.open();
    };
    within(PATIENCE * 2, "all is sent", async {
        tokio::join!(flood(&mut client.wire, sender), opens)
    })
    .await;
    assert_eq!(client.response().await.text(), FLOOD.to_string(), "all of it arrives");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_order() {
    let (fleet, backend) = proxied(|seen| match seen.head.target() {
        "/204" => Reply::status(204, ""),
        "/304" => Reply::status(304, "").header("ETag", "\"1\""),
        _ => Reply::ok("some body"),
    })
    .await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..2 {
        let head = client.request(&Request::new("HEAD", "/")).await;
        assert_eq!((head.status(), head.header("content-length")), (200, Some("9")));
        let empty = client.get("/204").await;
        assert_eq!(empty.status(), 204);
        assert!(!empty.fields().has("content-length"), "{empty:?}");
        assert!(!empty.fields().has("transfer-encoding"), "{empty:?}");
        let unchanged = client.get("/304").await;
        assert_eq!((unchanged.status(), unchanged.header("etag")), (304, Some("\"1\"")));
        assert_eq!(client.get("/").await.text(), "some body");
    }
    assert_eq!(backend.connections(), 1, "and so it is with the backend's");
}

#[tokio::test]
async fn interim_answers_pass_through() {
    let (fleet, backend) = proxied(|_| {
        Reply::Raw(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal"
                .to_vec(),
        )
    })
    .await;
    let web = fleet.proxies[0].web();
    let mut client = Client::connect(web).await;
    for _ in 0..3 {
        let response = client.get("/").await;
        assert_eq!((response.status(), response.text().as_str()), (200, "final"));
        let statuses: Vec<_> = response.informational.iter().map(Head::status).collect();
        assert_eq!(statuses, [102, 103]);
        assert_eq!(response.informational[1].fields.get("link"), Some("</a>"));
    }
    assert_eq!(backend.connections(), 1);

    let old = client::raw(web, "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((old.status(), old.informational.len()), (200, 0), "HTTP/1.0 has none: {old:?}");
}

#[tokio::test]
async fn a_client_that_asks_is_told_to_continue() {
    let (fleet, backend) = proxied(Reply::echo).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..2 {
        client
            .send_raw(
                "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
            )
            .await;
        let interim = within(PATIENCE, "an interim answer", client.wire.head()).await;
        let interim = interim.expect("it is HTTP").expect("the connection is open");
        assert_eq!(interim.status(), 100);
        client.send_raw("body").await;
        assert_eq!(client.response().await.text(), "body");
    }
    for seen in backend.requests() {
        let expect = seen.head.fields.get("expect");
        assert_eq!(expect, Some("100-continue"), "the backend has answered it: {seen:?}");
    }
}

#[tokio::test]
async fn an_absolute_target_becomes_a_path_and_a_host() {
    let (fleet, backend) = proxied(|_| Reply::ok("")).await;
    let web = fleet.proxies[0].web();
    let request = Request::get("http://shop.test:81/a?b=c").host("shop.test:81");
    assert_eq!(client::request(web, &request).await.status(), 200);
    let seen = backend.only_request();
    assert_eq!(seen.head.start, "GET /a?b=c HTTP/1.1");
    assert_eq!(seen.head.fields.get("host"), Some("shop.test:81"));

    let request = Request::get("http://shop.test/").host("other.test");
    assert_eq!(client::request(web, &request).await.status(), 400, "they disagree");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (first, last) = (Gate::closed(), Gate::closed());
    let (hold_first, hold_last) = (first.clone(), last.clone());
    let (fleet, backend) = proxied(move |seen| {
        let reply = Reply::ok(seen.head.target());
        match seen.head.target() {
            "/0" => reply.behind(&hold_first),
            "/4" => reply.behind(&hold_last),
            _ => reply,
        }
    })
    .await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let all: Vec<u8> = (0..5).flat_map(|i| Request::get(&format!("/{i}")).to_bytes()).collect();
    client.send_raw(all).await;
    backend.has_waiting(1).await;
    first.open();
    for i in 0..4 {
        assert_eq!(client.response().await.text(), format!("/{i}"), "before the last has come");
    }
    last.open();
    assert_eq!(client.response().await.text(), "/4");
}

#[tokio::test]
async fn http_1_0_clients_get_what_they_understand() {
    let (fleet, backend) = proxied(|_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n".to_vec(),
        )
    })
    .await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw("GET /old HTTP/1.0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.text().as_str()), (200, "old"));
    assert!(!response.fields().has("transfer-encoding"), "{response:?}");
    client.expect_closed().await;

    let seen = backend.only_request();
    assert_eq!(seen.head.start, "GET /old HTTP/1.1", "the proxy speaks for itself");
    assert_eq!(seen.head.fields.all("host").len(), 1, "{seen:?}");
}

#[tokio::test]
async fn a_client_that_wants_to_close_is_closed_and_the_backend_is_not() {
    let (fleet, backend) = proxied(|_| Reply::ok("")).await;
    // One worker after the other would connect by itself.
    let mut keep = Client::connect(fleet.proxies[0].web()).await;
    keep.get("/").await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let response = client.request(&Request::get("/").header("Connection", "close")).await;
    assert_eq!(response.header("connection"), Some("close"));
    client.expect_closed().await;
    for seen in backend.requests() {
        assert!(!seen.head.fields.has("connection"), "{seen:?}");
    }
    assert_eq!(backend.open_connections(), backend.connections());
    keep.get("/").await;
}

#[tokio::test]
async fn requests_of_one_client_share_one_connection_to_the_backend() {
    let (fleet, backend) = proxied(|_| Reply::ok("x")).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!((backend.count(), backend.connections()), (50, 1));
}

#[tokio::test]
async fn a_backend_that_closes_is_connected_to_again() {
    let (fleet, backend) =
        proxied(|_| Reply::RawAndClose(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec())).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for i in 1..=5 {
        assert_eq!(client.get("/").await.text(), "until the end");
        assert_eq!(backend.connections(), i);
    }
}

#[tokio::test]
async fn hop_by_hop_headers_end_at_the_proxy() {
    let (fleet, backend) = proxied(|_| {
        Reply::ok("")
            .header("Connection", "X-Internal, keep-alive")
            .header("X-Internal", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Authenticate", "Basic")
            .header("Upgrade", "h2c")
            .header("X-Kept", "1")
    })
    .await;
    let request = Request::get("/")
        .header("Connection", "X-Private, Upgrade, TE")
        .header("connection", "x-secret")
        .header("X-Private", "1")
        .header("X-Secret", "1")
        .header("Upgrade", "h2c")
        .header("TE", "gzip")
        .header("Keep-Alive", "300")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authorization", "Basic x")
        .header("X-Kept", "1");
    let response = client::request(fleet.proxies[0].web(), &request).await;
    let seen = backend.only_request();
    for (fields, side) in [(&seen.head.fields, "backend"), (response.fields(), "client")] {
        for name in [
            "connection",
            "x-private",
            "x-secret",
            "x-internal",
            "upgrade",
            "te",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "transfer-encoding",
        ] {
            assert!(!fields.has(name), "{name} reached the {side}: {fields:?}");
        }
        assert_eq!(fields.get("x-kept"), Some("1"));
    }
}

#[tokio::test]
async fn a_client_cannot_name_away_what_frames_or_routes_its_request() {
    let (fleet, backend) = proxied(Reply::echo).await;
    let request = Request::post("/", "abc")
        .host("kept.test")
        .header("Connection", "Host, Content-Length, Via, X-Forwarded-For");
    let response = client::request(fleet.proxies[0].web(), &request).await;
    assert_eq!(response.text(), "abc");
    let seen = backend.only_request();
    assert_eq!(seen.head.fields.get("host"), Some("kept.test"));
    assert_eq!(seen.head.fields.get("content-length"), Some("3"));
    assert_eq!(seen.head.fields.get("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_backend_learns_who_asked_and_not_what_the_client_claims() {
    let (fleet, backend) = proxied(|_| Reply::ok("").header("Via", "1.1 inner")).await;
    let request = Request::get("/")
        .host("shop.test:8080")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Forwarded-For", "7.7.7.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "evil.test")
        .header("Via", "1.0 outer");
    let response = client::request(fleet.proxies[0].web(), &request).await;
    let fields = backend.only_request().head.fields;
    assert_eq!(fields.get("host"), Some("shop.test:8080"));
    assert_eq!(fields.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(fields.get("x-forwarded-proto"), Some("http"));
    assert_eq!(fields.get("x-forwarded-host"), Some("shop.test:8080"));
    assert_eq!(fields.all("via"), ["1.0 outer", "1.1 lb"]);
    assert_eq!(response.fields().all("via"), ["1.1 inner", "1.1 lb"]);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let (fleet, backend) = proxied(|_| Reply::Hang).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;

    drop(client);
    eventually("the backend's request is cancelled", async || {
        holds(backend.abandoned() == 1, || format!("{} wait", backend.waiting()))
    })
    .await;
    fleet.idle().await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_an_answer_is_not_served_on() {
    let (sender, mut stalled) = mpsc::channel(1);
    let gone = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&gone);
    let backend = Backend::script(move |mut wire, _| {
        let (sender, count) = (sender.clone(), Arc::clone(&count));
        async move {
            wire.head().await.expect("a request").expect("a request");
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            wire.send(head).await.expect("the proxy is there");
            let piece = body(64 * 1024);
            while wire.send(&piece).await.is_ok() {
                let _ = sender.try_send(());
            }
            count.fetch_add(1, SeqCst);
        }
    })
    .await;
    let (fleet, backend) = before(backend).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    within(PATIENCE, "the answer has begun", stalled.recv()).await;
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;

    drop(client);
    eventually("the backend is rid of it", async || {
        holds(gone.load(SeqCst) == 1, || "it still writes".into())
    })
    .await;
    fleet.idle().await;
}
