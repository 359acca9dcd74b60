//! How connections end, so that the other side can read what was said to it.

use std::{net::SocketAddr, time::Duration};

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, eventually_within, holds, within},
    exchange::{End, Pieces, exchange},
    fleet::{Fleet, app, listening, tcp},
    ports::Port,
    process::Signal,
    wire::{Framing, Wire},
};
use tokio::time::timeout;

const ROUNDS: usize = 20;
const DRAINED: i32 = 0;
const NO_EJECTION: &str = "outlier_ejection = { disabled = true }";

/// Which of the two ways to frame a body.
const FRAMINGS: [bool; 2] = [false, true];

/// A POST with so long a body.
fn upload(path: &str, length: usize, chunked: bool) -> Vec<u8> {
    let (framing, end) = match chunked {
        false => (format!("Content-Length: {length}"), ""),
        true => ("Transfer-Encoding: chunked".to_owned(), "\r\n0\r\n\r\n"),
    };
    let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
    if chunked {
        bytes.extend(format!("{length:x}\r\n").into_bytes());
    }
    bytes.resize(bytes.len() + length, b'u');
    bytes.extend(end.as_bytes());
    bytes
}

/// Sends uploads, one after the other, of which each is to be answered so. The client reads only
/// after it has sent everything, as most do.
async fn check_uploads(web: SocketAddr, path: &str, length: usize, status: u16) {
    for chunked in FRAMINGS {
        let bytes = upload(path, length, chunked);
        let mut wrong = Vec::new();
        for _ in 0..ROUNDS {
            let got = exchange(web, &bytes, Pieces::Blind).await;
            let answers = got.answers(&[]).await;
            let told = matches!(answers.as_deref(), Ok([answer])
                if answer.status() == status && answer.header("connection") == Some("close"));
            if !told || got.end != End::Closed || !got.sent {
                wrong.push(format!("sent: {}, {:?}, {:?}", got.sent, got.end, got.text()));
            }
        }
        let count = wrong.len();
        assert!(count == 0, "{path}, chunked: {chunked}: {count} of {ROUNDS}; {:?}", wrong[0]);
    }
}

/// What a backend does with an upload that it does not want.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unwilling {
    /// Answers after a bit of it, and is gone.
    Leaves,
    /// Answers, ends its side, and reads the rest.
    ReadsOn,
    /// Answers, and reads no more, but stays.
    Stays,
}

async fn unwilling(how: Unwilling) -> Backend {
    Backend::script(move |mut wire, _| async move {
        let Ok(Some(head)) = wire.head().await else { return };
        if head.method() == "GET" {
            let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            return;
        }
        if wire.exactly(10_000).await.is_err() {
            return;
        }
        let close = if how == Unwilling::Stays { "" } else { "Connection: close\r\n" };
        let answer = format!("HTTP/1.1 413 Too Large\r\n{close}Content-Length: 3\r\n\r\nbig");
        let _ = wire.send(answer).await;
        match how {
            Unwilling::Leaves => {}
            Unwilling::ReadsOn => {
                let _ = wire.half_close().await;
                wire.closed().await;
            }
            Unwilling::Stays => std::future::pending().await,
        }
    })
    .await
}

#[tokio::test]
async fn a_backends_early_answer_to_an_upload_is_read_each_time() {
    for how in [Unwilling::Leaves, Unwilling::ReadsOn, Unwilling::Stays] {
        println!("the backend {how:?}");
        let backend = unwilling(how).await;
        let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
        let web = fleet.proxies[0].web();
        // More than the kernel takes for a backend that does not read.
        check_uploads(web, "/", 16_000_000, 413).await;
        assert_eq!(client::get(web, "/").await.text(), "ok");
        fleet.idle().await;
        assert_eq!(backend.connections(), 2 * ROUNDS + 1, "none is used again, and none twice");
    }
}

