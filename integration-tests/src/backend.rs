//! Backends that do what a test tells them, and remember what they got.
//!
//! They run on the test's own runtime, and speak through [`Wire`], so that they can do all that a
//! broken server may do.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    eventually::{eventually, holds},
    ports::Port,
    wire::{Body, Head, Tap, Wire},
};

/// Listens until it is dropped or stopped.
#[derive(Debug)]
pub struct Backend {
    port: Port,
    state: Arc<State>,
    /// Of one task, which ends with it.
    task: JoinSet<()>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which of the backend's connections it came on, from 0.
    pub connection: usize,
    pub head: Head,
    pub body: Body,
}

/// What to do about a request.
pub enum Reply {
    Answer(Answer),
    /// These bytes, whatever they are; the connection stays open.
    Raw(Vec<u8>),
    /// These bytes, and then the end.
    RawAndClose(Vec<u8>),
    /// These bytes, and then a reset.
    RawAndReset(Vec<u8>),
    /// Nothing, until the client goes away.
    Hang,
    /// The end, without an answer.
    Close,
    /// A reset, without an answer.
    Reset,
    /// Another reply, once the gate is open.
    Behind(Gate, Box<Reply>),
}

/// A response with a length.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Holds replies back until a test opens it.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    probes: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    waiting: AtomicUsize,
    abandoned: AtomicUsize,
    /// One a connection, where they are recorded.
    taps: Mutex<Vec<Tap>>,
}

/// Accepts no connection, because its queue is full.
#[derive(Debug)]
pub struct Blackhole {
    port: Port,
    _waiting: Vec<TcpStream>,
    _listener: TcpListener,
}

/// Counts for as long as it lives.
struct Count<'a>(&'a AtomicUsize);

// === impl Backend ===

