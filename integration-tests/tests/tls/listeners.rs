//! What a client gets of a listener with TLS.

use integration_tests::{
    access_log,
    backend::{Backend, Reply},
    certs::{Ca, Kind, Wanted},
    client::Client,
    curl,
    eventually::{eventually, holds},
    fleet::{Fleet, app, listening, tcp},
    ports::Port,
};
use serde_json::json;

use super::{fleet, site};

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let ca = Ca::new("a test's");
    let backend =
        Backend::start(|seen| Reply::ok(seen.head.fields.get("x-forwarded-proto").unwrap_or("")))
            .await;
    let fleet = fleet(1).await;
    let rsa = Wanted { names: &["b.test"], kind: Kind::Rsa, years: (2020, 2090) };
    let certificates = [
        ca.sign(&["a.test", "www.a.test"]).entry(fleet.dir(), "a"),
        ca.sign_as(rsa).entry(fleet.dir(), "b"),
        ca.sign(&["*.c.test"]).entry(fleet.dir(), "wild"),
    ];
    let spec = app("", "", &[backend.address()]);
    let spec = listening(&spec, "tls = { certificates = ['a', 'b', 'wild'] }");
    fleet.apply(&format!("{}{spec}", certificates.concat())).await;
    let (web, ca) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    for host in ["a.test", "WWW.a.test", "b.test", "x.c.test"] {
        for version in ["1.2", "1.3"] {
            let flags = [&*format!("--tlsv{version}"), "--tls-max", version];
            let answer = curl::https(web, host, "/", &ca, &flags).await;
            assert_eq!((answer.status, &*answer.body), (200, "https"), "{host}: {}", answer.log);
        }
    }
    for host in ["other.test", "a.x.c.test", "c.test"] {
        let answer = curl::https(web, host, "/", &ca, &[]).await;
        let is_default = answer.log.contains("a.test") && answer.code == 60;
        assert!(is_default, "{host}: {} {}", answer.code, answer.log);
    }
}

#[tokio::test]
async fn of_two_certificates_for_a_name_a_client_gets_the_one_that_it_can_check() {
    let ca = Ca::new("a test's");
    let backend = Backend::named("here").await;
    let fleet = fleet(1).await;
    let rsa = Wanted { names: &["a.test"], kind: Kind::Rsa, years: (2020, 2090) };
    let certificates = [
        ca.sign_as(rsa).entry(fleet.dir(), "rsa"),
        ca.sign(&["a.test"]).entry(fleet.dir(), "ecdsa"),
    ];
    let spec = app("", "", &[backend.address()]);
    let spec = listening(&spec, "tls = { certificates = ['rsa', 'ecdsa'] }");
    fleet.apply(&format!("{}{spec}", certificates.concat())).await;
    let (web, ca) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    for (flags, kind) in [
        (&["--tls-max", "1.3"][..], "id-ecPublicKey"),
        (&["--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"], "rsaEncryption"),
    ] {
        let answer = curl::https(web, "a.test", "/", &ca, flags).await;
        assert_eq!(answer.status, 200, "{}", answer.log);
        let shown = [flags, &["--write-out", "%{certs}\n0"]].concat();
        let shown = curl::https(web, "a.test", "/", &ca, &shown).await.body;
        assert!(shown.contains(kind), "{kind}: {shown}");
    }
}

#[tokio::test]
async fn a_version_that_is_too_old_is_refused() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    fleet.apply(&site(&fleet, &ca, ", min_version = '1.3'", backend.address())).await;
    let (web, ca) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    let answer = curl::https(web, "a.test", "/", &ca, &["--tls-max", "1.2"]).await;
    assert_eq!((answer.status, answer.code), (0, 35), "{}", answer.log);
    let answer = curl::https(web, "a.test", "/", &ca, &[]).await;
    assert_eq!((answer.status, &*answer.body), (200, "here"), "{}", answer.log);
}

#[tokio::test]
async fn a_long_body_comes_whole_in_both_directions() {
    const BYTES: usize = 3_000_001;
    let (ca, backend) = (Ca::new("a test's"), Backend::start(Reply::echo).await);
    let fleet = fleet(1).await;
    fleet.apply(&site(&fleet, &ca, "", backend.address())).await;
    let file = fleet.dir().join("body");
    let body: String = (0..BYTES).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    std::fs::write(&file, &body).expect("it can be written");
    let (web, ca) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    let data = format!("@{}", file.display());
    for framing in [&[][..], &["--header", "Transfer-Encoding: chunked"]] {
        let flags = [framing, &["--http1.1", "--data-binary", &data]].concat();
        let answer = curl::https(web, "a.test", "/", &ca, &flags).await;
        assert_eq!(answer.status, 200, "{}", answer.log);
        assert!(answer.body == body, "{} bytes of {BYTES}", answer.body.len());
    }
}

