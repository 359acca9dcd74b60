//! Header fields: which are none, and which a backend gets.

use crate::{Bench, Case, get_with, passed, refused, refused_with};

#[tokio::test]
async fn a_line_that_is_no_field_is_refused() {
    let none: &[&[u8]] = &[
        b"X : b",
        b"X\t: b",
        b"X\x0b: b",
        b"X\0: b",
        b"X\r: b",
        b": b",
        b":",
        b" : b",
        b"X",
        b"X b",
        b"X Y: b",
        b"X\tY: b",
        b"(X): b",
        b"X(: b",
        b"X@: b",
        b"X/: b",
        b"X,Y: b",
        b"X;: b",
        b"X=: b",
        b"X?: b",
        b"X[]: b",
        b"{X}: b",
        b"<X>: b",
        b"X\\: b",
        b"\"X\": b",
        b"X\x01: b",
        b"X\x7f: b",
        b"X\x80: b",
        "É: b".as_bytes(),
        b"X: b\0c",
        b"X: \0",
        b"X: b\x01c",
        b"X: b\x08c",
        b"X: b\x0bc",
        b"X: b\x0cc",
        b"X: b\x1bc",
        b"X: b\x7f",
        b"X: b\rc",
        b"X: b\r",
        b"X: b\rY: c",
        b"X: b\nY: c",
        b"X: b\n",
        b"X: \r\x00",
        b"X: b\r\n c",
        b"X: b\r\n\tc",
        b"X: b\r\n ",
        b"X: b\r\n\t",
        b"X:\r\n b",
        b"X: b\r\n c: d",
        b"X: b\n c",
        b"X: b\r\n \r\nY: c",
        b"GET /inner HTTP/1.1",
    ];
    let mut cases: Vec<Case> = none.iter().map(|line| refused(get_with(line))).collect();
    // Before the first field, white space could hide one (RFC 9112, 2.2).
    for line in [" X: b", "\tX: b", " ", "\t", "  Host: b"] {
        cases.push(refused(format!("GET / HTTP/1.1\r\n{line}\r\nHost: a\r\n\r\n")));
    }
    for line in ["X: \u{1}", "Cookie: a\0b", "User-Agent: a\rb", "Content-Type: a\nb"] {
        cases.push(refused(get_with(line)));
    }
    for expect in ["x", "100-continued", "200-ok", "100"] {
        cases.push(refused_with(&[417], get_with(format!("Expect: {expect}"))));
    }
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn a_backend_gets_what_a_client_said_but_not_what_only_a_proxy_may_say() {
    const PLAIN: &str = "GET / HTTP/1.1 | Host: a";
    let mut cases: Vec<Case> = Vec::new();

    let unchanged = [
        "X: b",
        "x-lower: b",
        "X-UPPER: b",
        "X-cAsE: b",
        "!#$%&'*+-.^`|~0aZ: b",
        "X: b c  d",
        "X: b\tc",
        "X: a, b; c=\"d\\\"\"",
        "X: é",
        "X: :b:",
        "X: http://b/#c",
        "X_Custom: b",
        "_: b",
        "X: b | X: c | Y: d | X: b",
        "Cookie: a=b; c=d",
        "Authorization: Basic eA==",
        "Content-Type: text/plain",
        "Cache-Control: no-transform",
        "Sec-Fetch-Mode: cors",
        "Accept-Encoding: gzip",
        "Range: bytes=0-",
        "If-None-Match: \"x\"",
        "Date: today",
        "Origin: http://b",
        "Referer: /#x",
    ];
    for fields in unchanged {
        let lines = fields.replace(" | ", "\r\n");
        cases.push(passed(get_with(lines), format!("{PLAIN} | {fields}")));
    }
    for (line, seen) in [("X:b", "X: b"), ("X:", "X: "), ("X:  \t b \t ", "X: b")] {
        cases.push(passed(get_with(line), format!("{PLAIN} | {seen}")));
    }

    let dropped = [
        "X-Forwarded-For: 6.6.6.6",
        "x-forwarded-for: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: b",
        "X-Forwarded-Port: 443",
        "X-Real-IP: 6.6.6.6",
        "X-Forwarded-Prefix: /admin",
        "x-forwarded-ssl: on",
        "X-Forwarded_Server: evil.test",
        "Forwarded: for=6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X_Forwarded-For: 6.6.6.6",
        "X-Forwarded_Proto: https",
        "X_Forwarded_Host: b",
        "X_FORWARDED_PORT: 443",
        "X_Real_IP: 6.6.6.6",
        "Content_Length: 5",
        "Transfer_Encoding: chunked",
        "Connection: keep-alive",
        "Connection: Keep-Alive",
        "Connection: ",
        "Connection: , ,",
        "Keep-Alive: 300",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "TE: gzip",
        "Trailer: X",
        "Upgrade: h2c",
        "Upgrade: websocket",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        "Connection: X-Private\r\nX-Private: 1",
        "Connection: x-private , X-Other\r\nX-Private: 1\r\nX-OTHER: 2",
        "X-Private: 1\r\nConnection: X-Private",
        "Connection: keep-alive\r\nConnection: X-Private\r\nX-Private: 1",
        "Connection: X-Private\r\nX-Private: 1\r\nX-Private: 2",
        // What frames and routes a request is not to be named away.
        "Connection: Host",
        "Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Via",
    ];
    cases.extend(dropped.iter().map(|lines| passed(get_with(lines), PLAIN)));
    cases.push(passed(
        get_with("Connection: X-Private\r\nX-Private: 1\r\nX-Privat: 2\r\nX-Private2: 3"),
        format!("{PLAIN} | X-Privat: 2 | X-Private2: 3"),
    ));
    cases.push(passed(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1 | Host: a | Length(3) \"abc\"",
    ));
    cases.push(passed(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1 | Host: a | chunked \"abc\"",
    ));
    // The host goes first, and the others keep their order.
    cases.push(passed(
        "GET / HTTP/1.1\r\nB: 1\r\nA: 2\r\nHost: a\r\nC: 3\r\nb: 4\r\n\r\n",
        "GET / HTTP/1.1 | Host: a | B: 1 | A: 2 | C: 3 | b: 4",
    ));
    // A client of HTTP/1.0 has no trailers, and waits for no interim answer.
    cases.push(crate::passed_last(
        "GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        PLAIN,
    ));
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn the_way_says_which_version_the_client_spoke() {
    let bench = Bench::start().await;
    let web = bench.fleet.proxies[0].web();
    for (version, via) in [("1.1", "1.1 lb"), ("1.0", "1.0 lb"), ("1.5", "1.5 lb")] {
        let bytes = format!("GET /{version} HTTP/{version}\r\nHost: a\r\nVia: 1.0 outer\r\n\r\n");
        assert_eq!(integration_tests::client::raw(web, bytes).await.status(), 200, "{version}");
        let seen = bench.backend.requests().pop().expect("it came");
        let got = seen.head.fields.all("via");
        // Of a version that nobody knows, what it is treated as may be said.
        assert!(got == ["1.0 outer", via] || version == "1.5" && got == ["1.0 outer", "1.1 lb"]);
    }
}