#[tokio::test]
async fn a_proxys_own_answer_to_an_upload_is_read_each_time() {
    let (backend, nobody) = (Backend::named("here").await, Port::reserve());
    let limit = "max_request_bytes = 1000\nmatch = { path = '/limited' }";
    let spec = app(limit, "", &[backend.address()]);
    let more = format!(
        "[[routes]]
         name = 'moved'
         match = {{ path = '/moved' }}
         redirect = {{ status = 307, path = '/' }}
         [[routes]]
         name = 'said'
         match = {{ path = '/said' }}
         answer = {{ status = 403, body = 'no' }}
         [[routes]]
         name = 'refused'
         match = {{ path = '/refused' }}
         backend_set = 'nobody'
         [[routes]]
         name = 'empty'
         match = {{ path = '/empty' }}
         backend_set = 'disabled'
         [[backend_sets]]
         name = 'nobody'
         backends = [{{ address = '{}' }}]
         {NO_EJECTION}
         [[backend_sets]]
         name = 'disabled'
         backends = [{{ address = '{}', state = 'disabled' }}]",
        nobody.address(),
        nobody.address()
    );
    let fleet = Fleet::start(1, &format!("{spec}{more}")).await;
    let web = fleet.proxies[0].web();
    for (path, status) in [
        ("/moved", 307),
        ("/said", 403),
        ("/none", 404),
        ("/refused", 502),
        ("/empty", 503),
        ("/limited", 413),
    ] {
        check_uploads(web, path, 5_000_000, status).await;
    }
    assert_eq!(backend.count(), 0);
    fleet.idle().await;
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_goes_on_sending() {
    let backend = Backend::named("here").await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let rest = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10) + &"x".repeat(4_000_000);
    for refused in [
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "\u{1}",
    ] {
        for pieces in [Pieces::Whole, Pieces::Blind] {
            let got = exchange(web, format!("{refused}{rest}").as_bytes(), pieces).await;
            let answers = got.answers(&[]).await;
            let status = answers.as_deref().map(|answers| match answers {
                [one] => one.status(),
                _ => 0,
            });
            let told = matches!(status, Ok(400 | 405)) && got.end == End::Closed;
            assert!(told, "{refused:?}, {pieces:?}: {:?} {:?}", got.end, got.text());
        }
    }
    assert_eq!(backend.count(), 0);
}

