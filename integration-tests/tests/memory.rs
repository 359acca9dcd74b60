//! What clients and backends do decides neither a proxy's memory nor its time.
//!
//! `LB_TEST_CLIENTS=1000` is the full size: so many clients of each kind, and a fifth of that where
//! each costs more.

use std::{net::SocketAddr, time::Duration};

use integration_tests::{
    backend::{Backend, Gate},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, eventually_within, holds},
    fleet::{Fleet, Proxy, app, listening, tcp},
    ports::Port,
    raise_descriptor_limit, setting,
};
use tokio::task::JoinSet;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What the limits allow, as `README.md` has them: a buffer for each connection and direction, a
/// head, and what may have to be sent again.
const BUFFER: u64 = 128 * KIB;
const HEAD: u64 = 64 * KIB;
const REPLAY: u64 = 64 * KIB;
/// What an allocator keeps, and everything that does not depend on clients.
const SLACK: u64 = 16 * MIB;

/// Each body is so long, and so much of it comes in pieces of one byte; all at the full size.
const BODY: usize = 64 * 1024;

fn clients() -> usize {
    setting("LB_TEST_CLIENTS", 100) as usize
}

fn pieces() -> usize {
    if clients() < 1_000 { 1_000 } else { BODY }
}

async fn descriptors(proxy: &Proxy) -> u64 {
    proxy.metrics().await.sum("process_open_fds", &[]) as u64
}

/// Bodies go to `/body`, `/endless` never ends, and of `/heads` the head does not.
async fn backend() -> Backend {
    Backend::script(|mut wire, _| async move {
        while let Ok(Some(head)) = wire.head().await {
            match head.target() {
                "/endless" => {
                    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
                    let _ = wire.send(head).await;
                    let piece = vec![b'x'; BODY];
                    while wire.send(&piece).await.is_ok() {}
                    return;
                }
                "/heads" => {
                    let _ = wire.send("HTTP/1.1 200 OK\r\n").await;
                    let line = format!("X: {}\r\n", "x".repeat(1_000));
                    while wire.send(&line).await.is_ok() {}
                    return;
                }
                _ => {}
            }
            let Ok(framing) = head.request_framing() else { return };
            let Ok(body) = wire.body(framing).await else { return };
            let length = body.bytes.len().to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length.len());
            if wire.send(format!("{head}{length}")).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// A body of which the first pieces are of one byte.
async fn trickle_body(web: SocketAddr, method: &str, chunked: bool, all: Gate) -> String {
    let mut client = Client::connect(web).await;
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {BODY}"),
    };
    // What is not idempotent is forgotten once it was sent; the other one is kept.
    client.send_raw(format!("{method} /body HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).await;
    let one: &[u8] = if chunked { b"1\r\nx\r\n" } else { b"x" };
    for i in 0..pieces() {
        if let Err(error) = client.wire.send(one).await {
            let answer = client.try_response().await;
            panic!("after {i} of {} pieces: {error}, and {answer:?}", pieces());
        }
        tokio::task::yield_now().await;
    }
    all.passed().await;
    client.send_raw(one.repeat(BODY - pieces())).await;
    if chunked {
        client.send_raw("0\r\n\r\n").await;
    }
    client.response().await.text()
}

/// Most of a head that is as long as it may be, byte by byte.
async fn trickle_head(web: SocketAddr, all: Gate) {
    let mut client = Client::connect(web).await;
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(60_000));
    let (slow, rest) = head.as_bytes().split_at(pieces().min(head.len()));
    for byte in slow.chunks(1) {
        client.send_raw(byte).await;
        tokio::task::yield_now().await;
    }
    client.send_raw(rest).await;
    all.passed().await;
}

/// Waits until connections, requests, descriptors and memory are what they were.
async fn all_is_as_before(fleet: &Fleet, descriptors_before: u64, memory_before: u64) {
    let proxy = &fleet.proxies[0];
    fleet.idle().await;
    eventually_within(PATIENCE * 2, "all is as before", async || {
        let open = proxy.open_connections().await;
        // Connections to backends may idle for a while.
        let more = descriptors(proxy).await.saturating_sub(descriptors_before);
        let memory = proxy.process.memory();
        let state = format!("{open} open, {more} descriptors more, {memory} bytes");
        holds(open == 0 && more <= 150 && memory < memory_before + SLACK, || state)
    })
    .await;
    println!("afterwards: {} MiB", proxy.process.memory() / MIB);
}

#[tokio::test]
async fn nothing_that_clients_and_backends_do_takes_more_memory_than_the_limits_say() {
    raise_descriptor_limit();
    let (many, few) = (clients(), clients() / 5);
    let backend = backend().await;
    let limits = "header_timeout = '24h'\nbody_timeout = '24h'\nwrite_timeout = '24h'";
    // So many at once are not accepted at once.
    let set = "connect_timeout = '60s'\noutlier_ejection = { disabled = true }";
    let spec = listening(&app("timeout = '24h'", set, &[backend.address()]), limits);
    let fleet = Fleet::start(1, &spec).await;
    let proxy = &fleet.proxies[0];
    let web = proxy.web();
    for _ in 0..20 {
        assert_eq!(client::get(web, "/").await.text(), "0");
    }
    let (memory, open) = (proxy.process.memory(), descriptors(proxy).await);
    println!("before: {} MiB", memory / MIB);

    let all = Gate::closed();
    let (mut bodies, mut heads) = (JoinSet::new(), JoinSet::new());
    for i in 0..many {
        let (method, chunked) = (["PUT", "POST"][i % 2], i % 4 < 2);
        bodies.spawn(trickle_body(web, method, chunked, all.clone()));
        heads.spawn(trickle_head(web, all.clone()));
    }
    let (mut readers, mut asking) = (Vec::new(), JoinSet::new());
    for _ in 0..few {
        let mut client = Client::connect(web).await;
        client.send(&Request::get("/endless")).await;
        readers.push(client);
        asking.spawn(async move { client::get(web, "/heads").await.status() });
    }
    // Somebody else's requests meanwhile.
    let mut well = Client::connect(web).await;
    for i in 0..200 {
        let answer = well.get("/").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "0"), "request {i}");
        let answer = client::request(web, &Request::post("/", vec![b'x'; 1_000])).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "1000"), "request {i}");
    }
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.expect("it is answered"), 502, "a head without an end");
    }
    let in_pieces = (many * 2 + few) as u64;
    eventually_within(PATIENCE * 20, "all of them are there", async || {
        let open = proxy.open_connections().await;
        holds(open >= in_pieces, || format!("{open} open"))
    })
    .await;
    all.open();
    while let Some(length) = bodies.join_next().await {
        assert_eq!(length.expect("it is answered"), BODY.to_string());
    }
    drop((readers, heads, well));

    let peak = proxy.process.peak_memory();
    let each = |count: usize, bytes: u64| count as u64 * bytes;
    let allowed = memory
        + SLACK
        + each(many, 2 * BUFFER + REPLAY)
        + each(many, HEAD)
        + each(few, 2 * BUFFER)
        + each(few, HEAD);
    println!("{many} clients: at most {} MiB of {} MiB", peak / MIB, allowed / MIB);
    assert!(peak < allowed, "{peak} bytes; the limits say {allowed}");
    all_is_as_before(&fleet, open, memory).await;
}

