//! Everything that may hang has a limit, which cancels the work, is counted, and says whose fault it
//! was.

use std::{path::PathBuf, time::Duration};

use integration_tests::{
    access_log::{check, line, with_proxy},
    backend::{Backend, Blackhole, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app, app_with, listening, tcp},
    ports::Port,
};
use lb_common::clock;
use serde_json::json;

const TICK: Duration = Duration::from_millis(50);
const MEGABYTE: usize = 1024 * 1024;

/// One proxy with an access log, before one backend.
async fn fleet(listener: &str, route: &str, set: &str, backend: &Backend) -> (Fleet, PathBuf) {
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let spec = listening(&app_with(route, set, &backend.entry("one")), listener);
    (with_proxy(fleet, "full", &log, &spec).await, log)
}

/// Waits until the limit was hit once, and all is as before.
async fn hit_once(fleet: &Fleet, limit: &str) {
    eventually(&format!("{limit} is hit, and nothing is left"), async || {
        let (hits, open) =
            (fleet.proxies[0].limit_hits(limit).await, fleet.proxies[0].open_connections().await);
        holds((hits, open) == (1, 0), || format!("{hits} hits, {open} open"))
    })
    .await;
    fleet.idle().await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_told_408() {
    let backend = Backend::named("here").await;
    for (what, before) in [("the first", false), ("the second", true)] {
        let (fleet, _log) = fleet("header_timeout = '400ms'", "", "", &backend).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        if before {
            assert_eq!(client.get("/").await.text(), "here");
        }
        // Not for having been silent: that it goes on does not help.
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(10_000));
        let (mut slow, started) = (0, clock::now());
        let answer = loop {
            slow += client.send_slowly(&long.as_bytes()[slow..=slow], TICK).await;
            let wait = tokio::time::timeout(Duration::from_millis(1), client.wire.peek());
            if wait.await.is_ok() {
                break client.response().await;
            }
            assert!(clock::now() - started < PATIENCE, "{what} may take for ever");
        };
        assert_eq!((answer.status(), answer.proxy_error()), (408, Some("http_request_error")));
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        client.expect_closed().await;
        drop(client);
        hit_once(&fleet, "header_timeout").await;
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_without_a_word() {
    let backend = Backend::named("here").await;
    for before in [false, true] {
        let (fleet, _log) = fleet("idle_timeout = '400ms'", "", "", &backend).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        if before {
            assert_eq!(client.get("/").await.text(), "here");
        }
        client.expect_closed().await;
        hit_once(&fleet, "idle_timeout").await;
    }
}

#[tokio::test]
async fn a_body_that_stops_is_told_408_and_no_backend_is_blamed() {
    for (framing, begun) in [
        ("Content-Length: 10", "abc"),
        ("Content-Length: 10", ""),
        ("Transfer-Encoding: chunked", "5\r\nab"),
        ("Transfer-Encoding: chunked", "5\r\nabcde\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nabcde\r\n0\r\nX: "),
    ] {
        let backend = Backend::named("here").await;
        let (fleet, log) = fleet("body_timeout = '400ms'", "", "", &backend).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send_raw(format!("PUT / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{begun}")).await;
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.proxy_error()), (408, Some("http_request_error")));
        assert_eq!(answer.header("connection"), Some("close"));
        client.expect_closed().await;
        hit_once(&fleet, "body_timeout").await;
        check(&line(&log).await, json!({ "status": 408, "reason": "body_timeout" }));
        assert_eq!(fleet.proxies[0].blamed().await, 0.0, "{framing:?}, {begun:?}");
        assert_eq!(backend.count(), 0, "it never was a whole request");
    }
}

