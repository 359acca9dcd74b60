use std::{num::NonZeroU16, sync::Arc};

use ::http::{HeaderMap, HeaderValue};
use lb_common::spec::{CheckAddress, HealthCheck};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::*;
use crate::health::tests::check_of;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const PASS: Option<Outcome> = Some(Outcome::Pass);
const FAIL: Option<Outcome> = Some(Outcome::Fail);

/// A backend that answers each connection's requests with what its script says, and then closes it; or
/// waits, if the script ends with nothing. It tells what it was asked, and on which connection.
struct Backend {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<(usize, String)>,
    task: JoinHandle<()>,
}

impl Backend {
    /// One script a connection.
    async fn start(scripts: Vec<Vec<&'static [u8]>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let (tell, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            for (connection, script) in scripts.into_iter().enumerate() {
                let (mut stream, _) = listener.accept().await.expect("the probe connects");
                let tell = tell.clone();
                tokio::spawn(async move {
                    for answer in script {
                        let request = read(&mut stream).await;
                        let _ = tell.send((connection, request));
                        match answer {
                            [] => drop(stream.read(&mut [0; 64]).await),
                            answer => stream.write_all(answer).await.expect("the probe reads"),
                        }
                    }
                });
            }
        });
        Self { address, asked, task }
    }

    async fn once(answer: &'static [u8]) -> Self {
        Self::start(vec![vec![answer]]).await
    }

    /// By connection, what it was asked so far.
    fn asked(&mut self) -> Vec<(usize, String)> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }

    fn connections(&mut self) -> Vec<usize> {
        self.asked().into_iter().map(|(connection, _)| connection).collect()
    }
}

async fn read(stream: &mut TcpStream) -> String {
    let mut request = vec![0; 4096];
    let n = stream.read(&mut request).await.expect("the probe asks");
    request.truncate(n);
    String::from_utf8(request).expect("is text")
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("is bound")
}

fn asking(probe: Probe) -> Asking {
    let check = HealthCheck { probe, timeout: Duration::from_secs(5), ..check_of(1, 1) };
    Asking { check: Arc::new(check), tls: None, proxy_protocol: None }
}

fn within(timeout: Duration, asking: Asking) -> Asking {
    let check = HealthCheck { timeout, ..HealthCheck::clone(&asking.check) };
    Asking { check: Arc::new(check), ..asking }
}

fn http(path: &str, expect_body: &str) -> Asking {
    let mut headers = HeaderMap::new();
    headers.insert("x-probe", HeaderValue::from_static("1"));
    asking(Probe::Http {
        path: path.into(),
        statuses: vec![200..=299, 304..=304],
        host: Some("app.test".into()),
        headers,
        expect_body: expect_body.into(),
    })
}

fn tcp(send: &str, expect: &str) -> Asking {
    asking(Probe::Tcp { send: send.into(), expect: expect.into() })
}

/// A probe whose connection is not kept.
async fn once(address: SocketAddr, asking: &Asking) -> (Option<Outcome>, String) {
    let (finding, kept) = probe(address, asking, None, 1).await;
    assert!(kept.is_none(), "it was to be used once");
    (finding.outcome, finding.detail)
}

#[track_caller]
fn is((outcome, detail): (Option<Outcome>, String), expected: Option<Outcome>, why: &str) {
    assert_eq!((outcome, detail.as_str()), (expected, why));
}

async fn check_answer(answer: &'static [u8], outcome: Outcome, detail: &str) {
    let backend = Backend::once(answer).await;
    is(once(backend.address, &http("/up", "")).await, Some(outcome), detail);
}

