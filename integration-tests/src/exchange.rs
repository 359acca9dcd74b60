//! Bytes for a connection, whatever they are, and all that comes back until it ends.
//!
//! Sending and reading go on at the same time, so that a proxy may answer before it has everything,
//! and whoever loses an answer to a reset is seen to lose it.

use std::{io::ErrorKind, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{Client, Response},
    eventually::PATIENCE,
};

/// What came of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub received: Vec<u8>,
    pub end: End,
    /// Whether everything could be sent.
    pub sent: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    Reset,
    /// Not for as long as anybody waits.
    Open,
}

/// How bytes are cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    Whole,
    /// One by one, as far as the kernel does not join them.
    Bytes,
    /// At once, and nothing is read before all of it is sent.
    Blind,
}

/// Sends these bytes on a connection of their own, and reads until the other end closes.
pub async fn exchange(address: SocketAddr, bytes: &[u8], pieces: Pieces) -> Exchange {
    let mut received = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, run(address, bytes, pieces, &mut received)).await;
    let (end, sent) = ended.unwrap_or((End::Open, false));
    Exchange { received, end, sent }
}

async fn run(
    address: SocketAddr,
    bytes: &[u8],
    pieces: Pieces,
    received: &mut Vec<u8>,
) -> (End, bool) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return (End::Reset, false) };
    let _ = stream.set_nodelay(true);
    let (mut from, mut to) = stream.split();
    let sending = async {
        match pieces {
            Pieces::Whole | Pieces::Blind => to.write_all(bytes).await.is_ok(),
            Pieces::Bytes => {
                for byte in bytes.chunks(1) {
                    if to.write_all(byte).await.is_err() {
                        return false;
                    }
                    tokio::task::yield_now().await;
                }
                true
            }
        }
    };
    let reading = async {
        loop {
            match from.read_buf(received).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(error) => panic!("reading from {address}: {error}"),
            }
        }
    };
    if pieces == Pieces::Blind {
        let sent = sending.await;
        return (reading.await, sent);
    }
    // What is still to be sent when the other end has closed is of no use.
    let mut sending = std::pin::pin!(sending);
    let mut reading = std::pin::pin!(reading);
    tokio::select! {
        end = &mut reading => (end, false),
        sent = &mut sending => (reading.await, sent),
    }
}

// === impl Exchange ===

impl Exchange {
    /// The answers, in their order. `heads`: which of them are to a HEAD.
    ///
    /// # Errors
    /// If what came is anything but answers.
    pub async fn answers(&self, heads: &[bool]) -> Result<Vec<Response>, String> {
        let mut client = Client::replay(self.received.clone(), heads.to_vec());
        let mut answers = Vec::new();
        loop {
            match client.try_response().await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => return Ok(answers),
                Err(error) => return Err(format!("{error} in {:?}", self.text())),
            }
        }
    }

    /// The beginning of what came.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).chars().take(500).collect()
    }
}
