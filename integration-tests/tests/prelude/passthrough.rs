//! TCP routes by what a TLS client asks for, with TLS that goes on to backends as it is.

use std::{net::SocketAddr, path::Path};

use integration_tests::{
    access_log,
    backend::Backend,
    certs::{Ca, Pair},
    client::Client,
    curl,
    eventually::{eventually, holds},
    exchange::{Pieces, exchange},
    fleet::{Fleet, Proxy},
    hello,
    nginx::Nginx,
    ports::Port,
};
use serde_json::json;

/// Three names and the rest, each with a TLS server of its own, behind the listener `edge`.
struct Site {
    fleet: Fleet,
    edge: Port,
    ca: std::path::PathBuf,
    _servers: Vec<Nginx>,
}

/// A route to the backend set of the same name.
fn route(name: &str, matches: &str) -> String {
    format!(
        "[[routes]]
         name = '{name}'
         listeners = ['edge']
         match = {matches}
         backend_set = '{name}'
         "
    )
}

fn set(name: &str, backend: SocketAddr) -> String {
    format!(
        "[[backend_sets]]
         name = '{name}'
         backends = [{{ address = '{backend}' }}]
         "
    )
}

fn edge(address: SocketAddr, more: &str) -> String {
    format!(
        "[[listeners]]
         name = 'edge'
         protocol = 'tcp'
         address = '{address}'
         {more}
         "
    )
}

async fn tls_server(dir: &Path, name: &str, pair: &Pair) -> Nginx {
    let (cert, key) = pair.write(dir, &format!("{name}-server"));
    let (cert, key) = (cert.display(), key.display());
    let lines = format!("ssl_certificate {cert}; ssl_certificate_key {key};");
    Nginx::start_as(dir, name, "ssl http2", &lines).await
}

async fn site() -> Site {
    let (ca, edge_port) = (Ca::new("a test's"), Port::reserve());
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let (mut servers, mut sets) = (Vec::new(), String::new());
    for (name, host) in
        [("a", "a.test"), ("b", "b.test"), ("wild", "*.c.test"), ("rest", "rest.test")]
    {
        let server = tls_server(fleet.dir(), name, &ca.sign(&[host])).await;
        sets += &set(name, server.address());
        servers.push(server);
    }
    let routes = [
        route("a", "{ sni = 'a.test' }"),
        route("b", "{ sni = 'b.test' }"),
        route("wild", "{ sni = '*.c.test' }"),
    ];
    let listener = edge(edge_port.address(), "backend_set = 'rest'");
    fleet.apply(&format!("{listener}{}{sets}", routes.concat())).await;
    let ca = ca.write(fleet.dir());
    Site { fleet, edge: edge_port, ca, _servers: servers }
}

async fn ask(at: SocketAddr, host: &str, ca: &Path) -> String {
    let answer = curl::https(at, host, "/", ca, &[]).await;
    assert_eq!(answer.status, 200, "{host}: {}", answer.log);
    answer.body.trim().to_owned()
}

fn hellos(proxy: &integration_tests::metrics::Metrics, result: &str) -> f64 {
    proxy.sum("lb_proxy_client_hellos_total", &[("result", result)])
}

#[tokio::test]
async fn each_name_is_answered_by_its_own_server_with_its_own_certificate() {
    let site = site().await;
    let at = site.edge.address();
    for (host, server) in [
        ("a.test", "a"),
        ("b.test", "b"),
        ("A.Test", "a"),
        ("x.c.test", "wild"),
        ("rest.test", "rest"),
    ] {
        assert_eq!(ask(at, host, &site.ca).await, server, "{host}");
    }
    let proxy = &site.fleet.proxies[0];
    eventually("connections are counted", async || {
        let metrics = proxy.metrics().await;
        let of = |name, set| metrics.sum(name, &[("listener", "edge"), ("backend_set", set)]);
        for (set, count) in [("a", 2.0), ("b", 1.0), ("wild", 1.0), ("rest", 1.0)] {
            let total = of("lb_proxy_tcp_connections_total", set);
            let ended = of("lb_proxy_tcp_connection_seconds_count", set);
            let open = of("lb_proxy_tcp_connections_open", set);
            let all = (total, ended, open);
            holds(all == (count, count, 0.0), || format!("{set}: {all:?}"))?;
            let received = of("lb_proxy_tcp_received_bytes_total", set);
            let sent = of("lb_proxy_tcp_sent_bytes_total", set);
            // A hello and a request; a certificate and an answer.
            holds(200.0 * count < received && 500.0 * count < sent, || {
                format!("{set}: {received} and {sent} bytes")
            })?;
        }
        let of_route = metrics.sum("lb_proxy_received_bytes_total", &[("route", "a")]);
        let of_set = of("lb_proxy_tcp_received_bytes_total", "a");
        holds(of_route == of_set, || format!("{of_route} of the route, {of_set} of the set"))?;
        holds(hellos(&metrics, "read") == 5.0, || "not all hellos are counted".into())
    })
    .await;
    site.fleet.nothing_is_left().await;
}

