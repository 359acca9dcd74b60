//! A client that sees all of an answer, and can send anything.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::net::{TcpSocket, TcpStream};

use crate::{
    eventually::{PATIENCE, within},
    wire::{Body, Fields, Head, Wire},
};

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub wire: Wire,
    /// How the next answers are framed: a HEAD's has no body.
    heads: Vec<bool>,
}

/// A request to be.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// `Host: app.test` unless there is another.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Response {
    /// Any 1xx before it.
    pub informational: Vec<Head>,
    pub head: Head,
    pub body: Body,
}

const NARROW: u32 = 16 * 1024;

// === impl Client ===

impl Client {
    /// # Panics
    /// If nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within(PATIENCE, "a connection", TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Self { wire: Wire::new(stream), heads: Vec::new() }
    }

    /// From another address of this machine than its first.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            socket.connect(address).await
        };
        let stream = within(PATIENCE, "a connection", connect).await;
        let stream = stream
            .unwrap_or_else(|error| panic!("cannot connect from {source} to {address}: {error}"));
        Self { wire: Wire::new(stream), heads: Vec::new() }
    }

    /// With so small a receive buffer that whoever sends soon waits for this client to read.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(NARROW)?;
            socket.connect(address).await
        };
        let stream = within(PATIENCE, "a connection", connect).await;
        let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Self { wire: Wire::new(stream), heads: Vec::new() }
    }

    /// Reads what came on a connection that is over. `heads`: which of the answers are to a HEAD.
    pub fn replay(bytes: Vec<u8>, heads: Vec<bool>) -> Self {
        Self { wire: Wire::replay(bytes), heads }
    }

    /// Sends a request without waiting for its answer. Answers are to be read in the same order.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn send(&mut self, request: &Request) {
        self.heads.push(request.method == "HEAD");
        self.send_raw(request.to_bytes()).await;
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        within(PATIENCE, "the other end reads", self.wire.send(bytes)).await.expect("it is open");
    }

    /// Sends bytes as they are while it reads so many.
    ///
    /// # Panics
    /// If the connection is closed before.
    pub async fn send_and_read(&mut self, bytes: &[u8], length: usize) -> Vec<u8> {
        let both = self.wire.send_and_read(bytes, length);
        within(PATIENCE, "both directions flow", both).await.expect("it is open")
    }

    /// Sends bytes as they are, one each `pause`, until all are sent or the other end refuses more.
    /// Returns how many were sent.
    pub async fn send_slowly(&mut self, bytes: &[u8], pause: Duration) -> usize {
        for (i, byte) in bytes.iter().enumerate() {
            if self.wire.send([*byte]).await.is_err() {
                return i;
            }
            tokio::time::sleep(pause).await;
        }
        bytes.len()
    }

    /// The next answer.
    ///
    /// # Panics
    /// If there is none, or something else.
    pub async fn response(&mut self) -> Response {
        match self.try_response().await {
            Ok(Some(response)) => response,
            Ok(None) => panic!("the connection was closed instead of an answer"),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The next answer, if there is one.
    ///
    /// # Errors
    /// What comes instead.
    ///
    /// # Panics
    /// If nothing comes.
    pub async fn try_response(&mut self) -> std::io::Result<Option<Response>> {
        within(PATIENCE, "an answer", self.read_response()).await
    }

    async fn read_response(&mut self) -> std::io::Result<Option<Response>> {
        let to_head = if self.heads.is_empty() { false } else { self.heads.remove(0) };
        let mut informational = Vec::new();
        let head = loop {
            match self.wire.head().await? {
                None => return Ok(None),
                Some(head) if (100..200).contains(&head.status()) => informational.push(head),
                Some(head) => break head,
            }
        };
        let body = self.wire.body(head.response_framing(to_head)?).await?;
        Ok(Some(Response { informational, head, body }))
    }

    /// Sends a request and returns its answer.
    ///
    /// # Panics
    /// If there is none.
    pub async fn request(&mut self, request: &Request) -> Response {
        self.send(request).await;
        self.response().await
    }

    /// Sends bytes as they are, and returns the answer, which is one to `method`.
    ///
    /// # Panics
    /// If there is none.
    pub async fn request_raw(&mut self, method: &str, bytes: impl AsRef<[u8]>) -> Response {
        self.heads.push(method == "HEAD");
        self.send_raw(bytes).await;
        self.response().await
    }

    /// # Panics
    /// If there is no answer.
    pub async fn get(&mut self, path: &str) -> Response {
        self.request(&Request::get(path)).await
    }

    /// # Panics
    /// If the other end does not close, or sends something first.
    pub async fn expect_closed(&mut self) {
        let rest = within(PATIENCE, "the connection is closed", self.wire.rest()).await;
        // A reset is as good: there may have been something left to read.
        let rest = rest.unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&rest), "", "more than was expected");
    }
}

/// One request on a connection of its own.
///
/// # Panics
/// If there is no answer.
pub async fn request(address: SocketAddr, request: &Request) -> Response {
    Client::connect(address).await.request(request).await
}

/// One GET on a connection of its own.
///
/// # Panics
/// If there is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Response {
    request(address, &Request::get(path)).await
}

/// Bytes as they are on a connection of their own, and the answer to them.
///
/// # Panics
/// If there is no answer.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(address).await;
    client.send_raw(bytes).await;
    client.response().await
}

// === impl Request ===

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn host(self, host: &str) -> Self {
        self.header("Host", host)
    }

    /// With its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str("Host: app.test\r\n");
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

// === impl Response ===

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.fields.get(name)
    }

    pub fn fields(&self) -> &Fields {
        &self.head.fields
    }

    pub fn text(&self) -> String {
        self.body.text()
    }

    /// The `error` of its `Proxy-Status`: why the proxy answered by itself.
    pub fn proxy_error(&self) -> Option<&str> {
        let (_, rest) = self.header("proxy-status")?.split_once("error=")?;
        rest.split(';').next()
    }
}