async fn refused(web: SocketAddr) -> Client {
    let mut client = Client::connect(web).await;
    client.send_raw("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 400);
    let rest = within(PATIENCE, "its side ends", client.wire.rest()).await;
    assert_eq!(rest.expect("it ends in order"), b"");
    client
}

#[tokio::test]
async fn a_refused_client_that_does_not_go_is_not_kept() {
    let fleet = Fleet::start(1, &app("", "", &[])).await;
    let silent = refused(fleet.proxies[0].web()).await;
    let mut talkative = refused(fleet.proxies[0].web()).await;
    eventually("the silent one is left", async || {
        let open = fleet.proxies[0].open_connections().await;
        holds(open <= 1, || format!("{open} open"))
    })
    .await;
    drop(silent);
    eventually_within(PATIENCE * 2, "the one that goes on is left, too", async || match talkative
        .wire
        .send("x")
        .await
    {
        Ok(()) => Err("it may send"),
        Err(_) => Ok(()),
    })
    .await;
}

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
    eventually("all connections are closed", async || {
        let open = fleet.proxies[0].open_connections().await;
        holds(open == 0, || format!("{open} open"))
    })
    .await;
    fleet.idle().await;
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

/// A backend that sends the beginning of a stream and no more, and says when its client is gone.
async fn silent_stream(gone: Gate) -> Backend {
    Backend::script(move |mut wire, _| {
        let gone = gone.clone();
        async move {
            let Ok(Some(_)) = wire.head().await else { return };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
            let _ = wire.send(head).await;
            wire.closed().await;
            gone.open();
        }
    })
    .await
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
async fn a_final_answer_instead_of_continue_ends_the_backends_connection() {
    // What would be wrong is a body taken for the next request, or a request for a body.
    let backend = Backend::script(|mut wire, _| async move {
        while let Ok(Some(head)) = wire.head().await {
            let answer = match (head.method(), head.fields.has("expect")) {
                ("POST", true) => "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
                ("GET", false) => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                _ => "HTTP/1.1 500 Wrong\r\nContent-Length: 5\r\n\r\nwrong",
            };
            let _ = wire.send(answer).await;
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n", inner.len()),
        "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    ] {
        for sends_anyway in [false, true] {
            let mut client = Client::connect(web).await;
            let ask = format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}");
            client.send_raw(ask).await;
            let answer = client.response().await;
            assert_eq!((answer.status(), answer.text().as_str()), (403, "no"), "{framing:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
            if sends_anyway {
                let _ = client.wire.send(inner).await;
            }
            client.expect_closed().await;
            assert_eq!(client::get(web, "/").await.text(), "ok", "{framing:?}, {sends_anyway}");
        }
    }
    fleet.idle().await;
}

/// The backend, which never said 100, takes what comes for the next request, and answers it when one
/// more has come: it would be another client's answer.
#[tokio::test]
async fn what_is_sent_without_a_word_to_go_on_is_no_request_to_the_backend() {
    let backend = Backend::script(|mut wire, _| async move {
        let mut answers = String::new();
        while let Ok(Some(head)) = wire.head().await {
            let target = head.target();
            let status = if head.method() == "POST" { "403 No" } else { "200 OK" };
            answers.push_str(&format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{target}",
                target.len()
            ));
            if target != "/inner" {
                let _ = wire.send(std::mem::take(&mut answers)).await;
            }
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for (framing, body) in [
        (format!("Content-Length: {}", inner.len()), inner.to_owned()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        ),
    ] {
        let ask = format!("POST /outer HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}");
        let mut client = Client::connect(web).await;
        client.send_raw(format!("{ask}\r\n\r\n{body}")).await;
        assert_eq!(client.response().await.status(), 403, "{framing}");
        for path in ["/first", "/second"] {
            assert_eq!(client::get(web, path).await.text(), path, "{framing}");
        }
    }
    fleet.idle().await;
}

/// The same without a word of `Expect`, where the rest of the body comes while the answer is under way.
#[tokio::test]
async fn a_backend_that_answers_before_the_body_has_ended_is_asked_nothing_more() {
    let backend = Backend::script(|mut wire, number| async move {
        let Ok(Some(head)) = wire.head().await else { return };
        if head.method() == "GET" {
            let _ =
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}")).await;
            return wire.closed().await;
        }
        let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
        // The whole body has come when the rest of the answer does.
        if wire.exactly(10).await.is_ok() {
            let _ = wire.send("cd").await;
        }
        wire.closed().await;
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut client = Client::connect(web).await;
    client.send_raw("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await;
    client.wire.peek().await.expect("the answer begins");
    client.send_raw("67890").await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "abcd"));
    assert_eq!(client::get(web, "/").await.text(), "1", "a connection of its own");
    fleet.idle().await;
}

/// A backend that answers before it has read the body, and then reads it.
async fn hasty(wire: &mut Wire) -> Option<()> {
    let head = wire.head().await.ok()??;
    let framing = head.request_framing().ok()?;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhasty";
    wire.send(answer).await.ok()?;
    if framing != Framing::None {
        wire.body(framing).await.ok()?;
    }
    Some(())
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_has_ended_leaves_nothing_on_any_connection() {
    let backend =
        Backend::script(|mut wire, _| async move { while hasty(&mut wire).await.is_some() {} })
            .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    for _ in 0..ROUNDS {
        let mut client = Client::connect(web).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        client.send_raw(format!("{head}beginning")).await;
        // The rest of the body never comes.
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hasty"));
        assert_eq!(answer.header("connection"), Some("close"));
        client.expect_closed().await;
        assert_eq!(client::get(web, "/").await.text(), "hasty");
    }
    fleet.idle().await;
    eventually("the backend's connections are closed, but for one or two that idle", async || {
        let open = backend.open_connections();
        holds(open <= 2, || format!("{open} of {}", backend.connections()))
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_does_not_look_whole_when_a_drain_cuts_it() {
    let backend = silent_stream(Gate::closed()).await;
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--drain-timeout=300ms".into()]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw("GET / HTTP/1.0\r\n\r\n").await;
    client.wire.head().await.expect("HTTP").expect("an answer");
    assert_eq!(client.wire.exactly(7).await.expect("it has begun"), b"data: 1");
    fleet.proxies[0].process.signal(Signal::TERM);
    let end = within(PATIENCE, "it is cut", client.wire.rest()).await;
    let error = end.expect_err("its end would look like the body's");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// It says something and is gone, though its client goes on sending.
#[tokio::test]
async fn the_last_words_of_a_tcp_backend_are_read_each_time() {
    let backend = Backend::script(|mut wire, _| async move {
        if wire.exactly(10).await.is_ok() {
            let _ = wire.send("bye").await;
        }
    })
    .await;
    let port = Port::reserve();
    let fleet = Fleet::start(1, &tcp(port.address(), "", backend.address())).await;
    for round in 0..ROUNDS {
        let mut client = Client::connect(port.address()).await;
        let piece = [b'x'; 64 * 1024];
        // As much as goes, before it reads anything.
        for _ in 0..64 {
            if client.wire.send(&piece).await.is_err() {
                break;
            }
        }
        let rest = within(PATIENCE, "its end", client.wire.rest()).await;
        assert_eq!(rest.expect("it ends in order"), b"bye", "round {round}");
    }
    eventually("all connections are closed", async || {
        let open = fleet.proxies[0].open_connections().await;
        holds(open == 0, || format!("{open} open"))
    })
    .await;
}

/// Its client waits for something and does nothing about an end.
#[tokio::test]
async fn a_tunnel_of_which_the_backend_resets_is_over() {
    let (reset, resets) = (Gate::closed(), Gate::closed());
    let (signal, hold) = (reset.clone(), resets.clone());
    let backend = Backend::script(move |mut wire, _| {
        let (signal, hold) = (signal.clone(), hold.clone());
        async move {
            let _ = wire.exactly(1).await;
            signal.open();
            hold.passed().await;
            wire.reset();
        }
    })
    .await;
    let port = Port::reserve();
    let fleet = Fleet::start(1, &tcp(port.address(), "", backend.address())).await;
    let mut client = Client::connect(port.address()).await;
    client.send_raw("x").await;
    within(PATIENCE, "it is carried", reset.passed()).await;
    resets.open();
    fleet.nothing_is_left().await;
    drop(client);
}

#[tokio::test]
async fn a_client_that_stopped_in_the_middle_does_not_hold_a_drain() {
    for begun in [
        "GET / HTTP/1.1\r\nHost:",
        "G",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
    ] {
        let backend = Backend::named("here").await;
        let mut fleet = Fleet::empty().await;
        fleet.add_proxy("p1", &["--drain-timeout=25s".into()]);
        let spec = app("", "", &[backend.address()]);
        let limits = "header_timeout = '500ms'\nbody_timeout = '500ms'";
        fleet.apply(&listening(&spec, limits)).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send_raw(begun).await;
        eventually("it is known", async || {
            let open = fleet.proxies[0].open_connections().await;
            holds(open == 1, || format!("{open} open"))
        })
        .await;
        fleet.proxies[0].process.signal(Signal::TERM);
        let code = fleet.proxies[0].process.exit_code().await;
        assert_eq!(code, DRAINED, "{begun:?}");
    }
}
