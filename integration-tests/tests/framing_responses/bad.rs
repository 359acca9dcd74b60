//! Answers that are none, could be read in two ways, or break off.

use crate::{Bench, Case, bad, broken, ok_with};

const CHUNKED: &str = "Transfer-Encoding: chunked";

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_502_and_its_connection_is_left() {
    let mut cases: Vec<Case> = Vec::new();
    for line in [
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 OK",
        "HTTP/1.1 2 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 0x1 OK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\u{1}K",
        " HTTP/1.1 200 OK",
        "http/1.1 200 OK",
        "HTTP/1 200 OK",
        "HTTP/1.10 200 OK",
        "HTTP/11 200 OK",
        "HTTP/1.x 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/2 200",
        "HTTP/0.9 200 OK",
        "HTPP/1.1 200 OK",
        "ICY 200 OK",
        "SSH-2.0-OpenSSH",
        "220 ready",
        "<html>",
        "\u{15}\u{3}\u{1}",
        "GET / HTTP/1.1",
    ] {
        cases.push(bad(format!("{line}\r\nContent-Length: 2\r\n\r\nno")));
    }
    for lines in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nTransfer-Encoding: identity",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nX: 1\r\ncontent-length: 0",
        "Content-Length: 2\r\nContent-Length: x",
        "Content-Length: 2, 3",
        "Content-Length: 2,",
        "Content-Length: ,2",
        "Content-Length: 2 2",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2.0",
        "Content-Length: 2;",
        "Content-Length: \"2\"",
        "Content-Length: two",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551618",
        "Content-Length : 2",
        "Content-Length\t: 2",
        "Content-Length\0: 2",
        "Content-Length",
        "Content-Length:\r\n 2",
        "Content-Length: 2\r\n 2",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n x",
    ] {
        // Whichever way it is read, a client would get something.
        cases.push(bad(ok_with(lines, "2\r\nno\r\n0\r\n\r\n")));
    }
    for line in [
        "X : b",
        "X\t: b",
        ": b",
        "X",
        "X b",
        "X Y: b",
        " X: b",
        "\tX: b",
        "X(: b",
        "\"X\": b",
        "X\0: b",
        "X\u{1}: b",
        "É: b",
        "X: b\0c",
        "X: b\u{1}c",
        "X: b\u{b}c",
        "X: b\u{7f}",
        "X: b\rc",
        "X: b\r",
        "X: b\nY: c",
        "X: b\n",
        "X: b\r\n c",
        "X: b\r\n\tc",
        "X:\r\n b",
        "Set-Cookie: a=b\r\n ; Domain=c",
        "X: b\r\n ",
    ] {
        cases.push(bad(ok_with(&format!("{line}\r\nContent-Length: 2"), "no")));
        cases.push(bad(ok_with(&format!("Content-Length: 2\r\n{line}"), "no")));
    }
    for bytes in [
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nno",
        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nno",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nno",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\nno",
        "HTTP/1.1 200 OK\r\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\r\nno",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX : b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 103 Early Hints\nX: b\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 103 Early Hints\r\n\r\nno answer\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nab",
    ] {
        cases.push(bad(bytes));
    }
    for closing in [
        "",
        "H",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
    ] {
        cases.push(bad(closing).closing());
    }

    let too_long = "x".repeat(70_000);
    let too_many: Vec<_> = (0..200).map(|i| format!("X-{i}: 1")).collect();
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    cases.push(bad(ok_with(&format!("X: {too_long}\r\nContent-Length: 2"), "no")));
    cases.push(bad(format!("HTTP/1.1 200 {too_long}\r\nContent-Length: 2\r\n\r\nno")));
    cases.push(bad(ok_with(&format!("{}\r\nContent-Length: 2", too_many.join("\r\n")), "no")));
    cases.push(bad([early.repeat(17).as_bytes(), crate::OK].concat()));
    cases.push(bad(early.repeat(1_000)));
    cases.push(bad("HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000)));
    for method in ["HEAD", "POST", "OPTIONS"] {
        let both = ok_with("Content-Length: 2\r\nTransfer-Encoding: chunked", "");
        cases.push(bad(both).to(method));
        cases.push(bad(ok_with("Content-Length: 2\r\nContent-Length: 3", "")).to(method));
    }
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let mut cases: Vec<Case> = Vec::new();
    for size in [
        "",
        "0x2",
        "+2",
        "-2",
        "2_",
        " 2",
        "2 ",
        "\t2",
        "g",
        "2g",
        "2,",
        "\0",
        "2\u{b}",
        "10000000000000000",
        "10000000000000002",
        "fffffffffffffffff",
        "8000000000000000",
        "ffffffffffffffff",
        "2;\0",
        "2;a\u{1}",
        "2\r",
        "2;a\rb",
    ] {
        cases.push(broken(ok_with(CHUNKED, &format!("2\r\nno\r\n{size}\r\nno\r\n0\r\n\r\n"))));
    }
    for body in [
        "2\nno\r\n0\r\n\r\n",
        "2;\nno\r\n0\r\n\r\n",
        "2;a\nno\r\n0\r\n\r\n",
        "2\r\nno\n0\r\n\r\n",
        "2\r\nno\r0\r\n\r\n",
        "2\r\nno0\r\n\r\n",
        "2\r\nnope\r\n0\r\n\r\n",
        "3\r\nno\r\n0\r\n\r\n",
        "2\r\nno\r\n0\n\r\n",
        "2\r\nno\r\n0\r\n\n",
        "2\r\nno\r\n0\r\nX: 1\n\r\n",
        "2\r\nno\r\n0\r\nX : 1\r\n\r\n",
        "2\r\nno\r\n0\r\nX\r\n\r\n",
        "2\r\nno\r\n0\r\nX: a\0b\r\n\r\n",
        "2\r\nno\r\n0\r\nX: 1\r\n 2\r\n\r\n",
        "2\r\nno\r\n0\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        cases.push(broken(ok_with(CHUNKED, body)));
    }
    for body in ["", "2", "2\r", "2\r\n", "2\r\nn", "2\r\nno", "2\r\nno\r\n", "2\r\nno\r\n0"] {
        cases.push(broken(ok_with(CHUNKED, body)).closing());
    }
    for body in ["2\r\nno\r\n0\r\n", "2\r\nno\r\n0\r\nX: 1", "2\r\nno\r\n0\r\nX: 1\r\n"] {
        cases.push(broken(ok_with(CHUNKED, body)).closing());
    }
    for body in ["", "n", "nine byte"] {
        cases.push(broken(ok_with("Content-Length: 10", body)).closing());
    }
    let extension = format!("2;{}\r\nno\r\n0\r\n\r\n", "e".repeat(5_000));
    cases.push(broken(ok_with(CHUNKED, &extension)));
    let trailers: Vec<_> = (0..200).map(|i| format!("X-{i}: 1")).collect();
    cases.push(broken(ok_with(CHUNKED, &format!("0\r\n{}\r\n\r\n", trailers.join("\r\n")))));
    cases.push(broken(ok_with(CHUNKED, &format!("0\r\nX: {}\r\n\r\n", "x".repeat(100_000)))));
    Bench::start().await.run(cases).await;
}
