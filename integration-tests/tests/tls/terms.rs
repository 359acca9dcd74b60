//! Connections that were let in by what does not hold any more.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use integration_tests::{
    backend::Backend,
    certs::Ca,
    curl,
    eventually::{PATIENCE, eventually, holds, within},
    tools::tool,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{fleet, site};

/// openssl as a client whose connection stays open.
struct Open {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

impl Open {
    fn connect(address: SocketAddr, (cert, key): &(impl AsRef<Path>, impl AsRef<Path>)) -> Self {
        let mut child = Command::new(tool("openssl"))
            .args(["s_client", "-quiet", "-ign_eof", "-servername", "a.test", "-connect"])
            .arg(address.to_string())
            .args([Path::new("-cert"), cert.as_ref(), Path::new("-key"), key.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("openssl runs");
        let requests = child.stdin.take().expect("it is a pipe");
        let answers = child.stdout.take().expect("it is a pipe");
        Self { child, requests, answers }
    }

    /// What is answered to one more request; nothing if the connection has ended.
    async fn ask(&mut self) -> String {
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let (mut said, mut buffer) = (String::new(), [0; 4096]);
        if self.requests.write_all(request).await.is_err() {
            return said;
        }
        while !said.ends_with("here") {
            let reading = self.answers.read(&mut buffer);
            match within(PATIENCE, "an answer, or the end", reading).await {
                Ok(0) | Err(_) => return String::new(),
                Ok(count) => said.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        said
    }

    async fn has_ended(&mut self) {
        let ended = within(PATIENCE, "it is closed", self.child.wait()).await;
        ended.expect("openssl ends by itself");
    }
}

#[tokio::test]
async fn who_was_let_in_by_another_ca_is_let_go_and_comes_back_by_the_new_one() {
    let (ca, clients) = (Ca::new("a test's"), Ca::new("clients'"));
    let next = Ca::new("their next");
    let (fleet, backend) = (fleet(1).await, Backend::named("here").await);
    let pem = ca.write(fleet.dir());
    let of_clients = fleet.dir().join("clients.pem");
    std::fs::write(&of_clients, clients.pem()).expect("it can be written");
    let auth = |mode: &str| {
        format!(", client_auth = {{ mode = '{mode}', ca = '{}' }}", of_clients.display())
    };
    fleet.apply(&site(&fleet, &ca, &auth("optional"), backend.address())).await;
    let web = fleet.proxies[0].web();
    let known = clients.sign(&["client.test"]).write(fleet.dir(), "known");
    let renewed = next.sign(&["client.test"]).write(fleet.dir(), "renewed");

    let mut open = Open::connect(web, &known);
    assert!(open.ask().await.contains(" 200 "));
    std::fs::write(&of_clients, next.pem()).expect("it can be written");
    open.has_ended().await;
    let mut open = Open::connect(web, &renewed);
    assert!(open.ask().await.contains(" 200 "));

    fleet.apply(&site(&fleet, &ca, &auth("required"), backend.address())).await;
    open.has_ended().await;
    let mut open = Open::connect(web, &renewed);
    assert!(open.ask().await.contains(" 200 "));
    // Another certificate of the listener's own is nothing to those who have come in.
    ca.sign(&["a.test", "b.test"]).write(fleet.dir(), "a");
    eventually("the new certificate is shown", async || {
        let (cert, key) = (renewed.0.display().to_string(), renewed.1.display().to_string());
        let flags = ["--cert", &cert, "--key", &key];
        let answer = curl::https(web, "b.test", "/", &pem, &flags).await;
        holds(answer.status == 200, || answer.log)
    })
    .await;
    assert!(open.ask().await.contains(" 200 "));
}

#[tokio::test]
async fn an_open_connection_serves_nobody_whose_certificate_has_expired() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let fleet = fleet(1).await;
    let pem = ca.write(fleet.dir());
    let tls = format!(
        ", client_auth = {{ mode = 'required', headers = 'none', ca = '{}' }}",
        pem.display()
    );
    fleet.apply(&site(&fleet, &ca, &tls, backend.address())).await;
    let short = ca.sign_for(&["client.test"], Duration::from_secs(4)).write(fleet.dir(), "short");
    let mut open = Open::connect(fleet.proxies[0].web(), &short);
    assert!(open.ask().await.contains(" 200 "));
    eventually("it is closed", async || {
        let said = open.ask().await;
        holds(said.is_empty(), || said)
    })
    .await;
    open.has_ended().await;
}
