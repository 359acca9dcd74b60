//! Request lines, versions, and what may come before one.

use crate::{Bench, Case, Expect, passed, passed_last, refused, refused_with};

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_request_line_that_is_none_is_refused_and_others_pass_as_they_are() {
    let mut cases: Vec<Case> = Vec::new();

    let none = [
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "GET",
        "GET /",
        "GET / ",
        "GET HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\t",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET / x HTTP/1.1",
        "GET /\u{b}HTTP/1.1",
        "GET /\u{c} HTTP/1.1",
        "GET: / HTTP/1.1",
        "G@T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "G\"T / HTTP/1.1",
        "G/T / HTTP/1.1",
        "G\0T / HTTP/1.1",
        "GÉT / HTTP/1.1",
        "\u{16}\u{3}\u{1}\u{2} / HTTP/1.1",
        "{\"a\": 1}",
        "\u{feff}GET / HTTP/1.1",
        "HTTP/1.1 200 OK",
        "PRI * HTTP/1.1",
        "PRI / HTTP/1.1",
    ];
    cases.extend(none.iter().map(|text| refused(line(text))));

    let versions = [
        "http/1.1",
        "Http/1.1",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/",
        "HTTP",
        "HTTP/1.10",
        "HTTP/11.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/+1.1",
        "HTTP/1.+1",
        "HTTP/-1.1",
        "HTTP/1,1",
        "HTTP/1.x",
        "HTTP/x.1",
        "HTTP/1.1x",
        "HTTP/1.1.1",
        "HTTP 1.1",
        "HTTP\\1.1",
        "HTTP/ 1.1",
        "HTPP/1.1",
        "HTTPS/1.1",
        "RTSP/1.0",
        "HTTP/1.1\0",
        "HTTP/１.1",
    ];
    cases.extend(versions.iter().map(|version| refused(line(&format!("GET / {version}")))));
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        cases.push(refused_with(&[505], line(&format!("GET / {version}"))));
    }
    cases.push(refused_with(&[505], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    for version in ["HTTP/1.1", "HTTP/1.2", "HTTP/1.5", "HTTP/1.9"] {
        cases.push(passed(line(&format!("GET / {version}")), "GET / HTTP/1.1 | Host: a"));
    }
    cases.push(passed_last(line("GET / HTTP/1.0"), "GET / HTTP/1.1 | Host: a"));

    for method in
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW", "M-SEARCH", "get", "a.b"]
    {
        cases.push(passed(line(&format!("{method} /x HTTP/1.1")), {
            format!("{method} /x HTTP/1.1 | Host: a")
        }));
    }

    // A line ends in CR LF, and with nothing else.
    for end in ["\n", "\r", "\r\r\n", "\n\r"] {
        cases.push(refused(format!("GET / HTTP/1.1{end}Host: a\r\n\r\n")));
    }
    cases.push(refused("GET / HTTP/1.1\nHost: a\n\n"));
    cases.push(refused("GET / HTTP/1.1\r\nHost: a\n\r\n"));
    cases.push(refused("GET / HTTP/1.1\r\nHost: a\r\n\n"));
    cases.push(refused("GET / HTTP/1.1\r\nHost: a\n\n"));
    cases.push(refused("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"));
    cases.push(refused("GET / HTTP/1.1\r\nHost: a\r\n\r\r\n"));
    cases.push(refused("GET /\r\n"));

    // RFC 9112, 2.2: at least one empty line before a request is to be ignored.
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.push(passed(format!("\r\n{get}"), "GET / HTTP/1.1 | Host: a"));
    cases.push(passed(format!("\r\n\r\n\r\n\r\n{get}"), "GET / HTTP/1.1 | Host: a"));
    cases.push(refused(format!("{}{get}", "\r\n".repeat(5))));
    cases.push(refused(format!("\n{get}")));
    cases.push(refused(format!("\r{get}")));
    cases.push(refused(format!("\r\r\n{get}")));
    cases.push(refused(format!("\0{get}")));

    cases.push(refused_with(&[405], "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"));
    cases.push(refused_with(&[405], "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"));
    cases.push(refused_with(&[405], line("TRACE / HTTP/1.1")));
    for target in ["/", "*", "http://a/", "a", "a:x", ":80", "a:80/x", "u@a:80"] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.push(refused_with(&[400, 405], bytes));
    }

    // Of OPTIONS, a proxy counts the way down, and answers itself at its end.
    for target in ["*", "/x"] {
        let options = |hops: &str| {
            let hops = format!("Max-Forwards: {hops}\r\n");
            format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n{hops}\r\n")
        };
        let seen =
            |hops: &str| format!("OPTIONS {target} HTTP/1.1 | Host: a | Max-Forwards: {hops}");
        cases.push(Case { bytes: options("0").into(), expect: Expect::Answered(200) });
        cases.push(passed(options("5"), seen("4")));
        cases.push(passed(options("1"), seen("0")));
    }
    cases.push(passed(
        "GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\n\r\n",
        "GET / HTTP/1.1 | Host: a | Max-Forwards: 5",
    ));

    Bench::start().await.run(cases).await;
}
