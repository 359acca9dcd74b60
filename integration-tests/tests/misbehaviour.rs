//! Clients and backends that are slow, early or wrong in the middle of a message.

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    fleet::{Fleet, app},
};

async fn one_proxy(route: &str, set: &str, backends: &[&Backend]) -> Fleet {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    Fleet::start(1, &app(route, set, &addresses)).await
}

#[tokio::test]
async fn a_body_that_still_comes_when_the_first_attempt_fails_is_sent_whole_by_the_second() {
    let failed = Gate::closed();
    let signal = failed.clone();
    let backend = Backend::script(move |mut wire, connection| {
        let signal = signal.clone();
        async move {
            let Ok(Some(head)) = wire.head().await else { return };
            if connection == 0 {
                let early = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                wire.send(early).await.expect("the proxy reads");
                signal.open();
            }
            let framing = head.request_framing().expect("the request is framed");
            let Ok(body) = wire.body(framing).await else { return };
            let length = body.bytes.len().to_string();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{length}", length.len());
            // The first connection is closed by now.
            let _ = wire.send(answer).await;
        }
    })
    .await;
    let retry = "retry = { on = ['5xx'], backoff = '300ms' }";
    let fleet = one_proxy(retry, "", &[&backend]).await;

    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
    let head = "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    client.send_raw(format!("{head}{}", chunk(1_000))).await;
    failed.passed().await;
    for _ in 0..30 {
        client.send_raw(chunk(10_000)).await;
    }
    client.send_raw("0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.text().as_str()), (200, "301000"));
    fleet.idle().await;
}

#[tokio::test]
async fn a_response_that_could_be_read_in_two_ways_is_502() {
    for wrong in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let backend = Backend::start(move |_| Reply::Raw(wrong.into())).await;
        let fleet = one_proxy("", "", &[&backend]).await;
        let response = client::get(fleet.proxies[0].web(), "/").await;
        let seen = (response.status(), response.proxy_error());
        assert_eq!(seen, (502, Some("http_protocol_error")), "{wrong}");
    }
}

#[tokio::test]
async fn a_retry_that_would_come_after_the_deadline_is_not_waited_for() {
    let backend = Backend::start(|_| Reply::status(503, "busy")).await;
    let retry = "timeout = '5s'\nretry = { on = ['503'], backoff = '24h' }";
    let fleet = one_proxy(retry, "", &[&backend]).await;
    let response = client::get(fleet.proxies[0].web(), "/").await;
    assert_eq!((response.status(), response.text().as_str()), (503, "busy"));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn an_answer_to_an_unfinished_request_says_that_the_connection_ends() {
    let backend = Backend::named("a").await;
    let fleet = one_proxy("match = { path = '/there' }", "", &[&backend]).await;
    let web = fleet.proxies[0].web();
    let mut client = Client::connect(web).await;
    client.send_raw("PUT /else HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.header("connection")), (404, Some("close")));

    let mut client = Client::connect(web).await;
    let whole = client.request(&Request::post("/else", "abc")).await;
    assert_eq!((whole.status(), whole.header("connection")), (404, None));
    assert_eq!(client.get("/there").await.status(), 200, "the connection goes on");
}

/// Each answer's head is longer than what waits for a client before more is read for it, and its body
/// has come with it.
#[tokio::test]
async fn answers_that_wait_for_their_client_stay_whole_whatever_others_read_meanwhile() {
    const ANSWERS: usize = 300;
    let backend = Backend::start(|_| Reply::ok("body").header("X", &"x".repeat(40_000))).await;
    let fleet = one_proxy("", "", &[&backend]).await;
    let web = fleet.proxies[0].web();
    let mut slow = Client::connect_narrow(web).await;
    slow.send_raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(ANSWERS)).await;
    for _ in 0..200 {
        assert_eq!(client::get(web, "/").await.text(), "body");
    }
    assert!(backend.count() < ANSWERS + 200, "not all of them fit on the way to the client");
    for i in 0..ANSWERS {
        assert_eq!(slow.response().await.text(), "body", "answer {i}");
    }
}

/// More than a connection holds on its way, so that each side waits for the other one again and again.
#[tokio::test]
async fn a_long_upload_to_a_backend_that_begins_late_to_read_arrives_whole() {
    const BODY: usize = 24 * 1024 * 1024;
    let gate = Gate::closed();
    let hold = gate.clone();
    let backend = Backend::script(move |mut wire, _| {
        let hold = hold.clone();
        async move {
            let Ok(Some(head)) = wire.head().await else { return };
            hold.passed().await;
            let framing = head.request_framing().expect("the request is framed");
            let Ok(body) = wire.body(framing).await else { return };
            let is_whole =
                body.bytes.iter().enumerate().all(|(i, byte)| *byte == (i / 1_000) as u8);
            let answer = format!("{} {is_whole}", body.bytes.len());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
            let _ = wire.send(format!("{head}{answer}")).await;
        }
    })
    .await;
    let fleet = one_proxy("", "", &[&backend]).await;
    let body: Vec<u8> = (0..BODY).map(|i| (i / 1_000) as u8).collect();
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n")).await;
    for (i, piece) in body.chunks(7_000).enumerate() {
        client.send_raw(piece).await;
        if i * 7_000 > BODY / 24 {
            gate.open();
        }
    }
    assert_eq!(client.response().await.text(), format!("{BODY} true"));
}
