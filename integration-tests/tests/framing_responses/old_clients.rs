//! Clients that speak HTTP/1.0.

use integration_tests::{
    client::{self, Client},
    exchange::{End, Pieces, exchange},
    fleet::{Fleet, WEB},
};

use crate::Bench;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const WITH_LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold";

impl Bench {
    fn answer(&self, bytes: impl Into<Vec<u8>>, closes: bool) {
        *self.script.lock().expect("nobody panics with it") = (bytes.into(), closes);
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_told_the_end_by_the_connection() {
    let bench = Bench::start().await;
    let web = bench.fleet.proxies[0].web();
    for keep_alive in ["", "Connection: keep-alive\r\n", "Connection: close\r\n"] {
        for (body, closes) in [
            (format!("{CHUNKED}3\r\nold\r\n0\r\n\r\n"), false),
            (format!("{CHUNKED}3\r\nold\r\n0\r\nX: 1\r\n\r\n"), false),
            ("HTTP/1.1 200 OK\r\n\r\nold".to_owned(), true),
            ("HTTP/1.0 200 OK\r\n\r\nold".to_owned(), true),
        ] {
            bench.answer(body.as_str(), closes);
            let ask = format!("GET /case HTTP/1.0\r\n{keep_alive}\r\n");
            let got = exchange(web, ask.as_bytes(), Pieces::Whole).await;
            assert_eq!(got.end, End::Closed, "{ask:?}, {body:?}: {}", got.text());
            let answers = got.answers(&[]).await.expect("it is HTTP");
            let [answer] = &answers[..] else { panic!("{ask:?}, {body:?}: {answers:?}") };
            assert_eq!((answer.status(), answer.text().as_str()), (200, "old"), "{body:?}");
            assert!(answer.head.start.starts_with("HTTP/1.1 "), "{answer:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{ask:?}, {body:?}");
            assert!(!answer.fields().has("transfer-encoding"), "{answer:?}");
            assert!(!answer.fields().has("trailer"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_if_it_asks_and_the_length_is_known() {
    let bench = Bench::start().await;
    let web = bench.fleet.proxies[0].web();
    bench.answer(WITH_LENGTH, false);
    let mut client = Client::connect(web).await;
    for i in 0..3 {
        client.send_raw("GET /case HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.text().as_str(), answer.header("content-length")), ("old", Some("3")));
        let connection = answer.header("connection").map(str::to_ascii_lowercase);
        assert_eq!(connection.as_deref(), Some("keep-alive"), "request {i}");
    }
    client.send_raw("GET /case HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.header("connection"), Some("close"));
    client.expect_closed().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_end_for_a_client_of_http_1_0() {
    let bench = Bench::start().await;
    let web = bench.fleet.proxies[0].web();
    for (body, closes) in [
        (format!("{CHUNKED}3\r\nold"), true),
        (format!("{CHUNKED}3\r\nold\r\n"), true),
        (format!("{CHUNKED}3\r\nold\r\n0\r\n"), true),
        (format!("{CHUNKED}3\r\nold\r\nx\r\n"), false),
        (format!("{CHUNKED}3\r\nold\r\n5"), true),
        (format!("{CHUNKED}3\r\nold\r\n0\r\nX : 1\r\n\r\n"), false),
    ] {
        for ask in ["GET /case HTTP/1.0\r\n\r\n", "GET /case HTTP/1.0\r\nHost: a\r\n\r\n"] {
            bench.answer(body.as_str(), closes);
            let got = exchange(web, ask.as_bytes(), Pieces::Whole).await;
            // Either it was told before the head went out, or the end is one that says so.
            let told = got.received.starts_with(b"HTTP/1.1 502 ");
            assert!(got.end == End::Reset || told, "{body:?}: {:?} {}", got.end, got.text());
        }
    }
}

#[tokio::test]
async fn a_request_without_a_host_is_not_redirected_to_nowhere() {
    let spec = format!(
        "{WEB}
         [[routes]]
         name = 'moved'
         redirect = {{ status = 302, scheme = 'https', path = '/moved' }}
         "
    );
    let fleet = Fleet::start(1, &spec).await;
    let web = fleet.proxies[0].web();
    let answer = client::raw(web, "GET /x HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status(), answer.header("location")), (302, Some("https://a/moved")));
    let answer = client::raw(web, "GET /x HTTP/1.0\r\n\r\n").await;
    let location = answer.header("location");
    let sound = match answer.status() {
        302 => location == Some("/moved"),
        status => status == 400,
    };
    assert!(sound, "there is no host to go to: {answer:?}");
}
