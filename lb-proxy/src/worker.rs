//! One OS thread with a runtime of its own: accepts, and serves what it accepted to its end.
//!
//! Requests never change threads. What workers share is the table, the backends' live parts and
//! the counters.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Cache};
use http_body_util::BodyExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use lb_common::{clock, id::ListenerName};
use lb_routing::{
    backend::{Backend, Millis},
    outlier::Failure,
};
use tokio::{net::TcpStream, sync::mpsc, task::spawn_local};

use crate::{
    accept::{self, Stop},
    access_log::Counts,
    backend_set::Pick,
    body::BackendBody,
    client::{Client, End},
    interim,
    io_meter::Metered,
    metrics::{Sharded, WorkerMetrics},
    proxy,
    record::Recorder,
    table::{self, RoutingTable, Service},
    tcp,
    upstream::{Connection, Pool},
};

/// More header fields than this in a request, and the answer is 431.
const MAX_REQUEST_HEADERS: usize = 100;
/// Of a request's head, and of what is buffered a connection and direction.
const MAX_BUFFER: usize = 64 * 1024;
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// A retried response's rest is read this far, so that its connection can be used again.
const DISCARD_BYTES: usize = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// How long a draining proxy waits for a silent client's next request, which it would answer with
/// `Connection: close`: a client that just sends one must not find its connection closed.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// What all workers and the proxy's other parts share.
#[derive(Debug)]
pub struct Shared {
    pub table: Arc<ArcSwap<RoutingTable>>,
    pub started: Instant,
    pub workers: usize,
    pub metrics: Sharded<WorkerMetrics>,
    pub access_log: Counts,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    Open {
        listener: ListenerName,
        socket: accept::Socket,
    },
    Close(ListenerName),
    /// Close all, answer with `Connection: close`, and return when all clients are gone or at the
    /// deadline.
    Drain {
        deadline: Instant,
    },
}

#[derive(Debug)]
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub pool: Pool,
    /// Told of every request.
    pub recorder: Recorder,
    /// The time of the last sweep.
    pub coarse: Rc<Cell<Millis>>,
    cache: RefCell<Cache<Arc<ArcSwap<RoutingTable>>, Arc<RoutingTable>>>,
    rng: RefCell<fastrand::Rng>,
    clients: RefCell<Vec<Weak<Client>>>,
    connections: Cell<usize>,
    draining: Cell<bool>,
}

// === impl Shared ===

impl Shared {
    pub fn new(workers: usize) -> Self {
        Self {
            table: Arc::new(ArcSwap::from_pointee(RoutingTable::default())),
            started: clock::now(),
            workers,
            metrics: Sharded::new(workers),
            access_log: Counts::default(),
        }
    }

    pub fn millis(&self, now: Instant) -> Millis {
        let elapsed = now.saturating_duration_since(self.started);
        elapsed.as_secs() * 1_000 + u64::from(elapsed.subsec_millis())
    }
}

// === impl Worker ===

/// Serves until it is told to drain. Returns how many connections were cut at the deadline.
pub async fn run(
    index: usize,
    shared: Arc<Shared>,
    recorder: Recorder,
    seed: u64,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> usize {
    let worker = Rc::new(Worker {
        index,
        pool: Pool::default(),
        recorder,
        coarse: Rc::default(),
        cache: RefCell::new(Cache::new(Arc::clone(&shared.table))),
        rng: RefCell::new(fastrand::Rng::with_seed(seed)),
        clients: RefCell::default(),
        connections: Cell::new(0),
        draining: Cell::new(false),
        shared,
    });
    spawn_local(Rc::clone(&worker.recorder.log).keep_moving());
    let mut listeners: Vec<(ListenerName, Stop)> = Vec::new();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Open { listener, socket }) => {
                    if let Some(stop) = accept::start(&worker, &listener, socket) {
                        listeners.push((listener, stop));
                    }
                }
                Some(Command::Close(name)) => listeners.retain(|(other, _)| *other != name),
                Some(Command::Drain { deadline }) => {
                    listeners.clear();
                    return worker.drain(deadline).await;
                }
                None => return worker.drain(clock::now()).await,
            },
            _ = sweep.tick() => {
                let now = clock::now();
                worker.recorder.log.set_clock(now);
                worker.sweep(now);
            }
        }
    }
}

impl Worker {
    pub fn millis(&self, now: Instant) -> Millis {
        self.shared.millis(now)
    }

    /// As of the last sweep.
    pub fn now(&self) -> Millis {
        self.coarse.get()
    }

    pub fn metrics(&self) -> &WorkerMetrics {
        self.shared.metrics.of(self.index)
    }

    pub fn table(&self) -> Arc<RoutingTable> {
        Arc::clone(self.cache.borrow_mut().load())
    }