#[tokio::test]
async fn the_status_decides() {
    check_answer(b"HTTP/1.1 204 No Content\r\n\r\n", Outcome::Pass, "status 204").await;
    check_answer(b"HTTP/1.1 304 Not Modified\r\n\r\n", Outcome::Pass, "status 304").await;
    let unavailable = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    check_answer(unavailable, Outcome::Fail, "status 503, expected 2xx or 304").await;
    let interim = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    check_answer(interim, Outcome::Pass, "status 200").await;
    let no_http = b"SSH-2.0-server\r\n";
    check_answer(no_http, Outcome::Fail, "this is no HTTP/1 response").await;
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_a_failure() {
    let backend = Backend::start(vec![vec![]]).await;
    let (outcome, _) = once(backend.address, &http("/up", "")).await;
    assert_eq!(outcome, FAIL);
    check_answer(b"HTTP/1.1 2", Outcome::Fail, "connection closed without an answer").await;
}

#[tokio::test]
async fn the_request_is_what_the_check_says() {
    let mut backend = Backend::once(OK).await;
    once(backend.address, &http("/up?deep=1", "")).await;
    let (_, request) = backend.asked().remove(0);
    let expected = "GET /up?deep=1 HTTP/1.1\r\nhost: app.test\r\nuser-agent: lb-health\r\n\
                    connection: close\r\nx-probe: 1\r\n\r\n";
    assert_eq!(request, expected);
}

#[tokio::test]
async fn a_header_of_the_check_replaces_the_usual_one() {
    let mut backend = Backend::once(OK).await;
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("mine"));
    let (path, statuses, host, expect_body) = ("/".into(), vec![200..=299], None, String::new());
    once(backend.address, &asking(Probe::Http { path, statuses, host, headers, expect_body }))
        .await;
    let (_, request) = backend.asked().remove(0);
    let expected =
        format!("host: {}\r\nconnection: close\r\nuser-agent: mine\r\n", backend.address);
    assert_eq!(request, format!("GET / HTTP/1.1\r\n{expected}\r\n"));
}

#[tokio::test]
async fn nobody_there_is_told_from_silence() {
    let grpc = asking(Probe::Grpc { service: String::new(), host: None });
    for asking in [http("/", ""), tcp("", ""), tcp("PING", "PONG"), grpc] {
        is(once(nobody().await, &asking).await, FAIL, "connection refused");
    }
    let short = Duration::from_millis(30);
    for asking in [http("/", ""), tcp("PING", "PONG")] {
        let backend = Backend::once(b"").await;
        is(once(backend.address, &within(short, asking)).await, FAIL, "no answer within 30ms");
    }
}

#[tokio::test]
async fn a_connect_is_enough_for_tcp() {
    let backend = Backend::start(vec![vec![]]).await;
    is(once(backend.address, &tcp("", "")).await, PASS, "connected");
}

#[tokio::test]
async fn tcp_says_something_and_looks_for_what_is_expected() {
    let mut backend = Backend::once(b"+PONG\r\n").await;
    let ping = tcp("PING\r\n", "+PONG");
    is(once(backend.address, &ping).await, PASS, "answered \"+PONG\"");
    assert_eq!(backend.asked(), [(0, "PING\r\n".into())]);

    let backend = Backend::once(b"-NOAUTH\r\n").await;
    let why = "expected \"+PONG\", got \"-NOAUTH\\r\\n\"";
    is(once(backend.address, &ping).await, FAIL, why);
}

#[tokio::test]
async fn tcp_waits_for_a_greeting_that_it_need_not_ask_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let greeting = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the probe connects");
        stream.write_all(b"220 mail ready\r\n").await.expect("the probe reads");
        stream
    });
    is(once(address, &tcp("", "220 ")).await, PASS, "answered \"220 \"");
    greeting.await.expect("it greets");
}

#[tokio::test]
async fn a_body_must_contain_what_is_expected() {
    let up =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nis rea\r\n2\r\ndy\r\n0\r\n\r\n";
    let backend = Backend::once(up).await;
    is(once(backend.address, &http("/", "ready")).await, PASS, "status 200");

    let starting = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nstarting";
    let backend = Backend::once(starting).await;
    let why = "status 200, of its body expected \"ready\", got \"starting\"";
    is(once(backend.address, &http("/", "ready")).await, FAIL, why);

    let sick = b"HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nready";
    let backend = Backend::once(sick).await;
    let why = "status 500, expected 2xx or 304";
    is(once(backend.address, &http("/", "ready")).await, FAIL, why);

    let until_close = b"HTTP/1.1 200 OK\r\n\r\nready";
    let backend = Backend::once(until_close).await;
    is(once(backend.address, &http("/", "ready")).await, PASS, "status 200");

    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nrea";
    let backend = Backend::once(cut).await;
    is(once(backend.address, &http("/", "ready")).await, FAIL, "the body ends early");
}

