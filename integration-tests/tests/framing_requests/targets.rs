//! The forms of a target, and what may stand in one.

use crate::{Bench, Case, get_with, passed, passed_last, refused, refused_with};

fn request(method: &str, target: impl AsRef<[u8]>, host: &str) -> Vec<u8> {
    let head = [method.as_bytes(), b" ", target.as_ref(), b" HTTP/1.1\r\nHost: "].concat();
    [&head, host.as_bytes(), b"\r\n\r\n"].concat()
}

#[tokio::test]
async fn a_target_passes_unchanged_unless_it_could_be_read_in_two_ways() {
    let mut cases: Vec<Case> = Vec::new();

    let unchanged = [
        "/",
        "//",
        "//a",
        "/a//b",
        "/a/./b/../c",
        "/../x",
        "/%61%2F%2f%2e%2E",
        "/?",
        "/?x=1&y=%2F&&z",
        "/?a?b",
        "/?x=http://b/",
        "/:a@b",
        "/a;b=c",
        "/!$&'()*+,;=",
        "/-._~",
        "/?q=\"x\"",
        "/\"",
        "/a>b",
        "/<a>",
        "/`",
        "/\\",
        "/a\\b",
        "/^",
        "/{a}",
        "/a|b",
        "/[a]",
        "/*",
    ];
    for target in unchanged {
        cases.push(passed(request("GET", target, "a"), format!("GET {target} HTTP/1.1 | Host: a")));
    }

    let two_ways: &[&[u8]] = &[
        b"/a#b",
        b"/#",
        b"#",
        b"#/",
        b"/?a#b",
        b"http://a/x#f",
        b"http://a#f",
        b"http://a#@b/x",
        b"http://a.test#@evil.test/x",
        b"*#",
        b"/a\0b",
        b"/a\x01b",
        b"/a\tb",
        b"/a\x0bb",
        b"/a\x0cb",
        b"/a\rb",
        b"/a\nb",
        b"/a\x1fb",
        b"/a\x7fb",
        b"/a b",
        b"/\x80",
        b"/\xff",
        "/é".as_bytes(),
        b"",
        b"a",
        b"a/b",
        b"?x=1",
        b".",
        b"..",
        b"*",
        b"**",
        b"*/",
        b"\\",
        b"a:80",
        b"http:",
        b"http:/",
        b"http:/a/x",
        b"http:a",
        b"http:a/x",
        b"http://",
        b"http:///x",
        b"http://?x",
        b"http://@a/x",
        b"http://u@a/x",
        b"http://u:p@a/x",
        b"http://a@/x",
        b"http://a:x/",
        b"http://a:-1/",
        b"http://a:+80/",
        b"http://a:65536/",
        b"http://a:80:80/",
        b"http://:80/",
        b"http://[::1/x",
        b"http://[::g]/x",
        b"http://a b/x",
        b"http://a\\b/x",
        b"http://a\"/x",
        b"http://a%/x",
        b"ftp://a/x",
        b"ws://a/x",
        b"file:///x",
        b"urn:a",
        b"mailto:a",
        b"://a/x",
        b"1http://a/x",
    ];
    cases.extend(two_ways.iter().map(|target| refused(request("GET", target, "a"))));
    for target in ["*", "*x", "* ", "a:80"] {
        cases.push(refused(request("POST", target, "a")));
    }
    cases.push(refused(request("OPTIONS", "*x", "a")));
    cases.push(refused(request("OPTIONS", "a:80", "a")));
    cases.push(refused(request("OPTIONS", "", "a")));

    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn an_absolute_target_becomes_a_path_and_its_authority_the_host() {
    #[rustfmt::skip]
    let agree = [
        // method   target                  Host            what a backend gets
        ("GET",     "http://a/x",           "a",            "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "http://a",             "a",            "GET / HTTP/1.1 | Host: a"),
        ("GET",     "http://a/",            "a",            "GET / HTTP/1.1 | Host: a"),
        ("GET",     "http://a?q",           "a",            "GET /?q HTTP/1.1 | Host: a"),
        ("GET",     "http://a/?q",          "a",            "GET /?q HTTP/1.1 | Host: a"),
        ("GET",     "http://a//b",          "a",            "GET //b HTTP/1.1 | Host: a"),
        ("GET",     "HTTP://a/x",           "a",            "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "hTTp://a/x",           "a",            "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "https://a/x",          "a",            "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "http://A/x",           "a",            "GET /x HTTP/1.1 | Host: A"),
        ("GET",     "http://a/x",           "A",            "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "http://a:80/x",        "a",            "GET /x HTTP/1.1 | Host: a:80"),
        ("GET",     "http://a/x",           "a:80",         "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "http://a/x",           "a:",           "GET /x HTTP/1.1 | Host: a"),
        ("GET",     "https://a:443/x",      "a",            "GET /x HTTP/1.1 | Host: a:443"),
        ("GET",     "http://a:8080/x",      "a:8080",       "GET /x HTTP/1.1 | Host: a:8080"),
        ("GET",     "http://[::1]/x",       "[::1]",        "GET /x HTTP/1.1 | Host: [::1]"),
        ("GET",     "http://[::1]:81/x",    "[::1]:81",     "GET /x HTTP/1.1 | Host: [::1]:81"),
        ("GET",     "http://1.2.3.4/x",     "1.2.3.4",      "GET /x HTTP/1.1 | Host: 1.2.3.4"),
        ("GET",     "http://a/x@b",         "a",            "GET /x@b HTTP/1.1 | Host: a"),
        ("GET",     "http://a/http://b/",   "a",            "GET /http://b/ HTTP/1.1 | Host: a"),
        ("POST",    "http://a",             "a",            "POST / HTTP/1.1 | Host: a"),
        ("OPTIONS", "*",                    "a",            "OPTIONS * HTTP/1.1 | Host: a"),
        ("OPTIONS", "/",                    "a",            "OPTIONS / HTTP/1.1 | Host: a"),
        ("OPTIONS", "http://a",             "a",            "OPTIONS * HTTP/1.1 | Host: a"),
        ("OPTIONS", "http://a:80",          "a:80",         "OPTIONS * HTTP/1.1 | Host: a:80"),
        ("OPTIONS", "http://a/",            "a",            "OPTIONS / HTTP/1.1 | Host: a"),
        ("OPTIONS", "http://a?q",           "a",            "OPTIONS /?q HTTP/1.1 | Host: a"),
    ];
    let mut cases: Vec<_> = agree
        .iter()
        .map(|(method, target, host, seen)| passed(request(method, target, host), *seen))
        .collect();
    cases.push(passed_last("GET http://a/x HTTP/1.0\r\n\r\n", "GET /x HTTP/1.1 | Host: a"));

    let disagree = [
        ("http://a/x", "b"),
        ("http://a/x", "a.b"),
        ("http://a/x", "a:81"),
        ("http://a:81/x", "a"),
        ("http://a:443/x", "a"),
        ("https://a:80/x", "a"),
        ("https://a/x", "a:80"),
        ("http://a/x", "a."),
        ("http://[::1]/x", "[::2]"),
    ];
    cases.extend(disagree.iter().map(|(target, host)| refused(request("GET", target, host))));
    cases.push(refused("GET http://a/x HTTP/1.1\r\n\r\n"));
    cases.push(refused("GET http://a/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"));
    cases.push(refused("GET http://a/x HTTP/1.0\r\nHost: b\r\n\r\n"));
    Bench::start().await.run(cases).await;
}

#[tokio::test]
async fn what_is_too_long_is_told_which_part_of_it() {
    let fields = |count: usize| -> String {
        // Host is one.
        let lines: Vec<_> = (1..count).map(|i| format!("X-{i}: 1")).collect();
        lines.join("\r\n")
    };
    let target = |length: usize| format!("/{}", "a".repeat(length - 1));
    let value = |length: usize| format!("X: {}", "a".repeat(length));
    const MAX_TARGET: usize = 16 * 1024;

    let mut cases = vec![
        passed(request("GET", target(MAX_TARGET), "a"), {
            format!("GET {} HTTP/1.1 | Host: a", target(MAX_TARGET))
        }),
        refused_with(&[414], request("GET", target(MAX_TARGET + 1), "a")),
        refused_with(&[414], request("GET", target(100_000), "a")),
        // It need not end for that.
        refused_with(&[414], format!("GET {}", target(200_000))),
        refused_with(&[414], request("GET", format!("http://a{}", target(MAX_TARGET)), "a")),
        passed(get_with(value(60_000)), format!("GET / HTTP/1.1 | Host: a | {}", value(60_000))),
        refused_with(&[431], get_with(value(66_000))),
        refused_with(&[431], get_with(value(1_000_000))),
        refused_with(&[431], get_with("X: y\r\n".repeat(50_000))),
        refused_with(&[431], get_with(format!("{}: y", "x".repeat(70_000)))),
        passed(get_with(fields(100)), {
            format!("GET / HTTP/1.1 | Host: a | {}", fields(100).replace("\r\n", " | "))
        }),
        refused_with(&[431], get_with(fields(101))),
        refused_with(&[431], get_with(fields(1_000))),
    ];
    // A method has no limit of its own.
    cases.push(refused_with(&[400, 431], format!("{} / HTTP/1.1\r\n", "A".repeat(100_000))));
    Bench::start().await.run(cases).await;
}
