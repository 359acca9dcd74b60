//! Clients that show certificates, and clients that come back.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use integration_tests::{
    backend::Backend,
    certs::Ca,
    client::Client,
    curl,
    eventually::{eventually, holds},
    fleet::Fleet,
    ports::Port,
    tools::tool,
};
use tokio::{io::AsyncWriteExt, process::Command};

use super::{fleet, site};

#[tokio::test]
async fn only_who_shows_a_certificate_that_the_ca_signed_is_served_where_one_is_required() {
    let (ca, other, backend) =
        (Ca::new("a test's"), Ca::new("another's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    let pem = ca.write(fleet.dir());
    let known = ca.sign(&["client.test"]).write(fleet.dir(), "known");
    let foreign = other.sign(&["client.test"]).write(fleet.dir(), "foreign");
    for (mode, without, with_foreign) in [("required", 0, 0), ("optional", 200, 0)] {
        let tls = format!(", client_auth = {{ mode = '{mode}', ca = '{}' }}", pem.display());
        fleet.apply(&site(&fleet, &ca, &tls, backend.address())).await;
        for (shown, expected) in
            [(None, without), (Some(&known), 200), (Some(&foreign), with_foreign)]
        {
            let mut flags = Vec::new();
            if let Some((cert, key)) = shown {
                let (cert, key) = (cert.display().to_string(), key.display().to_string());
                flags.extend(["--cert".to_owned(), cert, "--key".to_owned(), key]);
            }
            let flags: Vec<_> = flags.iter().map(String::as_str).collect();
            let answer = curl::https(fleet.proxies[0].web(), "a.test", "/", &pem, &flags).await;
            assert_eq!(answer.status, expected, "{mode}, {shown:?}: {}", answer.log);
        }
    }
}

/// What openssl says of a request with this address, and more arguments.
async fn s_client(address: SocketAddr, args: &[&str]) -> String {
    let mut command = Command::new(tool("openssl"));
    command
        .args(["s_client", "-servername", "a.test", "-ign_eof", "-connect"])
        .arg(address.to_string())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl runs");
    let mut input = child.stdin.take().expect("it is a pipe");
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    // Who is refused at once reads nothing.
    let _ = input.write_all(request).await;
    let output = child.wait_with_output().await.expect("it ends");
    drop(input);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_session_is_resumed_at_another_proxy_and_at_no_other_listener() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let (fleet, other) = (fleet(2).await, Port::reserve());
    let spec = site(&fleet, &ca, "", backend.address());
    let address = other.address();
    let tls = "tls = { certificates = ['a'] }";
    let two = format!("[[listeners]]\nname = 'other'\naddress = '{address}'\n{tls}\n");
    fleet.apply(&format!("{two}{spec}")).await;
    let session = fleet.dir().join("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        for (address, flag, is_resumed) in [
            (fleet.proxies[0].web(), "-sess_out", false),
            (fleet.proxies[1].web(), "-sess_in", true),
            (other.address(), "-sess_in", false),
        ] {
            let said = s_client(address, &[version, flag, &session]).await;
            assert!(said.contains("here"), "{said}");
            assert_eq!(said.contains("Reused, TLS"), is_resumed, "{version} {flag}: {said}");
        }
    }
    eventually("resumptions are counted", async || {
        let metrics = fleet.proxies[1].metrics().await;
        let resumed = metrics.sum("lb_proxy_tls_handshakes_total", &[("result", "resumed")]);
        holds(resumed == 2.0, || format!("{resumed}"))
    })
    .await;
}

#[tokio::test]
async fn a_ticket_is_no_way_around_the_end_of_a_clients_certificate() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    let pem = ca.write(fleet.dir());
    let tls = format!(", client_auth = {{ mode = 'required', ca = '{}' }}", pem.display());
    fleet.apply(&site(&fleet, &ca, &tls, backend.address())).await;
    let (cert, key) =
        ca.sign_for(&["client.test"], Duration::from_secs(4)).write(fleet.dir(), "short");
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let session = fleet.dir().join("session").display().to_string();
    let web = fleet.proxies[0].web();
    let ask =
        async |flag: &str| s_client(web, &["-cert", &cert, "-key", &key, flag, &session]).await;
    let said = ask("-sess_out").await;
    assert!(said.contains("here"), "{said}");
    let said = ask("-sess_in").await;
    assert!(said.contains("here") && said.contains("Reused, TLS"), "{said}");
    eventually("it has expired", async || {
        let said = ask("-sess_in").await;
        holds(!said.contains("here"), || said)
    })
    .await;
}

#[tokio::test]
async fn a_handshake_in_one_piece_is_made_though_buffers_are_full() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let (mut fleet, plain) = (Fleet::empty().await, Port::reserve());
    let web = Port::reserve();
    let listen = [("web", &web), ("plain", &plain)];
    let mut args = vec!["--workers=1".to_owned(), "--max-buffer-bytes=100000".to_owned()];
    args.extend(listen.map(|(name, port)| format!("--listen={name}={}", port.address())));
    fleet.add_proxy("p1", &args);
    let spec = site(&fleet, &ca, "", backend.address());
    let more = "[[listeners]]\nname = 'plain'\naddress = '127.0.0.1:2'\n";
    fleet.apply(&format!("{more}{spec}")).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(plain.address()).await;
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(40_000));
        client.send_raw(head).await;
        slow.push(client);
    }
    let pem = ca.write(fleet.dir());
    let answer = curl::https(web.address(), "a.test", "/", &pem, &[]).await;
    assert_eq!((answer.status, &*answer.body), (200, "here"), "{}", answer.log);
}