/// Nobody waits for a body of which the text can be no part any more.
#[tokio::test]
async fn a_body_is_looked_at_as_far_as_64_kib() {
    let body = |text: &str, before: usize| -> &'static [u8] {
        let body = ".".repeat(before) + text;
        format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{body}").leak().as_bytes()
    };
    let backend = Backend::start(vec![vec![body("ready", 64 * 1024 - 5), b""]]).await;
    is(once(backend.address, &http("/", "ready")).await, PASS, "status 200");
    let backend = Backend::start(vec![vec![body("ready", 64 * 1024 - 4), b""]]).await;
    let (outcome, detail) = once(backend.address, &http("/", "ready")).await;
    assert_eq!(outcome, FAIL, "{detail}");
    assert!(
        detail.starts_with("status 200, of its body expected \"ready\", got \"..."),
        "{detail}"
    );
}

#[tokio::test]
async fn a_connection_is_used_as_often_as_it_may_be_and_told_when_that_is_over() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let mut backend = Backend::start(vec![vec![OK, chunked, OK], vec![OK]]).await;
    let asking = http("/", "");
    let mut kept = None;
    for left in [2, 1, 0] {
        let (finding, next) = probe(backend.address, &asking, kept, 3).await;
        assert_eq!(finding.outcome, PASS, "{}", finding.detail);
        kept = next;
        assert_eq!(kept.as_ref().map_or(0, |kept| kept.uses), left);
    }
    probe(backend.address, &asking, kept, 1).await;
    let asked = backend.asked();
    let connections: Vec<_> = asked.iter().map(|(connection, _)| *connection).collect();
    let closes: Vec<_> = asked.iter().map(|(_, head)| head.contains("connection: close")).collect();
    assert_eq!(connections, [0, 0, 0, 1]);
    assert_eq!(closes, [false, false, true, true]);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    let mut backend = Backend::start(vec![vec![OK], vec![OK]]).await;
    let (finding, kept) = probe(backend.address, &http("/", ""), None, 5).await;
    assert!(finding.outcome == PASS && kept.is_some());
    // Whether its end has come already or not.
    let (finding, kept) = probe(backend.address, &http("/", ""), kept, 5).await;
    assert!(finding.outcome == PASS && kept.is_some(), "{finding:?}");
    assert_eq!(backend.connections(), [0, 1]);
}

/// The backend takes the request and closes then, as one does whose idle timeout ends just now.
#[tokio::test]
async fn a_kept_connection_that_is_closed_instead_of_an_answer_is_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let backend = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.expect("the probe connects");
        read(&mut first).await;
        first.write_all(OK).await.expect("the probe reads");
        read(&mut first).await;
        drop(first);
        let (mut second, _) = listener.accept().await.expect("the probe connects again");
        read(&mut second).await;
        second.write_all(OK).await.expect("the probe reads");
    });
    let (_, kept) = probe(address, &http("/", ""), None, 5).await;
    let (finding, _) = probe(address, &http("/", ""), kept, 5).await;
    assert_eq!(finding.outcome, PASS, "{}", finding.detail);
    backend.await.expect("it was asked anew");
}

#[tokio::test]
async fn a_kept_connection_that_brings_a_bad_answer_is_a_failure_at_once() {
    let sick = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    let mut backend = Backend::start(vec![vec![OK, sick], vec![OK]]).await;
    let (_, kept) = probe(backend.address, &http("/", ""), None, 5).await;
    let (finding, kept) = probe(backend.address, &http("/", ""), kept, 5).await;
    assert_eq!(finding.outcome, FAIL);
    assert!(kept.is_some(), "the connection is good");
    assert_eq!(backend.connections(), [0, 0]);
}