/// Sends a hello that a script wrote, and returns which backend got it, with all of it.
async fn taken(proxy: &Proxy, at: SocketAddr, bytes: &[u8], pieces: Pieces) -> String {
    let exchange = exchange(at, bytes, pieces).await;
    let log = proxy.process.log();
    String::from_utf8(exchange.received).unwrap_or_else(|_| panic!("no name came; {log}"))
}

/// Says its name once it has got so many bytes, and ends.
async fn counting(name: &'static str, bytes: usize) -> Backend {
    Backend::recording_script(move |mut wire, _| async move {
        if wire.exactly(bytes).await.is_ok() {
            let _ = wire.send(name).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_hello_is_routed_right_in_whatever_pieces_it_comes() {
    for (padding, each) in [(0, 16_384), (0, 1), (0, 7), (15_900, 16_384), (15_900, 100)] {
        let hello = hello::client_hello("a.test", &["h2"], padding);
        let bytes = [hello::records(&hello, each), b"more".to_vec()].concat();
        let a = counting("a", bytes.len()).await;
        let rest = counting("rest", 1).await;
        let port = Port::reserve();
        let spec = [
            edge(port.address(), "backend_set = 'rest'"),
            route("a", "{ sni = 'a.test' }"),
            set("a", a.address()),
            set("rest", rest.address()),
        ];
        let fleet = Fleet::start(1, &spec.concat()).await;
        let pieces: &[Pieces] =
            if bytes.len() < 2_000 { &[Pieces::Whole, Pieces::Bytes] } else { &[Pieces::Whole] };
        for pieces in pieces {
            let name = taken(&fleet.proxies[0], port.address(), &bytes, *pieces).await;
            assert_eq!(name, "a", "{padding} of padding in records of {each}, {pieces:?}");
        }
        for received in a.received() {
            assert!(received == bytes, "the backend got something else");
        }
    }
}

#[tokio::test]
async fn what_asks_for_no_name_goes_where_no_name_is_asked_for_or_nowhere() {
    let (named, rest) = (counting("named", 1).await, counting("rest", 5).await);
    let port = Port::reserve();
    let sets = [set("named", named.address()), set("rest", rest.address())].concat();
    let routes = route("named", "{ sni = 'a.test' }");
    let other = hello::records(&hello::client_hello("b.test", &[], 0), 16_384);
    for fallback in ["", "backend_set = 'rest'"] {
        let spec = [edge(port.address(), fallback), routes.clone(), sets.clone()].concat();
        let fleet = Fleet::start(1, &spec).await;
        let proxy = &fleet.proxies[0];
        for bytes in [b"SSH-2.0-x\r\n", &other[..]] {
            let name = taken(proxy, port.address(), bytes, Pieces::Whole).await;
            assert_eq!(name, if fallback.is_empty() { "" } else { "rest" });
        }
        // What begins as TLS and goes on otherwise is nobody's.
        assert_eq!(taken(proxy, port.address(), b"\x16\x03\x01\0\0", Pieces::Whole).await, "");
        let metrics = proxy.metrics().await;
        let counts = ["read", "no_tls", "malformed"].map(|result| hellos(&metrics, result));
        assert_eq!(counts, [1.0, 1.0, 1.0]);
        let unrouted = metrics.sum("lb_proxy_tcp_unrouted_total", &[]);
        assert_eq!(unrouted, if fallback.is_empty() { 2.0 } else { 0.0 });
    }
    assert_eq!(named.connections(), 0);
}

#[tokio::test]
async fn who_does_not_come_to_the_end_of_its_hello_is_let_go() {
    let backend = Backend::named("here").await;
    let port = Port::reserve();
    let spec = [
        edge(port.address(), "header_timeout = '1s'\nbackend_set = 'a'"),
        route("a", "{ sni = 'a.test' }"),
        set("a", backend.address()),
    ];
    let fleet = Fleet::start(1, &spec.concat()).await;
    let mut silent = Client::connect(port.address()).await;
    let mut half = Client::connect(port.address()).await;
    let hello = hello::records(&hello::client_hello("a.test", &[], 0), 16_384);
    half.send_raw(&hello[..hello.len() - 1]).await;
    silent.expect_closed().await;
    half.expect_closed().await;
    assert_eq!(fleet.proxies[0].limit_hits("header_timeout").await, 2);
    assert_eq!(backend.connections(), 0);
    fleet.nothing_is_left().await;
}

#[tokio::test]
async fn a_listener_whose_routes_ask_for_nothing_does_not_wait_for_its_clients() {
    let greeting = Backend::script(|mut wire, _| async move {
        let _ = wire.send("220 here first").await;
    })
    .await;
    let port = Port::reserve();
    let spec = [edge(port.address(), ""), route("a", "{}"), set("a", greeting.address())].concat();
    let fleet = Fleet::start(1, &spec).await;
    let mut client = Client::connect(port.address()).await;
    let said = client.wire.rest().await.expect("it ends in order");
    assert_eq!(String::from_utf8_lossy(&said), "220 here first");
    drop(client);
    fleet.nothing_is_left().await;
}

#[tokio::test]
async fn protocols_are_told_apart_with_and_without_tls_of_our_own() {
    let ca = Ca::new("a test's");
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let pair = ca.sign(&["a.test"]);
    let h2 = tls_server(fleet.dir(), "h2", &pair).await;
    let any = tls_server(fleet.dir(), "any", &pair).await;
    let port = Port::reserve();
    let routes = [route("h2", "{ alpn = 'h2' }"), route("any", "{}")].concat();
    let sets = [set("h2", h2.address()), set("any", any.address())].concat();
    fleet.apply(&[edge(port.address(), ""), routes.clone(), sets].concat()).await;
    let pem = ca.write(fleet.dir());
    for (version, server) in [("--http1.1", "any"), ("--http2", "h2")] {
        let answer = curl::https(port.address(), "a.test", "/", &pem, &[version]).await;
        assert_eq!((answer.status, answer.body.trim()), (200, server), "{}", answer.log);
    }

    // Taken off here: what was agreed on decides.
    let [h2, any] = [Backend::named("h2").await, Backend::named("any").await];
    let sets = [set("h2", h2.address()), set("any", any.address())].concat();
    let routes = routes.replace("alpn = 'h2'", "alpn = 'http/1.1'");
    let certificate = pair.entry(fleet.dir(), "a");
    let tls = edge(port.address(), "tls = { certificates = ['a'] }");
    fleet.apply(&[certificate, tls, routes, sets].concat()).await;
    for (flags, server) in [(&["--http1.1"][..], "h2"), (&["--no-alpn"], "any")] {
        let answer = curl::https(port.address(), "a.test", "/", &pem, flags).await;
        assert_eq!((answer.status, answer.body.trim()), (200, server), "{}", answer.log);
    }
}

#[tokio::test]
async fn a_route_divides_its_connections_by_weight() {
    let [a, b] = [Backend::named("a").await, Backend::named("b").await];
    let port = Port::reserve();
    let split = "[[routes]]
        name = 'split'
        listeners = ['edge']
        forward = [{ backend_set = 'a', weight = 3 }, { backend_set = 'b' }]
        ";
    let sets = [set("a", a.address()), set("b", b.address())].concat();
    let _fleet = Fleet::start(1, &[edge(port.address(), ""), split.into(), sets].concat()).await;
    let mut of_a = 0;
    for _ in 0..200 {
        let mut client = Client::connect(port.address()).await;
        of_a += usize::from(client.get("/").await.text() == "a");
    }
    assert!((110..190).contains(&of_a), "{of_a} of 200 where 150 are expected");
}

#[tokio::test]
async fn a_proxy_header_comes_before_the_hello() {
    let hello = hello::records(&hello::client_hello("a.test", &[], 0), 16_384);
    let a = counting("a", hello.len()).await;
    let port = Port::reserve();
    let trusting = "trusted_proxies = ['127.0.0.1']\nproxy_protocol = 'required'";
    let spec =
        [edge(port.address(), trusting), route("a", "{ sni = 'a.test' }"), set("a", a.address())];
    let fleet = Fleet::start(1, &spec.concat()).await;
    let bytes = [b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 443\r\n", &hello[..]].concat();
    for pieces in [Pieces::Whole, Pieces::Bytes] {
        assert_eq!(taken(&fleet.proxies[0], port.address(), &bytes, pieces).await, "a");
    }
    assert_eq!(a.received(), [hello.clone(), hello]);
}

#[tokio::test]
async fn the_access_log_has_the_name_that_was_asked_for_and_the_route_that_took_it() {
    let (ca, edge_port) = (Ca::new("a test's"), Port::reserve());
    let fleet = Fleet::empty().await;
    let server = tls_server(fleet.dir(), "a", &ca.sign(&["a.test"])).await;
    let log = fleet.dir().join("access.log");
    let spec = format!(
        "{}{}{}",
        edge(edge_port.address(), ""),
        route("a", "{ sni = 'a.test' }"),
        set("a", server.address())
    );
    let fleet = access_log::with_proxy(fleet, "full", &log, &spec).await;
    let ca = ca.write(fleet.dir());
    ask(edge_port.address(), "a.test", &ca).await;
    let refused = curl::https(edge_port.address(), "b.test", "/", &ca, &[]).await;
    assert_eq!(refused.status, 0, "{}", refused.log);
    let lines = access_log::lines(&log, 2).await;
    let taken = json!({ "server_name": "a.test", "route": "a", "backend_set": "a" });
    access_log::check(&lines[0], taken);
    let refused = json!({
        "server_name": "b.test", "route": null, "reason": "destination_not_found",
    });
    access_log::check(&lines[1], refused);
}
