//! Requests that switch to another protocol, and the tunnels that come of it.

use std::net::SocketAddr;

use integration_tests::{
    backend::{Backend, Gate},
    client::Client,
    eventually::{PATIENCE, within},
    wire::{Head, Wire},
};

mod autobahn;
mod handshake;
mod lifetime;

/// A handshake as browsers send it, with more lines.
fn handshake(path: &str, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches if it is asked to and sends everything back, with `ended` once the other side says no
/// more. Other requests are answered with `plain`.
async fn echo() -> Backend {
    echo_behind(Gate::open_already()).await
}

/// As [`echo`], once the gate is open.
async fn echo_behind(gate: Gate) -> Backend {
    Backend::script(move |mut wire, _| {
        let gate = gate.clone();
        async move {
            while let Ok(Some(head)) = wire.head().await {
                if head.fields.has("upgrade") {
                    gate.passed().await;
                    let _ = wire.send(SWITCHED).await;
                    return send_back(&mut wire).await;
                }
                if let Ok(framing) = head.request_framing() {
                    let _ = wire.body(framing).await;
                }
                let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").await;
            }
        }
    })
    .await
}

async fn send_back(wire: &mut Wire) {
    loop {
        match wire.some().await {
            Ok(bytes) if bytes.is_empty() => {
                let _ = wire.send("ended").await;
                return;
            }
            Ok(bytes) => {
                if wire.send(bytes).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Opens a tunnel.
async fn tunnel(web: SocketAddr, path: &str) -> Client {
    let (client, head) = switch(web, handshake(path, "")).await;
    assert_eq!(head.status(), 101, "{head:?}");
    client
}

/// Sends a request, and returns the head of what comes.
async fn switch(web: SocketAddr, request: String) -> (Client, Head) {
    let mut client = Client::connect(web).await;
    client.send_raw(request).await;
    let head = within(PATIENCE, "an answer", client.wire.head()).await;
    let head = head.expect("it is HTTP").expect("an answer");
    (client, head)
}

/// Sends this and gets it back.
async fn check_echo(client: &mut Client, text: &str) {
    client.send_raw(text).await;
    let got = within(PATIENCE, "it comes back", client.wire.exactly(text.len())).await;
    assert_eq!(got.expect("the tunnel is there"), text.as_bytes());
}