/// The bound is twice what a connection is to take with ten thousand of them in a release build.
#[tokio::test]
async fn a_connection_that_idles_takes_next_to_no_memory() {
    raise_descriptor_limit();
    let count = clients() * 8;
    let backend = Backend::named("here").await;
    let spec = listening(&app("", "", &[backend.address()]), "idle_timeout = '10m'");
    let fleet = Fleet::start(1, &spec).await;
    let proxy = &fleet.proxies[0];
    for _ in 0..20 {
        assert_eq!(client::get(proxy.web(), "/").await.text(), "here");
    }
    let before = proxy.process.memory();
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(proxy.web()).await;
        assert_eq!(client.get("/").await.text(), "here");
        idle.push(client);
    }
    let allowed = before + count as u64 * 4 * KIB + 2 * MIB;
    eventually(&format!("{count} idle connections take next to nothing"), async || {
        let now = proxy.process.memory();
        let each = now.saturating_sub(before) / count as u64;
        holds(now < allowed, || format!("{each} bytes each, {now} in all"))
    })
    .await;
    println!("{} bytes each", proxy.process.memory().saturating_sub(before) / count as u64);
}

/// The processor time that so many requests take.
async fn time_of(proxy: &Proxy, count: usize, request: &Request) -> f64 {
    let spent = async || proxy.metrics().await.sum("process_cpu_seconds_total", &[]);
    let before = spent().await;
    let mut client = Client::connect(proxy.web()).await;
    for _ in 0..count {
        assert_eq!(client.request(request).await.status(), 200);
    }
    spent().await - before
}