#[tokio::test]
async fn what_cannot_be_asked_again_is_not_kept() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".as_slice(),
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it closes",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
    ] {
        let backend = Backend::once(answer).await;
        let (finding, kept) = probe(backend.address, &http("/", ""), None, 5).await;
        assert_eq!((finding.outcome, kept.is_some()), (PASS, false), "{finding:?}");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_changes_nothing_of_what_the_status_says() {
    let backend = Backend::start(vec![vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n.", b""]]);
    let backend = backend.await;
    let short = within(Duration::from_millis(30), http("/", ""));
    let (finding, kept) = probe(backend.address, &short, None, 5).await;
    assert_eq!((finding.outcome, finding.detail.as_str()), (PASS, "status 200"));
    assert!(kept.is_none() && finding.took < Duration::from_millis(30), "{finding:?}");
}

/// Else a probe of a backend that is unwell would take as long as the check allows, and its finding too.
#[tokio::test]
async fn the_rest_of_an_answer_that_is_judged_is_not_waited_for() {
    let hour = Duration::from_secs(3600);
    for (answer, outcome) in [
        (b"HTTP/1.1 503 No\r\ncontent-length: 10\r\n\r\n".as_slice(), FAIL),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n.", PASS),
    ] {
        let backend = Backend::start(vec![vec![answer, b""]]).await;
        let asking = within(hour, http("/", ""));
        let probed = probe(backend.address, &asking, None, 5);
        let probed = tokio::time::timeout(Duration::from_secs(20), probed).await;
        let (finding, kept) = probed.expect("nothing is waited for");
        assert_eq!((finding.outcome, kept.is_some()), (outcome, false), "{finding:?}");
    }
}

#[tokio::test]
async fn interim_answers_are_bounded() {
    let answer = |interims: usize| -> &'static [u8] {
        let interims = "HTTP/1.1 102 Processing\r\n\r\n".repeat(interims);
        format!("{interims}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").leak().as_bytes()
    };
    check_answer(answer(16), Outcome::Pass, "status 200").await;
    check_answer(answer(17), Outcome::Fail, "more than 16 interim answers").await;
}

/// What is around chunks is nothing of the body.
#[tokio::test]
async fn a_body_in_small_chunks_is_looked_at_as_far_as_one_in_large_ones() {
    let body = "1\r\n.\r\n".repeat(30_000);
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = format!("{head}{body}5\r\nready\r\n0\r\n\r\n").leak().as_bytes();
    let backend = Backend::start(vec![vec![answer]]).await;
    is(once(backend.address, &http("/", "ready")).await, PASS, "status 200");
}

/// Its connection goes on, and still it is noticed: when that has served its last probe.
#[tokio::test]
async fn a_backend_that_takes_no_new_connections_is_noticed_within_the_bound() {
    const USES: usize = 4;
    let backend = Backend::start(vec![vec![OK; USES]]).await;
    let asking = http("/", "");
    let (_, mut kept) = probe(backend.address, &asking, None, 4).await;
    // Its listener goes once all of its connections have come.
    backend.task.await.expect("one has come");
    let mut passes = 1;
    loop {
        let (finding, next) = probe(backend.address, &asking, kept, 4).await;
        if finding.outcome == FAIL {
            assert_eq!(finding.detail, "connection refused");
            break;
        }
        (passes, kept) = (passes + 1, next);
    }
    assert_eq!(passes, USES);
}

#[test]
fn a_check_may_go_to_another_port_or_address() {
    let backend = SocketAddr::from(([10, 0, 0, 1], 80));
    let other = SocketAddr::from(([10, 0, 0, 9], 8080));
    let port = NonZeroU16::new(81).expect("is not 0");
    assert_eq!(CheckAddress::OfTraffic.of(backend), backend);
    assert_eq!(CheckAddress::Port(port).of(backend), SocketAddr::from(([10, 0, 0, 1], 81)));
    assert_eq!(CheckAddress::Other(other).of(backend), other);
}

#[tokio::test]
async fn grpc_asks_for_the_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
    );
    let cases = [
        ("", Outcome::Pass, "SERVING"),
        ("up", Outcome::Pass, "SERVING"),
        ("down", Outcome::Fail, "NOT_SERVING, expected SERVING"),
        ("else", Outcome::Fail, "Some requested entity was not found: service not registered"),
    ];
    for (service, outcome, detail) in cases {
        let grpc = asking(Probe::Grpc { service: service.into(), host: None });
        is(once(address, &grpc).await, Some(outcome), detail);
    }
}