    pub fn with_rng<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.rng.borrow_mut())
    }

    /// What the client's listener is in the current table, or was in the last one that had it.
    pub fn listener_of(&self, client: &Client) -> Arc<table::Listener> {
        let mut cache = self.cache.borrow_mut();
        let mut last_known = client.last_known.borrow_mut();
        if let Some(now) = cache.load().listeners.get(&client.listener)
            && !Arc::ptr_eq(now, &last_known)
        {
            *last_known = Arc::clone(now);
        }
        Arc::clone(&last_known)
    }

    /// Whether this response is to be the connection's last one.
    pub fn is_closing(&self, client: &Client) -> bool {
        self.draining.get()
            || !self.cache.borrow_mut().load().listeners.contains_key(&client.listener)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub async fn pooled(&self, backend: &Backend, now: Instant) -> Option<Connection> {
        let now = self.millis(now);
        poll_fn(|cx| Poll::Ready(self.pool.take(&backend.live, now, cx))).await
    }

    pub fn record_success(&self, pick: &Pick) {
        pick.backend().live.outlier.record_success();
    }

    pub fn record_failure(&self, pick: &Pick, failure: Failure) {
        let metrics = pick.metrics(self.index);
        match failure {
            Failure::Connect => metrics.connect_failures.increment(),
            Failure::Reset => metrics.resets.increment(),
            Failure::Timeout => metrics.timeouts.increment(),
            Failure::Status => metrics.responses_5xx.increment(),
        }
        let Some(ejector) = &pick.set.ejector else { return };
        let now = self.millis(clock::now());
        let (backends, backend) = (&pick.set.backends, pick.backend());
        let ejection =
            self.with_rng(|rng| ejector.record_failure(backends, backend, failure, now, rng));
        if let Some(ejection) = ejection {
            metrics.ejections.increment();
            let set = &pick.set.spec.name;
            tracing::warn!(%set, backend = %backend.name, ?failure, ?ejection, "ejected");
        }
    }

    /// Reads the rest of a response that nobody wants, so that its connection can be used again.
    pub fn discard(&self, mut body: BackendBody) {
        if hyper::body::Body::is_end_stream(&body) {
            return;
        }
        spawn_local(async move {
            let mut left = DISCARD_BYTES;
            let read = async {
                while let Some(Ok(frame)) = body.frame().await {
                    let bytes = frame.data_ref().map_or(0, |data| data.len());
                    let Some(rest) = left.checked_sub(bytes) else { return };
                    left = rest;
                }
            };
            // What is longer or slower than that is cut off by dropping it.
            let _ = tokio::time::timeout(DISCARD_TIME, read).await;
        });
    }

    /// Serves one connection in a task of its own.
    pub fn serve(self: &Rc<Self>, listener: Arc<table::Listener>, stream: TcpStream) {
        let Ok(peer) = stream.peer_addr() else { return };
        // Small responses must not wait for acknowledgements.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let is_http = matches!(listener.service, Service::Http(_));
        let client = Rc::new(Client::new(peer, listener, self.now()));
        self.clients.borrow_mut().push(Rc::downgrade(&client));
        self.metrics().connections_accepted.increment();
        let guard = Connected::new(self);
        let worker = Rc::clone(self);
        if is_http {
            spawn_local(async move {
                let _guard = guard;
                serve_http(worker, client, stream).await;
            });
        } else {
            spawn_local(async move {
                let _guard = guard;
                tcp::serve(worker, client, stream).await;
            });
        }
    }

    fn sweep(&self, now: Instant) {
        let now = self.millis(now);
        self.coarse.set(now);
        self.clients.borrow_mut().retain(|client| {
            let client = client.upgrade();
            if let Some(client) = &client {
                client.count_bytes(self.index);
                match &client.last_known.borrow().service {
                    Service::Http(_) => client.end_if_silent(now, &self.metrics().limits),
                    Service::Tcp(_) => client.end_if_still(now, &self.metrics().limits),
                }
            }
            client.is_some()
        });
        let table = self.table();
        let known: HashSet<_> = table.live_ids().collect();
        self.pool.sweep(now, |id| known.contains(&id));
        for (backend, metrics) in table.backend_sets.values().flat_map(|set| set.counted()) {
            let idle = u64::try_from(self.pool.idle(&backend.live)).unwrap_or(u64::MAX);
            metrics.of(self.index).idle.set(idle);
        }
    }

    async fn drain(self: Rc<Self>, deadline: Instant) -> usize {
        self.draining.set(true);
        let start = clock::now();
        let grace = DRAIN_GRACE.min(deadline.saturating_duration_since(start) / 2);
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        // Listeners take what waits in their queues first.
        let queues = start + accept::LINGER * 2;
        while self.connections.get() > 0 || clock::now() < queues.min(deadline) {
            let now = tick.tick().await.into_std();
            if deadline <= now {
                break;
            }
            if start + grace <= now {
                self.end_all(End::Gracefully);
            }
        }
        let cut = self.connections.get();
        self.end_all(End::AtOnce);
        cut
    }

    fn end_all(&self, how: End) {
        for client in self.clients.borrow().iter().filter_map(Weak::upgrade) {
            client.end(how);
        }
    }
}

async fn serve_http(worker: Rc<Worker>, client: Rc<Client>, stream: TcpStream) {
    let stream = Metered::new(stream, Rc::clone(&client.meter));
    let io = TokioIo::new(interim::Stream::new(stream, Arc::clone(&client.interim)));
    let service = service_fn(|request| {
        let (worker, client) = (Rc::clone(&worker), Rc::clone(&client));
        async move { Ok::<_, Infallible>(proxy::handle(worker, client, request).await) }
    });
    let connection = http1::Builder::new()
        .max_headers(MAX_REQUEST_HEADERS)
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_BUFFER)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut told = false;
    let served = poll_fn(|cx| {
        match client.poll_end(cx) {
            End::Gracefully if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            End::AtOnce => return Poll::Ready(Ok(())),
            End::Gracefully | End::NotYet => {}
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = served.await {
        if error.is_parse() {
            worker.recorder.malformed(&client, error.is_parse_too_large());
        }
        tracing::debug!(peer = %client.peer, %error, "connection ended");
    }
    client.count_bytes(worker.index);
}

/// Counts an open connection of a worker.
struct Connected(Rc<Worker>);

impl Connected {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.metrics().connections_closed.increment();
    }
}
