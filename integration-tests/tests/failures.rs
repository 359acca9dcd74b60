//! What clients and backends see when something fails.

use std::{net::SocketAddr, time::Duration};

use integration_tests::{
    backend::{Backend, Reply},
    client::{self, Client, Request, Response},
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    ports::Port,
};
use lb_common::clock;

async fn one_proxy(route: &str, set: &str, backends: &[SocketAddr]) -> Fleet {
    Fleet::start(1, &app(route, set, backends)).await
}

/// Ejection would take backends out of the picture.
const NO_EJECTION: &str = "outlier_ejection = { disabled = true }";

#[track_caller]
fn failed(response: &Response, status: u16, error: &str) {
    assert_eq!((response.status(), response.proxy_error()), (status, Some(error)), "{response:?}");
}

#[tokio::test]
async fn without_a_backend_the_answer_is_503_and_nothing_is_attempted() {
    let backend = Backend::start(|_| Reply::status(500, "")).await;
    let check = "health_check = { interval = '50ms', unhealthy_after = 1, \
                 max_unhealthy_percent = 100 }";
    let fleet = one_proxy("", check, &[backend.address()]).await;
    let is_unhealthy =
        |status: &lb_proto::v1::BackendStatus| status.health() == lb_proto::v1::Health::Unhealthy;
    fleet.backend_is(backend.address(), "unhealthy", is_unhealthy).await;
    fleet.settled(1).await;

    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..3 {
        let started = clock::now();
        let response = client.get("/").await;
        println!("503 after {:?}", clock::now() - started);
        failed(&response, 503, "destination_unavailable");
    }
    assert_eq!(backend.count(), 0, "an unhealthy backend is left alone");
}

/// However long a connect or an answer might take, and however many attempts there are: nobody waits.
#[tokio::test]
async fn when_all_are_dead_the_answer_is_503_and_nothing_is_connected_to() {
    let dead = Port::reserve_range(3);
    let addresses: Vec<_> = dead.iter().map(Port::address).collect();
    let set = "connect_timeout = '60s'\n\
               health_check = { tcp = true, interval = '50ms', prove_first = true }";
    let fleet = one_proxy("timeout = '60s'\nretry = { attempts = 3 }", set, &addresses).await;
    let is_unhealthy =
        |status: &lb_proto::v1::BackendStatus| status.health() == lb_proto::v1::Health::Unhealthy;
    for address in &addresses {
        fleet.backend_is(*address, "unhealthy", is_unhealthy).await;
    }
    fleet.settled(1).await;
    for _ in 0..10 {
        let response = client::get(fleet.proxies[0].web(), "/").await;
        failed(&response, 503, "destination_unavailable");
    }
    let metrics = fleet.proxies[0].metrics().await;
    for name in ["lb_proxy_attempts_total", "lb_proxy_connects_total", "lb_proxy_retries_total"] {
        assert_eq!(metrics.sum(name, &[]), 0.0, "{name}");
    }
}

#[tokio::test]
async fn an_empty_backend_set_is_503() {
    let fleet = one_proxy("", "", &[]).await;
    let response = client::get(fleet.proxies[0].web(), "/").await;
    failed(&response, 503, "destination_unavailable");
}

#[tokio::test]
async fn refused_is_502() {
    let nobody = Port::reserve();
    let fleet = one_proxy("", "", &[nobody.address()]).await;
    for _ in 0..10 {
        let response = client::get(fleet.proxies[0].web(), "/").await;
        failed(&response, 502, "connection_refused");
    }
    fleet.idle().await;
}

/// None of its body was read, so all of it can still be sent, however long it is.
#[tokio::test]
async fn a_long_upload_goes_on_to_another_backend_if_the_first_takes_no_connection() {
    let (nobody, good) = (Port::reserve(), Backend::start(Reply::echo).await);
    let fleet = one_proxy("", NO_EJECTION, &[nobody.address(), good.address()]).await;
    let body = vec![b'x'; 1_000_000];
    for method in ["POST", "PUT"] {
        for _ in 0..4 {
            let request = Request::new(method, "/").body(body.clone());
            let answer = client::request(fleet.proxies[0].web(), &request).await;
            assert_eq!((answer.status(), answer.body.bytes.len()), (200, body.len()), "{method}");
        }
    }
    assert_eq!(good.count(), 8);
    let metrics = fleet.proxies[0].metrics().await;
    assert!(metrics.sum("lb_proxy_retries_total", &[]) >= 2.0, "the dead one was tried");
}

#[tokio::test]
async fn a_client_gets_no_more_interim_answers_than_one_backend_may_send() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10);
    let backend = Backend::start(move |_| Reply::RawAndClose(early.clone().into_bytes())).await;
    let route = "retry = { on = ['reset'], attempts = 3, budget_percent = 100 }";
    let fleet = one_proxy(route, NO_EJECTION, &[backend.address()]).await;
    let answer = client::get(fleet.proxies[0].web(), "/").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.informational.len(), 16, "{:?}", answer.informational.len());
    assert!(backend.count() >= 2, "it was tried again");
}

