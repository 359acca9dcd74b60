//! Where a request's body ends, which is where the next request begins.

use crate::{Bench, Case, cut, passed, passed_last, refused, refused_with};

fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}").into_bytes()
}

fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    [&post("Transfer-Encoding: chunked", ""), body.as_ref()].concat()
}

/// What a request smuggled in a body would be.
const INNER: &str = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_length_that_could_be_read_in_two_ways_is_refused() {
    let mut cases: Vec<Case> = Vec::new();
    for length in [
        "",
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,5",
        "5, 5",
        "5,",
        ",5",
        "5, 6",
        "5;",
        "5.0",
        "5e0",
        "five",
        "'5'",
        "\"5\"",
        "5\u{b}",
        "\u{c}5",
        "5\0",
        "5_0",
        "٥",
        "5-",
        "99999999999999999999",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999999999999999999",
        "5 \t5",
        "#5",
        "0b1",
        "05x",
        "٠",
    ] {
        cases.push(refused(post(&format!("Content-Length: {length}"), "hello")));
    }
    for lines in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\ncontent-length: 0",
        "Content-Length: 0\r\nX: 1\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length:",
        "Content-Length:\r\n 5",
        "Content-Length: 5\r\n 5",
        "Content-Length : 5",
        "Content-Length\t: 5",
        " Content-Length: 5",
        "Content-Length\0: 5",
        "Content-Length",
        "Content-Length 5",
        "Content-Length: 5\nX: 1",
        "Content-Length: 5\rX: 1",
        "X: 1\nContent-Length: 5",
        "X: 1\rContent-Length: 5",
    ] {
        cases.push(refused(post(lines, "hello")));
    }
    for both in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nX: 1\r\ntransfer-encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Content-Length: 5\r\nTransfer-Encoding:",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked",
        "Content-Length: x\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
    ] {
        cases.push(refused(post(both, &format!("0\r\n\r\n{INNER}"))));
        let old = format!("POST / HTTP/1.0\r\nHost: a\r\n{both}\r\n\r\n0\r\n\r\n");
        cases.push(refused(old));
    }
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        cases.push(refused(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
             \r\n0\r\n\r\n"
        )));
    }
    for coding in [
        "",
        ",",
        "chunked, chunked",
        "chunked,chunked",
        "chunked,",
        ",chunked",
        ", chunked",
        "chunked, ",
        "chunked, gzip",
        "gzip, chunked",
        "gzip",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "xchunked",
        "chunkedx",
        "chunke",
        "chunked;q=1",
        "chunked; a=b",
        "\"chunked\"",
        "'chunked'",
        "chunked\u{b}",
        "\u{b}chunked",
        "\u{c}chunked",
        "chunked\0",
        "\0chunked",
        "chunked x",
        "x chunked",
        "chun ked",
        "chunked\u{1}",
        "trailers",
        "deflate",
        "chunked\u{a0}",
        "ｃhunked",
        // The Kelvin sign is no K, whatever its lower case is.
        "chun\u{212a}ed",
    ] {
        cases.push(refused(post(&format!("Transfer-Encoding: {coding}"), "0\r\n\r\n")));
    }
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n , identity",
        "Transfer-Encoding: chunked\r\n\tx",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\u{b}: chunked",
        "Transfer-Encoding\0: chunked",
        " Transfer-Encoding: chunked",
        "X: 1\n Transfer-Encoding: chunked",
        "X: 1\nTransfer-Encoding: chunked",
        "X: 1\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nX: 1",
        "Transfer-Encoding",
        "Transfer-Encoding chunked",
    ] {
        cases.push(refused(post(lines, "0\r\n\r\n")));
    }
    for coding in ["chunked", "identity", "gzip"] {
        cases.push(refused(format!(
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"
        )));
    }
    // As early as the length tells.
    cases.push(refused_with(&[400, 413], post("Content-Length: 18446744073709551615", "hello")));
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn a_body_of_any_method_ends_where_it_says() {
    let mut cases: Vec<Case> = Vec::new();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "HEAD"] {
        let request = |lines: &str, body: &str| {
            format!("{method} /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}")
        };
        let seen = |body: &str| format!("{method} /x HTTP/1.1 | Host: a{body}");
        cases.push(passed(request("Content-Length: 5", "hello"), seen(" | Length(5) \"hello\"")));
        cases.push(passed(request("Content-Length: 0", ""), seen("")));
        cases.push(passed(
            request("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
            seen(" | chunked \"hello\""),
        ));
    }
    const HELLO: &str = "POST / HTTP/1.1 | Host: a | Length(5) \"hello\"";
    for length in ["5", " 5", "\t5 \t", "05", "0000005"] {
        cases.push(passed(post(&format!("Content-Length:{length}"), "hello"), HELLO));
    }
    cases.push(passed(post("CONTENT-LENGTH: 5", "hello"), HELLO));
    let inner = format!("POST / HTTP/1.1 | Host: a | Length({}) {INNER:?}", INNER.len());
    cases.push(passed(post(&format!("Content-Length: {}", INNER.len()), INNER), inner));
    cases.push(passed_last("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", HELLO));

    const CHUNKED: &str = "POST / HTTP/1.1 | Host: a | chunked \"hello\"";
    for coding in ["chunked", "Chunked", "CHUNKED", "chunKed", " \tchunked\t "] {
        let lines = format!("Transfer-Encoding: {coding}");
        cases.push(passed(post(&lines, "5\r\nhello\r\n0\r\n\r\n"), CHUNKED));
    }
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n0\r\n\r\n",
        "00000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n000\r\n\r\n",
        "1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n",
        "5;a\r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c=d\r\n\r\n",
        "5;a=\"b c;\\\"\"\r\nhello\r\n0\r\n\r\n",
        "5;a;b=c;d\r\nhello\r\n0\r\n\r\n",
    ] {
        cases.push(passed(chunked(body), CHUNKED));
    }
    cases.push(passed(chunked("0\r\n\r\n"), "POST / HTTP/1.1 | Host: a | chunked \"\""));
    for size in ["A", "a"] {
        cases.push(passed(
            chunked(format!("{size}\r\n0\r\n\r\n56789\r\n0\r\n\r\n")),
            "POST / HTTP/1.1 | Host: a | chunked \"0\\r\\n\\r\\n56789\"",
        ));
    }
    // A later minor version is read as the highest that is known.
    cases.push(passed(
        "POST / HTTP/1.3\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        CHUNKED,
    ));
    let length = 200_000;
    let long = "y".repeat(length);
    cases.push(passed(
        chunked(format!("{length:x}\r\n{long}\r\n0\r\n\r\n")),
        format!("POST / HTTP/1.1 | Host: a | chunked {long:?}"),
    ));
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn trailers_pass_but_those_that_would_frame_route_or_authenticate_do_not() {
    const HELLO: &str = "POST / HTTP/1.1 | Host: a | chunked \"hello\"";
    let trailed = |lines: &str| chunked(format!("5\r\nhello\r\n0\r\n{lines}\r\n\r\n"));
    let mut cases = vec![
        passed(trailed("X-Check: 7"), format!("{HELLO} + X-Check: 7")),
        passed(trailed("x-a: 1\r\nX-B:2\r\nx-a: 3"), format!("{HELLO} + x-a: 1 + X-B: 2 + x-a: 3")),
        passed(trailed("X: "), format!("{HELLO} + X: ")),
        passed(
            post("Transfer-Encoding: chunked\r\nTrailer: X", "5\r\nhello\r\n0\r\nX: 1\r\n\r\n"),
            format!("{HELLO} + X: 1"),
        ),
        passed(trailed("Content-Length: 3\r\nX: 1"), format!("{HELLO} + X: 1")),
    ];
    for line in [
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Host: b",
        "Connection: close",
        "Keep-Alive: 1",
        "TE: gzip",
        "Trailer: X",
        "Upgrade: websocket",
        "Authorization: Basic eA==",
        "Proxy-Authorization: Basic eA==",
        "Cookie: a=b",
        "Set-Cookie: a=b",
        "Location: /x",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Host: b",
        "X-Forwarded-Proto: https",
        "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "Content_Length: 3",
        "X_Forwarded_For: 6.6.6.6",
    ] {
        cases.push(passed(trailed(line), HELLO));
    }
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn a_chunk_that_could_be_read_in_two_ways_ends_the_connection() {
    let mut cases: Vec<Case> = Vec::new();
    for size in [
        "",
        "0x5",
        "+5",
        "-5",
        "5_",
        "_5",
        " 5",
        "5 ",
        "\t5",
        "5\t",
        "g",
        "5g",
        "5.0",
        "5,",
        "5:",
        "\"5\"",
        "\0",
        "5\0",
        "\u{b}5",
        "5\u{c}",
        "10000000000000000",
        "10000000000000005",
        "fffffffffffffffff",
        "8000000000000000",
        "8000000000000005",
        "ffffffffffffffff",
        "٥",
        "5;\0",
        "5;a\u{1}",
        "5;a=\u{7f}",
        "5;a=\"b\0\"",
        "5\r",
        "5\r5",
        "5;a\rb",
        "5;\r",
    ] {
        cases.push(cut(chunked(format!("{size}\r\nhello\r\n0\r\n\r\n"))));
    }
    for body in [
        // A line ends in CR LF.
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "5\n\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhello\n\r0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "0\r\n\n",
        "0\n\n",
        "0\n\r\n",
        "0\r\r\n",
        "0\r\n\r\r\n",
        // Longer or shorter than it says.
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloxx0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "0\r\nhello",
        "1\r\nabc\r\n0\r\n\r\n",
        // Trailers are fields.
        "0\r\nX: 1\n\r\n",
        "0\r\nX: 1\n\n",
        "0\r\nX: 1\r\n\n",
        "0\r\nX: 1\r\r\n\r\n",
        "0\r\nX: 1\rY: 2\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\nX\t: 1\r\n\r\n",
        "0\r\n: 1\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n X: 1\r\n\r\n",
        "0\r\nX: 1\r\n 2\r\n\r\n",
        "0\r\nX: 1\r\n\t2\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\nX: a\u{1}b\r\n\r\n",
        "0\r\nX\0: 1\r\n\r\n",
        "0\r\nGET /inner HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        cases.push(cut(chunked(body)));
    }
    // Extensions that a backend does not get are not to be sent for ever.
    let long = "e".repeat(5_000);
    cases.push(cut(chunked(format!("5;{long}\r\nhello\r\n0\r\n\r\n"))));
    let many = format!("1;{}\r\nx\r\n", "e".repeat(100)).repeat(60);
    cases.push(cut(chunked(format!("{many}0\r\n\r\n"))));
    let trailers = |lines: String| chunked(format!("0\r\n{lines}\r\n\r\n"));
    let too_large = [
        trailers(format!("X: {}", "y".repeat(100_000))),
        trailers((0..200).map(|i| format!("X-{i}: 1")).collect::<Vec<_>>().join("\r\n")),
    ];
    for bytes in too_large {
        cases.push(Case { bytes, expect: crate::Expect::Cut(&[400, 431]) });
    }
    Bench::start().await.run(cases).await;
}
