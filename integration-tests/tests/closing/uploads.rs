//! Answers to who is still sending.

use std::net::SocketAddr;

use integration_tests::{
    backend::Backend,
    client::{self, Client},
    eventually::{PATIENCE, eventually, eventually_within, holds, within},
    exchange::{End, Pieces, exchange},
    fleet::{Fleet, app},
    ports::Port,
};

use super::{NO_EJECTION, ROUNDS};

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