#[tokio::test]
async fn no_path_and_no_host_takes_longer_to_look_up_than_its_length_says() {
    const COUNT: usize = 30;
    let backend = Backend::named("here").await;
    let spec = "
        [[listeners]]
        name = 'web'
        address = '127.0.0.1:1'
        max_target_bytes = 65536
        max_header_bytes = 131072
        [[routes]]
        name = 'prefix'
        match = { path_prefix = '/api' }
        answer = { status = 200, body = 'api' }
        [[routes]]
        name = 'wildcard'
        match = { host = '*.a.test', path_prefix = '/x/y/z' }
        answer = { status = 200, body = 'wildcard' }
        [[routes]]
        name = 'rest'
        answer = { status = 200, body = 'rest' }
        [[routes]]
        name = 'forward'
        match = { path = '/forward' }
        backend_set = 'app'
        [[backend_sets]]
        name = 'app'
        backends = [{ address = ";
    let fleet = Fleet::start(1, &format!("{spec}'{}' }}]", backend.address())).await;
    let proxy = &fleet.proxies[0];
    let plain = Request::get(&format!("/{}", "a".repeat(60_000)));
    let announcing = Request {
        body: b"0\r\n\r\n".to_vec(),
        ..Request::get("/forward")
            .header("Transfer-Encoding", "chunked")
            .header("Connection", &format!("x{}, keep-alive", " ".repeat(20_000)))
            .header("Trailer", &"a,".repeat(15_000))
    };
    // Ticks of the clock are coarse.
    let usual = time_of(proxy, COUNT, &plain).await.max(0.05);
    for (what, request) in [
        ("slashes", Request::get(&"/".repeat(60_000))),
        ("short segments", Request::get(&"/a".repeat(30_000))),
        ("dots", Request::get(&"/..".repeat(20_000))),
        ("back and forth", Request::get(&"/a/..".repeat(12_000))),
        ("escapes", Request::get(&format!("/{}", "%61".repeat(20_000)))),
        ("a host of dots", Request::get("/").host(&"a.".repeat(30_000))),
        ("announced trailers", announcing),
        ("a host of a wildcard", Request::get("/").host(&format!("{}a.test", "a.".repeat(30_000)))),
    ] {
        let time = time_of(proxy, COUNT, &request).await;
        println!("{what}: {time} s, usually {usual} s");
        assert!(time < usual * 20.0, "{what}: {time} s for {COUNT}, usually {usual} s");
    }
}

#[tokio::test]
async fn requests_of_which_the_client_says_no_more_take_no_time() {
    const COUNT: usize = 20;
    let backend = Backend::script(|mut wire, _| async move {
        let Ok(Some(_)) = wire.head().await else { return };
        let _ = wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        // Less time passes than a client that has ended its side is waited for.
        while wire.send("1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let proxy = &fleet.proxies[0];
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let mut client = Client::connect(proxy.web()).await;
        client.send(&Request::get("/")).await;
        client.wire.half_close().await.expect("it is open");
        client.wire.head().await.expect("HTTP").expect("an answer");
        clients.push(client);
    }
    let spent = async || proxy.metrics().await.sum("process_cpu_seconds_total", &[]);
    let before = spent().await;
    // What is measured is a time in which hardly anything happens.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let took = spent().await - before;
    println!("{took} s in 2 s");
    assert!(took < 0.5, "it is busy with nothing: {took} s in 2 s");
    assert_eq!(proxy.open_connections().await, COUNT as u64);
}

#[tokio::test]
async fn connections_of_which_one_half_is_closed_take_no_time() {
    const COUNT: usize = 20;
    let backend = Backend::script(|mut wire, _| async move {
        let _ = wire.send("x").await;
        let _ = wire.rest().await;
        std::future::pending().await
    })
    .await;
    let port = Port::reserve();
    let fleet = Fleet::start(1, &tcp(port.address(), "", backend.address())).await;
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let mut client = Client::connect(port.address()).await;
        assert_eq!(client.wire.exactly(1).await.expect("it is carried"), b"x");
        client.wire.half_close().await.expect("it is open");
        clients.push(client);
    }
    let spent = async || fleet.proxies[0].metrics().await.sum("process_cpu_seconds_total", &[]);
    let before = spent().await;
    // What is measured is a time in which nothing happens.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let took = spent().await - before;
    println!("{took} s in 2 s");
    assert!(took < 0.5, "it is busy with nothing: {took} s in 2 s");
    assert_eq!(fleet.proxies[0].open_connections().await, COUNT as u64);
}
