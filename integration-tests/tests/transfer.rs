//! Much of it, both ways, past a reader that is slow: nothing is lost, and nothing piles up.
//!
//! `LB_TEST_TRANSFER_MB=4096` carries 4 GiB each way.

use std::time::Duration;

use integration_tests::{
    backend::Backend,
    client::Client,
    eventually::{PATIENCE, within},
    fleet::{Fleet, app, tcp},
    pattern::Pattern,
    ports::Port,
    setting,
    wire::Wire,
};

const MEGABYTE: u64 = 1024 * 1024;
/// What a proxy may take in all, however much it carries.
const MOST_MEMORY: u64 = 64 * MEGABYTE;
/// A reader rests for so long after each of these.
const REST: Duration = Duration::from_millis(5);
const BETWEEN_RESTS: u64 = 4 * MEGABYTE;

fn length() -> u64 {
    setting("LB_TEST_TRANSFER_MB", 64) * MEGABYTE
}

async fn send(wire: &mut Wire, length: u64) {
    let pattern = Pattern::default();
    let mut sent = 0;
    while sent < length {
        let piece = pattern.from(sent, length - sent);
        wire.send(piece).await.expect("the other end reads");
        sent += piece.len() as u64;
    }
}

/// Checks what comes, slowly.
async fn receive(wire: &mut Wire, length: u64) {
    let pattern = Pattern::default();
    let (mut received, mut rested) = (0, 0);
    while received < length {
        let bytes = within(PATIENCE, "more of it", wire.some()).await.expect("it goes on");
        assert!(!bytes.is_empty(), "it ends after {received} of {length} bytes");
        assert!(pattern.is_at(received, &bytes), "changed after {received} bytes");
        received += bytes.len() as u64;
        if received - rested >= BETWEEN_RESTS {
            rested = received;
            tokio::time::sleep(REST).await;
        }
    }
    assert_eq!(received, length, "more than was sent");
}

/// What comes in chunks, slowly.
async fn receive_chunks(wire: &mut Wire, length: u64) {
    let pattern = Pattern::default();
    let mut received = 0;
    loop {
        let chunk = within(PATIENCE, "more of it", wire.chunk()).await.expect("it goes on");
        if chunk.is_empty() {
            break;
        }
        assert!(pattern.is_at(received, &chunk), "changed after {received} bytes");
        received += chunk.len() as u64;
        if received % BETWEEN_RESTS < chunk.len() as u64 {
            tokio::time::sleep(REST).await;
        }
    }
    assert_eq!(received, length);
}

async fn send_chunks(wire: &mut Wire, length: u64) {
    let pattern = Pattern::default();
    let mut sent = 0;
    while sent < length {
        let piece = pattern.from(sent, length - sent);
        let head = format!("{:x}\r\n", piece.len());
        wire.send([head.as_bytes(), piece, b"\r\n"].concat()).await.expect("the other end reads");
        sent += piece.len() as u64;
    }
    wire.send("0\r\n\r\n").await.expect("the other end reads");
}

fn is_little(fleet: &Fleet, what: &str) {
    let peak = fleet.proxies[0].process.peak_memory();
    println!("{what}: at most {} MB of memory", peak / MEGABYTE);
    assert!(peak < MOST_MEMORY, "{what}: {peak} bytes");
}

#[tokio::test]
async fn much_passes_through_http_both_ways_and_takes_little_memory() {
    let backend = Backend::script(|mut wire, _| async move {
        while let Ok(Some(head)) = wire.head().await {
            match (head.method(), head.target()) {
                ("GET", "/length") => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length());
                    wire.send(head).await.expect("the proxy reads");
                    send(&mut wire, length()).await;
                    continue;
                }
                ("GET", _) => {
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    wire.send(head).await.expect("the proxy reads");
                    send_chunks(&mut wire, length()).await;
                    continue;
                }
                (_, "/length") => receive(&mut wire, length()).await,
                _ => receive_chunks(&mut wire, length()).await,
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("it reads");
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..2 {
        client.send_raw("GET /length HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.wire.head().await.expect("HTTP").expect("an answer");
        assert_eq!(head.fields.get("content-length"), Some(length().to_string().as_str()));
        receive(&mut client.wire, length()).await;
        is_little(&fleet, "a response with a length");

        client.send_raw("GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.wire.head().await.expect("HTTP").expect("an answer");
        assert_eq!(head.fields.get("transfer-encoding"), Some("chunked"));
        receive_chunks(&mut client.wire, length()).await;
        is_little(&fleet, "a response in chunks");

        let head =
            format!("PUT /length HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", length());
        client.send_raw(head).await;
        send(&mut client.wire, length()).await;
        assert_eq!(client.response().await.text(), "ok");
        is_little(&fleet, "a request with a length");

        client.send_raw("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        send_chunks(&mut client.wire, length()).await;
        assert_eq!(client.response().await.text(), "ok");
        is_little(&fleet, "a request in chunks");
    }
    assert_eq!(backend.connections(), 1, "nothing was left over on a connection");
    fleet.idle().await;
}

#[tokio::test]
async fn much_passes_through_tcp_both_ways_and_takes_little_memory() {
    let backend = Backend::script(|mut wire, _| async move {
        match wire.exactly(1).await.as_deref() {
            Ok(b"d") => send(&mut wire, length()).await,
            Ok(b"u") => {
                receive(&mut wire, length()).await;
                wire.send("ok").await.expect("the proxy reads");
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
    let port = Port::reserve();
    let fleet = Fleet::start(1, &tcp(port.address(), "", backend.address())).await;
    let down = async {
        let mut client = Client::connect(port.address()).await;
        client.send_raw("d").await;
        receive(&mut client.wire, length()).await;
        client.expect_closed().await;
    };
    let up = async {
        let mut client = Client::connect(port.address()).await;
        client.send_raw("u").await;
        send(&mut client.wire, length()).await;
        assert_eq!(client.wire.exactly(2).await.expect("it is all there"), b"ok");
    };
    tokio::join!(down, up);
    is_little(&fleet, "tcp");
    fleet.idle().await;
}