#[tokio::test]
async fn a_tcp_listener_takes_tls_off() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("plain").await);
    let (fleet, port) = (Fleet::empty().await, Port::reserve());
    let certificate = ca.sign(&["a.test"]).entry(fleet.dir(), "a");
    let tls = "tls = { certificates = ['a'] }";
    let spec = format!("{certificate}{}", tcp(port.address(), tls, backend.address()));
    let log = fleet.dir().join("access.log");
    let fleet = access_log::with_proxy(fleet, "full", &log, &spec).await;
    let ca = ca.write(fleet.dir());
    for version in ["1.2", "1.3"] {
        let flags = ["--tls-max", version];
        let answer = curl::https(port.address(), "a.test", "/", &ca, &flags).await;
        assert_eq!((answer.status, &*answer.body), (200, "plain"), "{}", answer.log);
    }
    for line in access_log::lines(&log, 2).await {
        access_log::check(&line, json!({ "reason": null }));
    }
}

#[tokio::test]
async fn who_does_not_shake_hands_is_let_go() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    let tls = ", handshake_timeout = '1s', max_handshakes = 40";
    fleet.apply(&site(&fleet, &ca, tls, backend.address())).await;
    let (proxy, ca) = (&fleet.proxies[0], ca.write(fleet.dir()));
    let mut silent = Vec::new();
    for i in 0..100 {
        let mut client = Client::connect(proxy.web()).await;
        if i % 2 == 0 {
            client.send_raw([22, 3, 1]).await;
        }
        silent.push(client);
    }
    let answer = curl::https(proxy.web(), "a.test", "/", &ca, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.log);
    assert!(proxy.limit_hits("max_handshakes").await > 0, "the oldest made room");
    for client in &mut silent {
        client.expect_closed().await;
    }
    assert!(proxy.limit_hits("handshake_timeout").await > 0);
    fleet.nothing_is_left().await;
    eventually("handshakes are counted", async || {
        let metrics = fleet.proxies[0].metrics().await;
        let of = |result| metrics.sum("lb_proxy_tls_handshakes_total", &[("result", result)]);
        let counts = (of("full"), of("failed"));
        holds(counts == (1.0, 100.0), || format!("{counts:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_whole_one() {
    let backend = Backend::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        Reply::RawAndClose(head.into())
    })
    .await;
    let (ca, fleet) = (Ca::new("a test's"), fleet(1).await);
    fleet.apply(&site(&fleet, &ca, "", backend.address())).await;
    let (web, ca) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    for version in ["--http1.0", "--http1.1"] {
        let answer = curl::https(web, "a.test", "/", &ca, &[version]).await;
        assert_eq!(answer.status, 200, "{version}: {}", answer.log);
        assert_ne!(answer.code, 0, "{version}: it ended in order: {}", answer.log);
    }
}

#[tokio::test]
async fn a_client_that_says_its_last_word_with_its_request_is_answered_and_let_go() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    let spec = site(&fleet, &ca, "", backend.address());
    let gone = "[[routes]]\nname = 'gone'\nmatch = { path = '/gone' }\nanswer = { status = 410 }\n";
    fleet.apply(&format!("{spec}\n{gone}")).await;
    let script = "
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
host, port = sys.argv[1].split(':')
plain = socket.create_connection((host, int(port)), 20)
into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(into, out, server_hostname='a.test')
while True:
    try:
        tls.do_handshake()
        break
    except ssl.SSLWantReadError:
        plain.sendall(out.read())
        into.write(plain.recv(65536))
tls.write(b'GET /gone HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')
try:
    tls.unwrap()
except ssl.SSLWantReadError:
    pass
plain.sendall(out.read())
while True:
    part = plain.recv(65536)
    if not part:
        break
    into.write(part)
print('ended')
";
    let mut python = tokio::process::Command::new(integration_tests::tools::tool("python3"));
    python.args(["-c", script]).arg(fleet.proxies[0].web().to_string());
    let output = python.output().await.expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "ended", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn what_is_no_tls_gets_nothing_and_reaches_nobody() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    // Nobody waits for that to see that it is none.
    let tls = ", handshake_timeout = '60s'";
    fleet.apply(&site(&fleet, &ca, tls, backend.address())).await;
    for said in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "SSH-2.0-x\r\n", "\0"] {
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send_raw(said).await;
        // An alert, and the end.
        let rest = client.wire.rest().await.unwrap_or_default();
        assert!(rest.len() <= 7, "{said:?}: {rest:?}");
    }
    assert!(backend.requests().is_empty());
}
