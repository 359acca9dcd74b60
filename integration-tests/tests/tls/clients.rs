//! Clients that show certificates, and clients that come back.

use integration_tests::{
    backend::Backend,
    certs::Ca,
    curl,
    eventually::{eventually, holds},
    tools::tool,
};
use tokio::process::Command;

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

#[tokio::test]
async fn a_session_is_resumed_at_another_proxy() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(2).await;
    fleet.apply(&site(&fleet, &ca, "", backend.address())).await;
    let session = fleet.dir().join("session");
    for version in ["-tls1_2", "-tls1_3"] {
        for (proxy, flag) in [(0, "-sess_out"), (1, "-sess_in")] {
            let mut command = Command::new(tool("openssl"));
            command
                .args(["s_client", "-servername", "a.test", version, "-ign_eof", "-connect"])
                .arg(fleet.proxies[proxy].web().to_string())
                .arg(flag)
                .arg(&session)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            let mut child = command.spawn().expect("openssl runs");
            let mut input = child.stdin.take().expect("it is a pipe");
            let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut input, request).await.expect("it reads");
            let output = child.wait_with_output().await.expect("it ends");
            drop(input);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("here"), "{said}");
            let is_resumed = said.contains("Reused, TLS");
            assert_eq!(is_resumed, proxy == 1, "{version}: {said}");
        }
    }
    eventually("resumptions are counted", async || {
        let metrics = fleet.proxies[1].metrics().await;
        let resumed = metrics.sum("lb_proxy_tls_handshakes_total", &[("result", "resumed")]);
        holds(resumed == 2.0, || format!("{resumed}"))
    })
    .await;
}