/// It was to say whether the body is wanted.
#[tokio::test]
async fn a_backend_that_says_nothing_to_a_client_that_waits_to_go_on_is_504() {
    for framing in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        let backend = Backend::script(|mut wire, _| async move { wire.closed().await }).await;
        let route = "timeout = '400ms'\nretry = { attempts = 1 }";
        let (fleet, log) = fleet("body_timeout = '10m'", route, "", &backend).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        let head =
            format!("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n");
        client.send_raw(head).await;
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.proxy_error()), (504, Some("http_response_timeout")));
        check(&line(&log).await, json!({ "status": 504, "reason": "http_response_timeout" }));
        assert_eq!(fleet.proxies[0].blamed().await, 1.0, "{framing}");
        fleet.idle().await;
    }
}

/// Its client has nothing more to send, and waits for all of it.
#[tokio::test]
async fn an_answer_instead_of_a_word_to_go_on_may_take_its_time() {
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(_)) = wire.head().await else { return };
        let _ = wire.send("HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n").await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let _ = wire.send("x").await;
        }
        wire.closed().await;
    })
    .await;
    let (fleet, _log) = fleet("body_timeout = '400ms'", "", "", &backend).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    client.send_raw(head).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.text().as_str()), (403, "xxxxx"));
    assert_eq!(fleet.proxies[0].limit_hits("body_timeout").await, 0);
}

#[tokio::test]
async fn an_upload_may_take_longer_than_any_limit_as_long_as_it_goes_on() {
    let backend = Backend::start(Reply::echo).await;
    let limits = "body_timeout = '600ms'\nheader_timeout = '600ms'\nidle_timeout = '600ms'";
    let route = "timeout = '600ms'\nretry = { per_try_timeout = '300ms', on = ['timeout'] }";
    let (fleet, _log) = fleet(limits, route, "", &backend).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send_raw("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n").await;
    let sent = client.send_slowly(&[b'x'; 30], Duration::from_millis(100)).await;
    assert_eq!(sent, 30);
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.body.bytes.len()), (200, 30), "{answer:?}");
    assert_eq!(backend.count(), 1);
    assert_eq!(fleet.proxies[0].blamed().await, 0.0);
}

#[tokio::test]
async fn a_backend_that_reads_slowly_is_no_failure() {
    // More than all the buffers on the way.
    const LENGTH: usize = 24 * MEGABYTE;
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(_)) = wire.head().await else { return };
        for _ in 0..24 {
            if wire.exactly(MEGABYTE).await.is_err() {
                return;
            }
            tokio::time::sleep(TICK * 4).await;
        }
        let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nread").await;
    })
    .await;
    // Less than all of it takes, and more than what the system's buffers have at the end.
    let route = "timeout = '3500ms'\nretry = { attempts = 1 }";
    let (fleet, _log) = fleet("", route, "", &backend).await;
    let answer =
        client::request(fleet.proxies[0].web(), &Request::post("/", vec![b'x'; LENGTH])).await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "read"));
    assert_eq!(fleet.proxies[0].blamed().await, 0.0);
    fleet.idle().await;
}

#[tokio::test]
async fn a_backend_that_takes_nothing_of_an_upload_is_504() {
    let backend = Backend::script(|mut wire, _| async move {
        let _ = wire.head().await;
        std::future::pending().await
    })
    .await;
    let route = "timeout = '500ms'\nretry = { attempts = 1 }";
    let (fleet, log) = fleet("", route, "", &backend).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let body = vec![b'x'; 32 * MEGABYTE];
    // What is not wanted any more is read, so that the answer can be.
    client.send(&Request::post("/", body)).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.proxy_error()), (504, Some("connection_write_timeout")));
    check(&line(&log).await, json!({ "status": 504, "reason": "connection_write_timeout" }));
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("lb_proxy_attempt_timeouts_total", &[]), 1.0);
    fleet.idle().await;
}

