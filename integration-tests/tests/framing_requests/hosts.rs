//! What a Host field may say (RFC 9110, 7.2; RFC 3986, 3.2.2).

use crate::{Bench, Case, passed, passed_last, refused};

fn with(host: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: ", host.as_ref(), b"\r\n\r\n"].concat()
}

#[tokio::test]
async fn a_host_that_is_none_is_refused_and_every_legal_one_passes() {
    let mut cases: Vec<Case> = Vec::new();

    let legal = [
        "a",
        "A.Test",
        "a.test.",
        "a-b",
        "a_b",
        "a~b",
        "xn--bcher-kva.test",
        "1.2.3.4",
        "1.2.3.4:80",
        "256.256.256.256",
        "1",
        "[::]",
        "[::1]",
        "[::1]:8080",
        "[2001:db8::1]",
        "[2001:DB8:0:0:0:0:0:1]",
        "[::ffff:1.2.3.4]",
        "a:",
        "a:0",
        "a:80",
        "a:65535",
        "a:00080",
        "!$&'()*+,;=",
        "a,b",
        "a%20b",
        "a%2Fb",
        "%61",
    ];
    for host in legal {
        cases.push(passed(with(host), format!("GET / HTTP/1.1 | Host: {host}")));
    }
    cases.push(passed("GET / HTTP/1.1\r\nHost:a\r\n\r\n", "GET / HTTP/1.1 | Host: a"));
    cases.push(passed("GET / HTTP/1.1\r\nHost: \t a\t \r\n\r\n", "GET / HTTP/1.1 | Host: a"));
    cases.push(passed("GET / HTTP/1.1\r\nX: 1\r\nHOST: a\r\n\r\n", {
        // Regenerated, so its name is spelt the usual way.
        "GET / HTTP/1.1 | Host: a | X: 1"
    }));
    cases.push(passed_last("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.1 | Host: a"));

    let none: &[&[u8]] = &[
        b"",
        b" ",
        b"a b",
        b"a\tb",
        b"a, b",
        b"a[b",
        b"a]b",
        b"[",
        b"]",
        b"[]",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[::1].a",
        b"x[::1]",
        b"[[::1]]",
        b"[::g]",
        b"[:::]",
        b"[1.2.3.4]",
        b"[1:2:3:4:5:6:7]",
        b"[1:2:3:4:5:6:7:8:9]",
        b"[::12345]",
        b"[1::2::3]",
        b"[::1]:x",
        b"[::1]:65536",
        b"[::1]:-1",
        b"[::1]80",
        b"a:x",
        b"a:80x",
        b"a:-1",
        b"a:+80",
        b"a: 80",
        b"a :80",
        b"a:0x50",
        b"a:65536",
        b"a:99999999999999999999",
        b"a:80:80",
        b"a:80:",
        b"a::80",
        b":80",
        b":",
        b"a/b",
        b"a/",
        b"/",
        b"http://a",
        b"//a",
        b"a?b",
        b"a#b",
        b"@a",
        b"u@a",
        b"u:p@a",
        b"a\\b",
        b"a\"",
        b"<a>",
        b"a^b",
        b"a`b",
        b"a|b",
        b"{a}",
        b"a%",
        b"a%2",
        b"a%zz",
        b"%",
        b"a\0",
        b"a\x01",
        b"a\x0b",
        b"a\x7f",
        b"\xff",
        "bücher.test".as_bytes(),
    ];
    cases.extend(none.iter().map(|host| refused(with(host))));
    for lines in [
        "",
        "X: 1\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: a\r\n",
        "Host: a\r\nX: 1\r\nHOST: b\r\n",
        "Host: a\r\nHost:\r\n",
        "Host:\r\nHost: a\r\n",
        "Host : a\r\n",
        "Host\t: a\r\n",
        " Host: a\r\n",
        "\tHost: a\r\n",
        "Host:\r\n a\r\n",
        "Host: a\r\n b\r\n",
        "Host\r\n",
        "Host a\r\n",
        "Hosts: a\r\n",
        "X-Host: a\r\n",
    ] {
        cases.push(refused(format!("GET / HTTP/1.1\r\n{lines}\r\n")));
    }
    cases.push(refused("GET / HTTP/1.2\r\n\r\n"));
    cases.push(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"));
    cases.push(refused("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"));

    Bench::start().await.run(cases).await;
}