#[tokio::test]
async fn silent_is_504_at_the_deadline_and_the_backend_is_told() {
    let backend = Backend::start(|_| Reply::Hang).await;
    let fleet = one_proxy("timeout = '300ms'", "", &[backend.address()]).await;
    let started = clock::now();
    let response = client::get(fleet.proxies[0].web(), "/").await;
    let took = clock::now() - started;
    println!("504 after {took:?}");
    failed(&response, 504, "http_response_timeout");
    assert!(took >= Duration::from_millis(300), "not before the deadline: {took:?}");
    eventually("the backend's request is cancelled", async || {
        holds(backend.abandoned() == 1, || format!("{} wait", backend.waiting()))
    })
    .await;
    fleet.idle().await;
}

#[tokio::test]
async fn backends_that_speak_no_http_are_502() {
    #[rustfmt::skip]
    let cases: [(&str, &[u8], &str); 7] = [
        ("closes",             b"",                                                          "connection_terminated"),
        ("closes in the head", b"HTTP/1.1 200 OK\r\nContent-",                               "connection_terminated"),
        ("no HTTP",            b"SSH-2.0-OpenSSH\r\n",                                       "http_protocol_error"),
        ("a strange status",   b"HTTP/1.1 2000 OK\r\n\r\n",                                  "http_protocol_error"),
        ("a bad length",       b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",              "http_protocol_error"),
        ("two lengths",        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "http_protocol_error"),
        ("a bad header",       b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n",                         "http_protocol_error"),
    ];
    let backend = Backend::start(move |seen| {
        let i: usize = seen.head.target()[1..].parse().expect("the case's number");
        Reply::RawAndClose(cases[i].1.to_vec())
    })
    .await;
    let fleet = one_proxy("", NO_EJECTION, &[backend.address()]).await;
    let mut wrong = Vec::new();
    for (i, (why, _, error)) in cases.iter().enumerate() {
        let response = client::get(fleet.proxies[0].web(), &format!("/{i}")).await;
        let got = (response.status(), response.proxy_error());
        if got != (502, Some(error)) {
            wrong.push(format!("{why}: expected 502 {error}, got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fleet.idle().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let backend = Backend::start(|seen| match seen.head.target() {
        "/reset" => Reply::RawAndReset(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec(),
        ),
        "/chunked" => Reply::RawAndClose(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec(),
        ),
        _ => Reply::RawAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec()),
    })
    .await;
    let retry = "retry = { attempts = 3, on = ['5xx', 'reset'] }";
    let fleet = one_proxy(retry, NO_EJECTION, &[backend.address()]).await;
    for path in ["/length", "/chunked", "/reset"] {
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send(&Request::get(path)).await;
        let answer = client.try_response().await;
        assert!(!matches!(answer, Ok(Some(_))), "{path}: it looks complete: {answer:?}");
    }
    assert_eq!(backend.count(), 3, "nothing is repeated once the client has seen a part of it");
    fleet.idle().await;
}

#[tokio::test]
async fn what_follows_an_answer_is_not_the_next_one() {
    let backend = Backend::start(|_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue\
              HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse"
                .to_vec(),
        )
    })
    .await;
    let fleet = one_proxy("", NO_EJECTION, &[backend.address()]).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for i in 1..=10 {
        assert_eq!(client.get("/").await.text(), "true");
        assert_eq!(backend.count(), i, "every answer is to its own request");
    }
    assert_eq!(backend.connections(), 10, "such a connection is not used again");
    fleet.idle().await;
}

#[tokio::test]
async fn when_all_fail_backends_see_at_most_a_quarter_more_than_was_asked() {
    const OFFERED: usize = 1_000;
    let mut backends = Vec::new();
    for _ in 0..3 {
        backends.push(Backend::start(|_| Reply::status(503, "no")).await);
    }
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let retry = "retry = { attempts = 3, on = ['5xx'], backoff = '1ms' }";
    let fleet = one_proxy(retry, "", &addresses).await;
    let web = fleet.proxies[0].web();

    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..10 {
        clients.spawn(async move {
            let mut client = Client::connect(web).await;
            for _ in 0..OFFERED / 10 {
                assert_eq!(client.get("/").await.status(), 503);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every request is answered");
    }
    let attempts: usize = backends.iter().map(Backend::count).sum();
    println!("{OFFERED} requests made {attempts} attempts");
    assert!(attempts <= OFFERED * 5 / 4, "{attempts} attempts");
    assert!(attempts > OFFERED, "retries are on: {attempts} attempts");
    fleet.idle().await;
}

#[tokio::test]
async fn a_failed_get_is_tried_on_another_backend() {
    let bad = Backend::start(|seen| match seen.head.target() {
        "/close" => Reply::Close,
        "/reset" => Reply::Reset,
        "/hang" => Reply::Hang,
        _ => Reply::status(503, "no"),
    })
    .await;
    let good = Backend::named("good").await;
    let retry = "retry = { attempts = 2, on = ['5xx'], per_try_timeout = '200ms', \
                 backoff = '1ms', budget_percent = 100 }";
    let fleet = one_proxy(retry, NO_EJECTION, &[bad.address(), good.address()]).await;
    for path in ["/503", "/close", "/reset", "/hang"] {
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        // In turn: one of each two begins with the bad one.
        for _ in 0..4 {
            let response = client.get(path).await;
            assert_eq!(response.text(), "good", "{path}: {response:?}");
        }
    }
    assert!(bad.count() >= 4, "{}", bad.count());
    fleet.idle().await;
}

#[tokio::test]
async fn a_post_that_reached_a_backend_is_not_sent_again() {
    let backend = Backend::start(|seen| match seen.head.target() {
        "/close" => Reply::Close,
        "/reset" => Reply::Reset,
        _ => Reply::status(503, ""),
    })
    .await;
    let retry = "retry = { attempts = 3, on = ['5xx', 'connect-failure', 'reset'] }";
    let fleet = one_proxy(retry, NO_EJECTION, &[backend.address()]).await;
    for (i, (path, status)) in [("/close", 502), ("/reset", 502), ("/503", 503)].iter().enumerate()
    {
        let response = client::request(fleet.proxies[0].web(), &Request::post(path, "x")).await;
        assert_eq!(response.status(), *status, "{path}");
        assert_eq!(backend.count(), i + 1, "{path} was sent once");
    }
}

#[tokio::test]
async fn a_post_that_reached_nobody_is_sent_again() {
    let (nobody, good) = (Port::reserve(), Backend::start(Reply::echo).await);
    let backends = [nobody.address(), good.address()];
    let fleet = one_proxy("", NO_EJECTION, &backends).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for i in 0..20 {
        let body = format!("body {i}");
        let response = client.request(&Request::post("/", body.as_str())).await;
        assert_eq!(response.text(), body, "{response:?}");
    }
    assert_eq!(good.count(), 20);
}

#[tokio::test]
async fn a_body_is_sent_again_as_long_as_it_is_short_enough() {
    let bad = Backend::start(|_| Reply::status(503, "no")).await;
    let good = Backend::start(Reply::echo).await;
    let retry = "retry = { attempts = 2, on = ['5xx'], backoff = '1ms', budget_percent = 100, \
                 max_body_bytes = 1000 }";
    let backends = [bad.address(), good.address()];
    let fleet = one_proxy(retry, NO_EJECTION, &backends).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for length in [1, 999, 1000] {
        for chunked in [false, true] {
            for _ in 0..2 {
                let body = "x".repeat(length);
                let request = match chunked {
                    false => Request::new("PUT", "/").body(body.as_str()).to_bytes(),
                    true => format!(
                        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                         {length:x}\r\n{body}\r\n0\r\n\r\n"
                    )
                    .into_bytes(),
                };
                client.send_raw(request).await;
                let response = client.response().await;
                assert_eq!(response.text(), body, "{length}, chunked: {chunked}");
            }
        }
    }
    assert_eq!(good.count(), 12, "each arrived in the end");
    assert!(bad.count() >= 6, "at least every second one was sent twice: {}", bad.count());

    let long = Request::new("PUT", "/").body("x".repeat(1001));
    let mut statuses = [client.request(&long).await.status(), client.request(&long).await.status()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503], "what is longer is not sent again");
}

#[tokio::test]
async fn a_connection_that_the_backend_closes_as_it_is_used_costs_no_request() {
    const EACH: usize = 10;
    // Each connection serves so many requests, and is closed when the next one comes.
    let backend = Backend::script(|mut wire, _| async move {
        for _ in 0..EACH {
            if !matches!(wire.head().await, Ok(Some(_))) {
                return;
            }
            let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        let _ = wire.head().await;
    })
    .await;
    let fleet = one_proxy("", NO_EJECTION, &[backend.address()]).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for i in 0..10 * EACH {
        assert_eq!(client.get("/").await.text(), "ok", "request {i}");
    }
    assert_eq!(backend.connections(), 10, "each was used until it closed");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_idled_is_not_used() {
    let backend = Backend::start(|_| {
        // Keep-alive is promised, and then it closes.
        Reply::RawAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())
    })
    .await;
    let fleet = one_proxy("retry = { attempts = 1 }", NO_EJECTION, &[backend.address()]).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..10 {
        // Nothing may be sent again, so it has to be right the first time.
        assert_eq!(client.request(&Request::post("/", "x")).await.status(), 200);
        eventually("the backend has closed", async || {
            holds(backend.open_connections() == 0, || "it has not".into())
        })
        .await;
    }
}