#[tokio::test]
async fn a_response_that_stops_is_cut_off_and_both_sides_are_let_go() {
    for (framing, begun) in [
        ("Transfer-Encoding: chunked", "7\r\ndata: 1\r\n"),
        ("Content-Length: 100", "data: 1"),
        ("Transfer-Encoding: chunked", ""),
    ] {
        let gone = Gate::closed();
        let signal = gone.clone();
        let backend = Backend::script(move |mut wire, _| {
            let signal = signal.clone();
            async move {
                let Ok(Some(_)) = wire.head().await else { return };
                let _ = wire.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{begun}")).await;
                wire.closed().await;
                signal.open();
            }
        })
        .await;
        let (fleet, log) = fleet("", "stream_idle_timeout = '400ms'", "", &backend).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send(&Request::get("/")).await;
        let answer = client.try_response().await;
        assert!(answer.is_err(), "it looks whole: {answer:?}");
        within(PATIENCE, "the backend is let go", gone.passed()).await;
        hit_once(&fleet, "stream_idle_timeout").await;
        check(&line(&log).await, json!({ "status": 200, "reason": "stream_idle_timeout" }));
    }
}

#[tokio::test]
async fn a_stream_goes_on_for_as_long_as_it_says_something_or_may_be_silent() {
    let speak = Gate::closed();
    let gate = speak.clone();
    let backend = Backend::script(move |mut wire, _| {
        let gate = gate.clone();
        async move {
            let Ok(Some(head)) = wire.head().await else { return };
            let _ = wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            if head.target() == "/silent" {
                gate.passed().await;
                let _ = wire.send("4\r\nlast\r\n0\r\n\r\n").await;
            } else {
                for _ in 0..20 {
                    let _ = wire.send("1\r\nx\r\n").await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let _ = wire.send("0\r\n\r\n").await;
            }
        }
    })
    .await;
    let spec = app("stream_idle_timeout = '700ms'", "", &[backend.address()]);
    let spec = format!(
        "{spec}
         [[routes]]
         name = 'silent'
         match = {{ path = '/silent' }}
         stream_idle_timeout = '0s'
         backend_set = 'app'"
    );
    let limits = "idle_timeout = '300ms'\nheader_timeout = '300ms'\nwrite_timeout = '300ms'";
    let fleet = Fleet::start(1, &listening(&spec, limits)).await;
    let web = fleet.proxies[0].web();
    let mut silent = Client::connect(web).await;
    silent.send(&Request::get("/silent")).await;
    assert_eq!(client::get(web, "/steady").await.text(), "x".repeat(20));
    speak.open();
    assert_eq!(silent.response().await.text(), "last");
}

/// A backend that does not stop sending one answer, and says when it cannot any more.
async fn endless(gone: Gate) -> Backend {
    Backend::script(move |mut wire, _| {
        let gone = gone.clone();
        async move {
            let Ok(Some(_)) = wire.head().await else { return };
            let _ = wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while wire.send(&chunk).await.is_ok() {}
            gone.open();
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go_and_no_backend_is_blamed() {
    let gone = Gate::closed();
    let backend = endless(gone.clone()).await;
    let route = "stream_idle_timeout = '400ms'";
    let (fleet, log) = fleet("write_timeout = '800ms'", route, "", &backend).await;
    let mut client = Client::connect_narrow(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    within(PATIENCE, "the backend is let go", gone.passed()).await;
    hit_once(&fleet, "write_timeout").await;
    check(&line(&log).await, json!({ "status": 200, "reason": "write_timeout" }));
    assert_eq!(fleet.proxies[0].limit_hits("stream_idle_timeout").await, 0);
    assert_eq!(fleet.proxies[0].blamed().await, 0.0);
}

/// More than the kernel takes for a client that reads nothing, in many answers.
#[tokio::test]
async fn a_client_that_takes_nothing_of_the_proxys_own_answers_is_let_go() {
    let backend = Backend::named("here").await;
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let body = "x".repeat(60_000);
    let spec = listening(&app_with("", "", &backend.entry("one")), "write_timeout = '400ms'");
    let own = format!(
        "{spec}\n[[routes]]\nname = 'own'\nmatch = {{ path = '/own' }}
         answer = {{ status = 200, body = '{body}' }}"
    );
    let fleet = with_proxy(fleet, "full", &log, &own).await;
    let mut client = Client::connect_narrow(fleet.proxies[0].web()).await;
    client.send_raw(Request::get("/own").to_bytes().repeat(500)).await;
    hit_once(&fleet, "write_timeout").await;
    eventually("the log says why", async || {
        let lines = std::fs::read_to_string(&log).expect("there is a log");
        let last = lines.lines().last().unwrap_or_default().to_owned();
        holds(last.contains("\"reason\":\"write_timeout\""), || last)
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_little_by_little_is_served() {
    // More than all the buffers on the way.
    const LENGTH: usize = 32 * MEGABYTE;
    let backend = Backend::start(|_| Reply::ok(vec![b'x'; LENGTH])).await;
    let route = "stream_idle_timeout = '1s'";
    let (fleet, _log) = fleet("write_timeout = '1s'", route, "", &backend).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    client.wire.head().await.expect("HTTP").expect("an answer");
    for _ in 0..32 {
        tokio::time::sleep(TICK).await;
        client.wire.exactly(MEGABYTE).await.expect("it goes on");
    }
    assert_eq!(fleet.proxies[0].blamed().await, 0.0);
    fleet.idle().await;
}

#[tokio::test]
async fn a_backend_that_takes_no_connection_is_left_after_connect_timeout() {
    let hole = Blackhole::start().await;
    let good = Backend::named("good").await;
    let set = "connect_timeout = '300ms'\noutlier_ejection = { disabled = true }";
    let alone = Fleet::start(1, &app("", set, &[hole.address()])).await;
    let answer = client::get(alone.proxies[0].web(), "/").await;
    assert_eq!((answer.status(), answer.proxy_error()), (504, Some("connection_timeout")));
    let both = Fleet::start(1, &app("", set, &[hole.address(), good.address()])).await;
    for _ in 0..4 {
        // Nobody has seen it, so a POST goes on to the next.
        let answer = client::request(both.proxies[0].web(), &Request::post("/", "x")).await;
        assert_eq!(answer.text(), "good");
    }
    assert_eq!(good.count(), 4);
    both.idle().await;
}

#[tokio::test]
async fn a_connection_that_turns_out_stale_late_does_not_use_up_the_time_for_a_new_one() {
    // Longer than a connect may take.
    const LATE: Duration = Duration::from_millis(600);
    let backend = Backend::script(|mut wire, connection| async move {
        for i in 0.. {
            let Ok(Some(_)) = wire.head().await else { return };
            if connection == 0 && i == 1 {
                tokio::time::sleep(LATE).await;
                return;
            }
            let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let set = "connect_timeout = '200ms'";
    let (fleet, _log) = fleet("", "retry = { attempts = 1 }", set, &backend).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{answer:?}");
    }
    assert_eq!(backend.connections(), 2);
    let metrics = fleet.proxies[0].metrics().await;
    assert_eq!(metrics.sum("lb_proxy_connect_failures_total", &[]), 0.0);
    assert_eq!(metrics.sum("lb_proxy_attempt_timeouts_total", &[]), 0.0);
}

#[tokio::test]
async fn a_tcp_connection_is_let_go_when_both_directions_are_silent() {
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(first) = wire.exactly(1).await else { return };
        if first == b"s" {
            for _ in 0..20 {
                let _ = wire.send("x").await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        wire.closed().await;
    })
    .await;
    let port = Port::reserve();
    let fleet =
        Fleet::start(1, &tcp(port.address(), "idle_timeout = '700ms'", backend.address())).await;
    let mut steady = Client::connect(port.address()).await;
    steady.send_raw("s").await;
    let mut silent = Client::connect(port.address()).await;
    silent.send_raw("q").await;
    silent.expect_closed().await;
    // One direction is enough.
    let got = steady.wire.exactly(20).await.expect("it goes on for 2 s");
    assert_eq!(got, [b'x'; 20]);
    steady.expect_closed().await;
    eventually("both are counted, and the backend is rid of them", async || {
        let hits = fleet.proxies[0].limit_hits("idle_timeout").await;
        let open = backend.open_connections();
        holds((hits, open) == (2, 0), || format!("{hits} hits, {open} open"))
    })
    .await;
    fleet.idle().await;
}
