//! PROXY protocol headers as real balancers in front send them: HAProxy, Envoy, and curl.

use std::net::SocketAddr;

use integration_tests::{
    backend::{Backend, Reply},
    certs::Ca,
    client::Client,
    curl,
    envoy::Envoy,
    eventually::{eventually, holds},
    fleet::{Fleet, app, listening, tcp},
    haproxy::{HaProxy, Setup},
    ports::Port,
};

const TRUSTING: &str = "trusted_proxies = ['127.0.0.1']\nproxy_protocol = 'required'";

async fn echo() -> Backend {
    Backend::start(|seen| Reply::ok(seen.head.fields.get("x-forwarded-for").unwrap_or("-"))).await
}

/// Another address of this machine, which is nobody's who is believed.
const CLIENT: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 77);

#[tokio::test]
async fn haproxy_says_who_the_client_is_to_an_http_listener() {
    let backend = echo().await;
    let fleet = Fleet::start(1, &listening(&app("", "", &[backend.address()]), TRUSTING)).await;
    let to = fleet.proxies[0].web();
    let servers = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options unique-id,crc32c,authority,ssl,cert-cn,cert-sig",
    ];
    for (i, server) in servers.into_iter().enumerate() {
        let setup = Setup { mode: "tcp", bind: "", to, server };
        let front = HaProxy::start(fleet.dir(), &format!("haproxy-{i}"), setup).await;
        let mut client = Client::connect_from(CLIENT, front.address()).await;
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "127.0.0.77", "{server}");
        }
    }
}

#[tokio::test]
async fn haproxy_says_who_the_client_is_before_tls() {
    let (ca, backend) = (Ca::new("a test's"), echo().await);
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let certificate = ca.sign(&["a.test"]).entry(fleet.dir(), "a");
    let lines = format!("{TRUSTING}\ntls = {{ certificates = ['a'] }}");
    let spec = listening(&app("", "", &[backend.address()]), &lines);
    fleet.apply(&format!("{certificate}{spec}")).await;
    let (to, pem) = (fleet.proxies[0].web(), ca.write(fleet.dir()));
    for server in ["send-proxy", "send-proxy-v2"] {
        let setup = Setup { mode: "tcp", bind: "", to, server };
        let front = HaProxy::start(fleet.dir(), server, setup).await;
        let from = ["--interface", "127.0.0.77"];
        let answer = curl::https(front.address(), "a.test", "/", &pem, &from).await;
        assert_eq!((answer.status, &*answer.body), (200, "127.0.0.77"), "{}", answer.log);
    }
    // curl says it itself, and of whom it is one.
    let answer = curl::https(to, "a.test", "/", &pem, &["--haproxy-protocol"]).await;
    assert_eq!((answer.status, &*answer.body), (200, "127.0.0.1"), "{}", answer.log);
    // Without, it does not get to its handshake.
    let answer = curl::https(to, "a.test", "/", &pem, &[]).await;
    assert_eq!(answer.status, 0, "{}", answer.log);
}

#[tokio::test]
async fn haproxys_health_checks_are_answered() {
    let backend = echo().await;
    let fleet = Fleet::start(1, &listening(&app("", "", &[backend.address()]), TRUSTING)).await;
    let to = fleet.proxies[0].web();
    for server in ["send-proxy", "send-proxy-v2"] {
        let server = format!("{server} check inter 100ms rise 1");
        let setup = Setup { mode: "tcp", bind: "", to, server: &server };
        let _front = HaProxy::start(fleet.dir(), "haproxy", setup).await;
        let before = headers_read(&fleet).await;
        eventually("checks come", async || {
            let read = headers_read(&fleet).await;
            holds(before + 3.0 <= read, || format!("{read}"))
        })
        .await;
    }
    assert_eq!(backend.count(), 0, "a check is no request");
}

async fn headers_read(fleet: &Fleet) -> f64 {
    let metrics = fleet.proxies[0].metrics().await;
    metrics.sum("lb_proxy_proxy_headers_total", &[("result", "read")])
}

#[tokio::test]
async fn envoy_says_who_the_client_is() {
    let backend = echo().await;
    let fleet = Fleet::start(1, &listening(&app("", "", &[backend.address()]), TRUSTING)).await;
    for version in ["V1", "V2"] {
        let front = Envoy::start(fleet.dir(), version, fleet.proxies[0].web()).await;
        let mut client = Client::connect_from(CLIENT, front.address()).await;
        assert_eq!(client.get("/").await.text(), "127.0.0.77", "{version}");
    }
}

#[tokio::test]
async fn a_tcp_listener_hashes_by_the_client_that_is_said() {
    let backends =
        [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await];
    let port = Port::reserve();
    let one = tcp(port.address(), TRUSTING, backends[0].address());
    let entries: Vec<_> =
        ["a", "b", "c"].into_iter().zip(&backends).map(|(n, b)| b.entry(n)).collect();
    let (before, _) = one.split_once("backends").expect("there are some");
    let spec = format!("{before}balance = 'consistent_hash'\nbackends = [{}]", entries.join(", "));
    let _fleet = Fleet::start(1, &spec).await;
    let asked = async |client: u8| at(port.address(), client).await;
    let mut found = std::collections::BTreeSet::new();
    for client in 1..=20 {
        let first = asked(client).await;
        assert_eq!(asked(client).await, first, "client {client}");
        found.insert(first);
    }
    assert_eq!(found.len(), 3, "all clients are one");
}

async fn at(address: SocketAddr, client: u8) -> String {
    let mut connection = Client::connect(address).await;
    connection.send_raw(format!("PROXY TCP4 192.0.2.{client} 192.0.2.9 1 443\r\n")).await;
    connection.get("/").await.text()
}
