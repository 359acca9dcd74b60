//! Many who begin a handshake and do not go on.
//!
//! `LB_TEST_CLIENTS=1000` is the full size: 100,000 half-open handshakes, and 2,000 clients that send one
//! byte a second.

use std::{collections::VecDeque, net::SocketAddr, path::Path, time::Duration};

use integration_tests::{
    backend::Backend,
    certs::Ca,
    curl,
    fleet::Fleet,
    hello::{client_hello, records},
    raise_descriptor_limit, setting,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time};

use super::{fleet, site};

const MIB: u64 = 1024 * 1024;

/// Of a proxy: 1,024 handshakes are under way at once, each with what rustls holds of it and a flight; and
/// what an allocator keeps.
const MOST: u64 = 64 * MIB;

fn clients() -> usize {
    setting("LB_TEST_CLIENTS", 100) as usize
}

/// One proxy with TLS, and the file of its CA.
async fn served(ca: &Ca, backend: &Backend, tls: &str) -> (Fleet, std::path::PathBuf) {
    raise_descriptor_limit();
    let fleet = fleet(1).await;
    fleet.apply(&site(&fleet, ca, tls, backend.address())).await;
    let pem = ca.write(fleet.dir());
    (fleet, pem)
}

async fn is_served(web: SocketAddr, ca: &Path) {
    let answer = curl::https(web, "a.test", "/", ca, &[]).await;
    assert_eq!((answer.status, &*answer.body), (200, "here"), "{}", answer.log);
}

#[tokio::test]
async fn half_open_handshakes_hold_little_memory_and_harm_nobody() {
    /// At this end; the proxy has closed most of them before.
    const OPEN: usize = 2_000;
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let (fleet, pem) = served(&ca, &backend, "").await;
    let proxy = &fleet.proxies[0];
    is_served(proxy.web(), &pem).await;
    let before = proxy.process.peak_memory();
    // Nothing, half a hello, a hello that is refused, and what is a hello and has no end.
    let hello = records(&client_hello("a.test", &[], 0), 100);
    let long = records(&client_hello("a.test", &[], 15_000), 1_000);
    let parts: [&[u8]; 4] = [b"", &hello[..hello.len() / 2], &hello, &long[..long.len() - 1]];
    let (total, mut open) = (clients() * 100, VecDeque::new());
    for i in 0..total {
        let mut half = TcpStream::connect(proxy.web()).await.expect("it is accepted");
        // What was closed meanwhile takes no more, which is its right.
        let _ = half.write_all(parts[i % parts.len()]).await;
        open.push_back(half);
        if OPEN < open.len() {
            open.pop_front();
        }
        if i % (total / 20) == 0 {
            is_served(proxy.web(), &pem).await;
        }
    }
    let held = proxy.process.peak_memory() - before;
    println!("{total} half-open handshakes: {} KiB more at the most", held / 1024);
    assert!(held < MOST, "{held} bytes");
    assert!(proxy.limit_hits("max_handshakes").await > 0, "the oldest made room");
    drop(open);
    fleet.nothing_is_left().await;
}

#[tokio::test]
async fn clients_that_send_a_byte_a_second_are_let_go_and_harm_nobody() {
    let (ca, backend) = (Ca::new("a test's"), Backend::named("here").await);
    let (fleet, pem) = served(&ca, &backend, ", handshake_timeout = '5s'").await;
    let proxy = &fleet.proxies[0];
    is_served(proxy.web(), &pem).await;
    let before = proxy.process.peak_memory();
    let hello = records(&client_hello("a.test", &[], 0), 1);
    let mut slow = JoinSet::new();
    for _ in 0..clients() * 2 {
        let (web, hello) = (proxy.web(), hello.clone());
        slow.spawn(async move {
            let mut client = TcpStream::connect(web).await.expect("it is accepted");
            let mut pace = time::interval(Duration::from_secs(1));
            for byte in hello {
                pace.tick().await;
                if client.write_all(&[byte]).await.is_err() {
                    return true;
                }
            }
            false
        });
    }
    let mut let_go = 0;
    while let Some(is_let_go) = slow.join_next().await {
        let_go += usize::from(is_let_go.expect("it ends"));
        if let_go % (clients() / 10) == 0 {
            is_served(proxy.web(), &pem).await;
        }
    }
    assert_eq!(let_go, clients() * 2, "none has come to the end of its hello");
    let held = proxy.process.peak_memory() - before;
    assert!(held < MOST, "{held} bytes");
    fleet.nothing_is_left().await;
}
