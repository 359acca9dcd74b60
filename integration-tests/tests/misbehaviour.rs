//! Clients and backends that are slow, early or wrong in the middle of a message.

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{eventually, holds},
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
async fn a_client_whose_body_does_not_come_is_told_408_and_no_backend_is_blamed() {
    let backend = Backend::named("a").await;
    let fleet = one_proxy("timeout = '300ms'", "", &[&backend]).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.proxy_error()), (408, Some("http_request_error")));
    assert_eq!(response.header("connection"), Some("close"));
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("lb_proxy_attempt_timeouts_total", &[]), 0.0);
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
async fn a_backend_that_breaks_off_its_responses_is_ejected() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let broken = Backend::start(move |_| Reply::RawAndClose(cut.into())).await;
    let sound = Backend::named("sound").await;
    let ejection = "outlier_ejection = { consecutive_failures = 3 }";
    let fleet = one_proxy("", ejection, &[&broken, &sound]).await;
    let proxy = &fleet.proxies[0];
    eventually("it is ejected", async || {
        let mut client = Client::connect(proxy.web()).await;
        client.send(&Request::get("/")).await;
        // Half of them end early.
        let _ = client.try_response().await;
        let ejections = proxy.metrics().await.sum("lb_proxy_ejections_total", &[]);
        holds(ejections > 0.0, || format!("{} requests came", broken.count()))
    })
    .await;
    assert_eq!(broken.count(), 3, "the third in a row was the last one");
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