impl Backend {
    /// Reads each request to its end and does what `reply` says.
    pub async fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(Port::reserve(), reply).await
    }

    /// As [`Backend::start`], at a port that was another one's before.
    ///
    /// # Panics
    /// If the port is taken.
    pub async fn start_at(
        port: Port,
        reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let reply = Arc::new(reply);
        Self::listen(port, move |wire, connection, state| {
            let reply = Arc::clone(&reply);
            async move {
                // The client's going away in the middle is for the client's side to judge.
                let _ = serve(wire, connection, &state, &*reply).await;
            }
        })
        .await
    }

    /// As [`Backend::start`], and keeps every byte that comes, also of what is no request.
    pub async fn recording(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let reply = Arc::new(reply);
        Self::listen(Port::reserve(), move |mut wire, connection, state| {
            let reply = Arc::clone(&reply);
            state.taps.lock().expect("nobody panics with it").push(wire.record());
            async move {
                let _ = serve(wire, connection, &state, &*reply).await;
            }
        })
        .await
    }

    /// As [`Backend::script`], and keeps every byte that comes.
    pub async fn recording_script<F>(
        script: impl Fn(Wire, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(Port::reserve(), move |mut wire, connection, state| {
            state.taps.lock().expect("nobody panics with it").push(wire.record());
            script(wire, connection)
        })
        .await
    }

    /// As [`Backend::start`], but holds `/held` back until the gate opens.
    pub async fn holding(
        gate: &Gate,
        reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let gate = gate.clone();
        Self::start(move |seen| match seen.head.target() {
            "/held" => Reply::ok("held").behind(&gate),
            _ => reply(seen),
        })
        .await
    }

    /// Answers everything with 200 and its name.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::start(move |_| Reply::ok(name.as_str())).await
    }

    /// Leaves each connection to `script`, which also gets its number.
    pub async fn script<F>(script: impl Fn(Wire, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(Port::reserve(), move |wire, connection, _| script(wire, connection)).await
    }

    async fn listen<F>(
        port: Port,
        script: impl Fn(Wire, usize, Arc<State>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = port.listen().await;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let mut task = JoinSet::new();
        task.spawn(async move {
            // All of them end with this one.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let number = shared.connections.fetch_add(1, SeqCst);
                let state = Arc::clone(&shared);
                let running = script(Wire::new(stream), number, Arc::clone(&state));
                connections.spawn(async move {
                    let _open = Count::new(&state.open);
                    running.await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, state, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// It as TOML, for a backend set.
    pub fn entry(&self, name: &str) -> String {
        format!("{{ name = '{name}', address = '{}' }}", self.address())
    }

    /// What it got, without health checks.
    pub fn requests(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("nobody panics with it").clone()
    }

    /// Every byte that came, by connection, if it is [recording](Backend::recording).
    pub fn received(&self) -> Vec<Vec<u8>> {
        let taps = self.state.taps.lock().expect("nobody panics with it");
        taps.iter().map(|tap| tap.lock().expect("nobody panics with it").clone()).collect()
    }

    /// How many it got, without health checks.
    pub fn count(&self) -> usize {
        self.state.seen.lock().expect("nobody panics with it").len()
    }

    /// The only request that it got.
    ///
    /// # Panics
    /// If it got none or several.
    pub fn only_request(&self) -> Seen {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// How many health checks it got.
    pub fn probes(&self) -> usize {
        self.state.probes.load(SeqCst)
    }

    /// How many connections it ever had.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// How many it has now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// How many requests wait for an answer now.
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(SeqCst)
    }

    /// Waits until so many requests wait for an answer.
    ///
    /// # Panics
    /// If it never are as many.
    pub async fn has_waiting(&self, count: usize) {
        eventually(&format!("{count} requests are under way"), async || {
            holds(self.waiting() == count, || format!("{} wait", self.waiting()))
        })
        .await;
    }

    /// How many requests' clients went away before the answer.
    pub fn abandoned(&self) -> usize {
        self.state.abandoned.load(SeqCst)
    }

    /// Refuses connections from now on, and ends those that it has.
    pub async fn stop(mut self) -> Port {
        self.task.shutdown().await;
        self.port
    }
}

async fn serve(
    mut wire: Wire,
    connection: usize,
    state: &State,
    reply: &(impl Fn(&Seen) -> Reply + ?Sized),
) -> std::io::Result<()> {
    while let Some(head) = wire.head().await? {
        if head
            .fields
            .all("expect")
            .iter()
            .any(|expect| expect.eq_ignore_ascii_case("100-continue"))
        {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = wire.body(head.request_framing()?).await?;
        let to_head = head.method() == "HEAD";
        let seen = Seen { connection, head, body };
        let mut what = reply(&seen);
        if seen.head.fields.all("user-agent").contains(&"lb-health") {
            state.probes.fetch_add(1, SeqCst);
        } else {
            state.seen.lock().expect("nobody panics with it").push(seen);
        }
        let waiting = Count::new(&state.waiting);
        while let Reply::Behind(gate, then) = what {
            tokio::select! {
                () = gate.passed() => what = *then,
                () = wire.closed() => {
                    state.abandoned.fetch_add(1, SeqCst);
                    return Ok(());
                }
            }
        }
        match what {
            Reply::Answer(answer) => wire.send(answer.to_bytes(to_head)).await?,
            Reply::Raw(bytes) => wire.send(bytes).await?,
            Reply::RawAndClose(bytes) => return wire.send(bytes).await,
            Reply::RawAndReset(bytes) => {
                wire.send(bytes).await?;
                wire.reset();
                return Ok(());
            }
            Reply::Hang | Reply::Behind(..) => {
                wire.closed().await;
                state.abandoned.fetch_add(1, SeqCst);
                return Ok(());
            }
            Reply::Close => return Ok(()),
            Reply::Reset => {
                wire.reset();
                return Ok(());
            }
        }
        drop(waiting);
    }
    Ok(())
}

// === impl Blackhole ===

impl Blackhole {
    /// # Panics
    /// If the system does not let it listen.
    pub async fn start() -> Self {
        let port = Port::reserve();
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.bind(port.address()).expect("the port is free");
        let listener = socket.listen(1).expect("it is bound");
        let mut waiting = Vec::new();
        let full = || TcpStream::connect(port.address());
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), full()).await {
            waiting.push(stream.expect("it is taken or left"));
        }
        Self { port, _waiting: waiting, _listener: listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

// === impl Reply, Answer ===

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(Answer { status, headers: Vec::new(), body: body.into() })
    }

    /// What the request had for a body.
    pub fn echo(seen: &Seen) -> Self {
        Self::ok(seen.body.bytes.clone())
    }

    /// One header more, if it is an answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.headers.push((name.into(), value.into()));
        }
        self
    }

    pub fn behind(self, gate: &Gate) -> Self {
        Self::Behind(gate.clone(), Box::new(self))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

impl Answer {
    fn to_bytes(&self, to_head: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !matches!(self.status, 100..=199 | 204 | 304) {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !to_head && !matches!(self.status, 204 | 304) {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

// === impl Gate ===

impl Gate {
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open_already() -> Self {
        Self(watch::Sender::new(true))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub async fn passed(&self) {
        // It cannot fail, for the sender is here.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

// === impl Count ===

impl<'a> Count<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, SeqCst);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Whether somebody listens there.
pub async fn is_listening(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}
