//! PROXY protocol headers that backends get, read by HAProxy, by nginx and by hand.

use std::{net::Ipv4Addr, path::Path};

use integration_tests::{
    backend::Backend,
    certs::Ca,
    client::Client,
    eventually::{eventually, holds},
    fleet::{Fleet, app, tcp},
    haproxy::{HaProxy, Setup},
    nginx::Nginx,
    ports::Port,
    wire::Wire,
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 78);

/// The line that a connection begins with, without its end.
async fn line(wire: &mut Wire) -> std::io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(wire.exactly(1).await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Answers each request with the header of version 1 that its connection began with.
async fn told() -> Backend {
    Backend::script(|mut wire, _| async move {
        let Ok(line) = line(&mut wire).await else { return };
        while let Ok(Some(_)) = wire.head().await {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
            if wire.send(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// The source and the destination in such a header, which is of a connection by `client`.
#[track_caller]
fn check(line: &str, client: &Client, proxy: std::net::SocketAddr) {
    let from = client.wire.local_address();
    let expected =
        format!("PROXY TCP4 {} {} {} {}", from.ip(), proxy.ip(), from.port(), proxy.port());
    assert_eq!(line, expected);
}

#[tokio::test]
async fn a_connection_to_a_backend_is_used_for_the_client_that_it_names_and_for_no_other() {
    let backend = told().await;
    let mut fleet = Fleet::empty().await;
    // All of them have one pool.
    fleet.add_proxy("p1", &["--workers=1".into()]);
    let set = "proxy_protocol = 'v1'\npool = { max_idle = 3 }";
    fleet.apply(&app("", set, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut first = Client::connect_from(CLIENT, web).await;
    let mut second = Client::connect_from(OTHER, web).await;
    for _ in 0..3 {
        for client in [&mut first, &mut second] {
            let said = client.get("/").await.text();
            check(&said, client, web);
        }
    }
    assert_eq!(backend.connections(), 2, "each client has one, and keeps it");
    // Others make room for those that come later: their clients may be gone.
    for _ in 0..5 {
        let mut client = Client::connect_from(CLIENT, web).await;
        let said = client.get("/").await.text();
        check(&said, &client, web);
    }
    let said = first.get("/").await.text();
    check(&said, &first, web);
    assert_eq!(backend.connections(), 8);
    eventually("no more than three idle", async || {
        let open = backend.open_connections();
        holds(open == 3, || format!("{open}"))
    })
    .await;
}

#[tokio::test]
async fn haproxy_reads_both_versions_of_http_and_tcp() {
    let backend = told().await;
    for version in ["v1", "v2"] {
        let fleet = Fleet::empty().await;
        let setup = Setup {
            mode: "tcp",
            bind: "accept-proxy",
            to: backend.address(),
            // What it has understood, it says in its own words.
            server: "send-proxy",
        };
        let receiver = HaProxy::start(fleet.dir(), "haproxy", setup).await;
        let port = Port::reserve();
        let both =
            both(version, port.address(), receiver.address(), "health_check = { tcp = true }");
        let mut fleet = fleet;
        fleet.add_proxy("p1", &[]);
        fleet.apply(&both).await;
        for at in [fleet.proxies[0].web(), port.address()] {
            let mut client = Client::connect_from(CLIENT, at).await;
            let said = client.get("/").await.text();
            check(&said, &client, at);
        }
        fleet.backend_is(receiver.address(), "healthy", |status| status.health == 1).await;
    }
}

/// Listeners `web` and `tcp` before one backend, which gets headers of this version.
fn both(
    version: &str,
    tcp_at: std::net::SocketAddr,
    backend: std::net::SocketAddr,
    set: &str,
) -> String {
    let set = format!("proxy_protocol = '{version}'\n{set}");
    let (listener, _) = tcp(tcp_at, "", backend).split_once("[[backend_sets]]").map_or_else(
        || panic!("there is a backend set"),
        |(listener, rest)| (listener.to_owned(), rest.to_owned()),
    );
    format!("{listener}\n{}", app("", &set, &[backend]))
}

/// Says whom it takes for the client.
async fn nginx(dir: &Path, name: &str, how: &str, lines: &str) -> Nginx {
    let lines = format!(
        "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol; {lines}
         location = /client {{ return 200 '$remote_addr $remote_port $proxy_protocol_server_port'; }}"
    );
    Nginx::start_as(dir, name, how, &lines).await
}

#[tokio::test]
async fn nginx_reads_both_versions_also_before_tls_and_its_health_is_known() {
    let ca = Ca::new("a test's");
    for version in ["v1", "v2"] {
        for tls in [false, true] {
            let mut fleet = Fleet::empty().await;
            fleet.add_proxy("p1", &[]);
            let (cert, key) = ca.sign(&["a.test"]).write(fleet.dir(), "server");
            let lines = format!(
                "ssl_certificate {}; ssl_certificate_key {};",
                cert.display(),
                key.display()
            );
            let pem = ca.write(fleet.dir());
            let (how, lines, set) = match tls {
                false => ("proxy_protocol", String::new(), String::new()),
                true => (
                    "ssl proxy_protocol",
                    lines,
                    format!("tls = {{ ca = '{}', server_name = 'a.test' }}\n", pem.display()),
                ),
            };
            let receiver = nginx(fleet.dir(), "receiver", how, &lines).await;
            let port = Port::reserve();
            let set = format!("{set}health_check = {{ http = '/health', interval = '100ms' }}");
            let spec = both(version, port.address(), receiver.address(), &set);
            fleet.apply(&spec).await;
            for at in [fleet.proxies[0].web(), port.address()] {
                let mut client = Client::connect_from(CLIENT, at).await;
                let source = client.wire.local_address();
                let expected = format!("{} {} {}", source.ip(), source.port(), at.port());
                assert_eq!(client.get("/client").await.text(), expected, "{version}, {tls}");
            }
            let is_checked = |status: &lb_proto::v1::BackendStatus| {
                status.health == 1 && status.why.contains("200")
            };
            fleet.backend_is(receiver.address(), "healthy", is_checked).await;
        }
    }
}

#[tokio::test]
async fn what_a_header_said_of_a_client_is_said_to_its_backend() {
    const BINARY: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x17\xc0\0\x02\x07\xc0\0\x02\x09\x12\x67\x01\xbb\
        \x05\0\x03uid\x01\0\x02h2";
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let backend = Backend::recording_script(|mut wire, _| async move {
        drop(wire.rest().await);
    })
    .await;
    let port = Port::reserve();
    let trusting = "trusted_proxies = ['127.0.0.1']\nproxy_protocol = 'required'";
    let spec =
        format!("{}\nproxy_protocol = 'v2'", tcp(port.address(), trusting, backend.address()));
    let fleet = Fleet::start(1, &spec).await;
    let mut client = Client::connect(port.address()).await;
    client.send_raw([BINARY, b"hello"].concat()).await;
    drop(client);
    fleet.nothing_is_left().await;
    assert_eq!(backend.received(), [[BINARY, b"hello"].concat()]);
    // A connection of the balancer's own is that.
    let mut client = Client::connect(port.address()).await;
    let own = client.wire.local_address().port().to_be_bytes();
    client.send_raw([LOCAL, b"hello"].concat()).await;
    drop(client);
    fleet.nothing_is_left().await;
    let received = &backend.received()[1];
    assert_eq!(received[12..16], [0x21, 0x11, 0, 12]);
    assert_eq!((&received[16..20], &received[24..26]), (&[127, 0, 0, 1][..], &own[..]));
    assert_eq!(received[28..], *b"hello");
}
