//! Answers that a client gets, in the form that every client understands.

use integration_tests::{
    backend::{Backend, Gate},
    client::Client,
    eventually::{eventually, holds},
    fleet::{Fleet, app},
};

use crate::{Bench, Case, kept, left, ok_with};

const CHUNKED: &str = "Transfer-Encoding: chunked";

#[tokio::test]
async fn an_answer_passes_as_it_is_but_for_what_is_between_neighbours() {
    let mut cases: Vec<Case> = Vec::new();
    const OK: &str = "HTTP/1.1 200 OK | Length(2) \"ok\"";

    for (line, seen) in [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 Fine: \"yes\"", "HTTP/1.1 200 Fine: \"yes\""),
        ("HTTP/1.1 200 ", "HTTP/1.1 200 "),
        ("HTTP/1.1 299 Odd", "HTTP/1.1 299 Odd"),
        ("HTTP/1.1 404 Not Found", "HTTP/1.1 404 Not Found"),
        ("HTTP/1.1 500 No", "HTTP/1.1 500 No"),
        ("HTTP/1.2 200 OK", "HTTP/1.1 200 OK"),
    ] {
        cases.push(kept(format!("{line}\r\nContent-Length: 2\r\n\r\nok"), {
            format!("{seen} | Length(2) \"ok\"")
        }));
    }

    for fields in [
        "X: b",
        "x-lower: b",
        "X-cAsE: b",
        "X: é",
        "X: a\tb",
        "X: 1 | Y: 2 | X: 3",
        "Set-Cookie: a=b | Set-Cookie: c=d; Path=/",
        "Server: scripted/1.0",
        "ETag: W/\"x\"",
        "Content-Type: text/html; charset=utf-8",
        "Content-Encoding: gzip",
        "Location: http://b/#c",
        "WWW-Authenticate: Basic realm=\"a\"",
        "X-Forwarded-For: 1.2.3.4",
        "Proxy-Status: inner; error=dns_error",
    ] {
        let lines = format!("{}\r\nContent-Length: 2", fields.replace(" | ", "\r\n"));
        cases.push(kept(ok_with(&lines, "ok"), {
            format!("HTTP/1.1 200 OK | {fields} | Length(2) \"ok\"")
        }));
    }
    for lines in [
        "Connection: keep-alive",
        "Connection: X-Internal\r\nX-Internal: 1",
        "X-Internal: 1\r\nConnection: x-internal, keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authenticate: Basic",
        "Upgrade: h2c",
        "Connection: Upgrade\r\nUpgrade: h2c",
        "TE: trailers",
        "Trailer: X",
        "Connection: Content-Length",
        // What could be read as framing is not passed on.
        "Content_Length: 5",
        "Transfer_Encoding: chunked",
    ] {
        cases.push(kept(ok_with(&format!("{lines}\r\nContent-Length: 2"), "ok"), OK));
    }

    // A length that is said several times, each time the same, is one (RFC 9110, 8.6).
    for lines in [
        "Content-Length: 2",
        "Content-Length:2",
        "Content-Length: \t2 ",
        "content-length: 2",
        "Content-Length: 02",
        "Content-Length: 2, 2",
        "Content-Length: 2,2",
        "Content-Length: 2 ,\t2, 2",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2\r\ncontent-length: 2",
    ] {
        cases.push(kept(ok_with(lines, "ok"), OK));
    }
    cases.push(kept(ok_with("Content-Length: 0", ""), "HTTP/1.1 200 OK | Length(0) \"\""));

    const IN_CHUNKS: &str = "HTTP/1.1 200 OK | Chunked \"ok\"";
    for coding in ["chunked", "Chunked", "CHUNKED", " \tchunked "] {
        cases.push(kept(
            ok_with(&format!("Transfer-Encoding: {coding}"), "2\r\nok\r\n0\r\n\r\n"),
            IN_CHUNKS,
        ));
    }
    for body in [
        "02\r\nok\r\n0\r\n\r\n",
        "1\r\no\r\n1\r\nk\r\n000\r\n\r\n",
        "2;a=b\r\nok\r\n0;c\r\n\r\n",
        "2;a=\"b;c\"\r\nok\r\n0\r\n\r\n",
    ] {
        cases.push(kept(ok_with(CHUNKED, body), IN_CHUNKS));
    }
    cases.push(kept(ok_with(CHUNKED, "0\r\n\r\n"), "HTTP/1.1 200 OK | Chunked \"\""));
    cases.push(left("HTTP/1.1 200 OK\r\n\r\nok", IN_CHUNKS).closing());
    cases.push(left("HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK | Chunked \"\"").closing());
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn a_connection_is_used_again_only_if_nothing_speaks_against_it() {
    const OK: &str = "HTTP/1.1 200 OK | Length(2) \"ok\"";
    const IN_CHUNKS: &str = "HTTP/1.1 200 OK | Chunked \"ok\"";
    let with_length = |lines: &str| ok_with(&format!("{lines}\r\nContent-Length: 2"), "ok");
    let old = |lines: &str| format!("HTTP/1.0 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok");
    let cases = vec![
        left(with_length("Connection: close"), OK),
        left(with_length("Connection: Close"), OK),
        left(with_length("Connection: keep-alive, close"), OK),
        left(with_length("Connection: keep-alive\r\nConnection: close"), OK),
        left(with_length("Connection: close, X-Internal\r\nX-Internal: 1"), OK),
        left(
            ok_with("Connection: close\r\nTransfer-Encoding: chunked", "2\r\nok\r\n0\r\n\r\n"),
            IN_CHUNKS,
        ),
        // Of HTTP/1.0, whatever it promises.
        left(old(""), OK),
        left(old("Connection: keep-alive\r\n"), OK),
        left(old("").replace("Content-Length: 2\r\n", ""), IN_CHUNKS).closing(),
        // More than was asked for.
        left(ok_with("Content-Length: 2", "okX"), OK),
        left(ok_with("Content-Length: 2", "ok\r\n"), OK),
        left(ok_with("Content-Length: 2", "okHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"), OK),
        left(ok_with("Content-Length: 0", "no"), "HTTP/1.1 200 OK | Length(0) \"\""),
        left(ok_with(CHUNKED, "2\r\nok\r\n0\r\n\r\nX"), IN_CHUNKS),
        left(ok_with(CHUNKED, "2\r\nok\r\n0\r\n\r\n\r\n"), IN_CHUNKS),
        left("HTTP/1.1 204 No Content\r\n\r\nno", "HTTP/1.1 204 No Content"),
        left("HTTP/1.1 304 Not Modified\r\n\r\nno", "HTTP/1.1 304 Not Modified"),
        left("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", {
            "HTTP/1.1 304 Not Modified | (2)"
        }),
        left(ok_with("Content-Length: 2", "ok"), "HTTP/1.1 200 OK | (2)").to("HEAD"),
        left(ok_with(CHUNKED, "2\r\nok\r\n0\r\n\r\n"), "HTTP/1.1 200 OK").to("HEAD"),
        // Without a body, all is well.
        kept("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content"),
        kept("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\n", {
            "HTTP/1.1 304 Not Modified | ETag: \"x\" | (2)"
        }),
        kept(ok_with("Content-Length: 2", ""), "HTTP/1.1 200 OK | (2)").to("HEAD"),
        kept(ok_with("Content-Length: 2, 2", ""), "HTTP/1.1 200 OK | (2)").to("HEAD"),
        kept(ok_with(CHUNKED, ""), "HTTP/1.1 200 OK").to("HEAD"),
        kept(ok_with("X: 1", ""), "HTTP/1.1 200 OK | X: 1").to("HEAD"),
        kept(ok_with("Content-Length: 2", "ok"), OK).to("POST"),
        kept(ok_with("Content-Length: 2", "ok"), OK).to("OPTIONS"),
        kept("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", {
            "HTTP/1.1 205 Reset | Length(0) \"\""
        }),
    ];
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn interim_answers_pass_up_to_sixteen_and_without_framing() {
    let then = |interim: &str| format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    const OK: &str = "HTTP/1.1 200 OK | Length(2) \"ok\"";
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let seen_early = "HTTP/1.1 103 Early Hints | Link: </a> then ";
    let mut cases = vec![
        kept(then(early), format!("{seen_early}{OK}")),
        kept(then(&early.repeat(16)), format!("{}{OK}", seen_early.repeat(16))),
        kept(then("HTTP/1.1 102 Processing\r\n\r\n"), {
            format!("HTTP/1.1 102 Processing then {OK}")
        }),
        kept(then("HTTP/1.1 199 Odd\r\n\r\n"), format!("HTTP/1.1 199 Odd then {OK}")),
        // Nobody asked whether to continue.
        kept(then("HTTP/1.1 100 Continue\r\n\r\n"), OK),
        kept(then(&format!("HTTP/1.1 100 Continue\r\n\r\n{early}")), format!("{seen_early}{OK}")),
    ];
    for line in [
        "Content-Length: 2",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "Connection: X-Internal\r\nX-Internal: 1",
        "Keep-Alive: 5",
        "Trailer: X",
    ] {
        cases.push(kept(then(&early.replace("Link", &format!("{line}\r\nLink"))), {
            format!("{seen_early}{OK}")
        }));
    }
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn trailers_of_an_answer_pass_but_those_that_mean_something_to_a_connection() {
    const OK: &str = "HTTP/1.1 200 OK | Chunked \"ok\"";
    let trailed = |lines: &str| ok_with(CHUNKED, &format!("2\r\nok\r\n0\r\n{lines}\r\n\r\n"));
    let mut cases = vec![
        kept(trailed("X-Sum: 7"), format!("{OK} + X-Sum: 7")),
        kept(trailed("x-a: 1\r\nX-B:2\r\nx-a: 3"), format!("{OK} + x-a: 1 + X-B: 2 + x-a: 3")),
        kept(trailed("grpc-status: 0"), format!("{OK} + grpc-status: 0")),
        kept(trailed("Content-Length: 3\r\nX: 1"), format!("{OK} + X: 1")),
    ];
    for line in [
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Host: b",
        "Connection: close",
        "Keep-Alive: 5",
        "Trailer: X",
        "Upgrade: h2c",
        "Set-Cookie: a=b",
        "Location: /x",
        "Authorization: x",
        "Proxy-Authenticate: Basic",
        "WWW-Authenticate: Basic",
    ] {
        cases.push(kept(trailed(line), OK));
    }
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn a_connection_on_which_a_backend_speaks_unasked_is_not_used() {
    let speak = Gate::closed();
    let gate = speak.clone();
    let backend = Backend::script(move |mut wire, connection| {
        let gate = gate.clone();
        async move {
            while let Ok(Some(_)) = wire.head().await {
                let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                if connection == 0 {
                    gate.passed().await;
                    // It would be the answer to the next request.
                    let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
                }
            }
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    assert_eq!(client.get("/").await.text(), "ok");
    speak.open();
    eventually("the connection is closed", async || {
        holds(backend.open_connections() == 0, || "it is open".into())
    })
    .await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(backend.connections(), 2);
}
