//! What a worker's thread has to itself, and the little that it shares.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll},
    time::Instant,
};

use arc_swap::{ArcSwap, Cache};
use lb_common::clock;
use lb_http::message::{Request, Response};
use lb_routing::{millis::Millis, outlier::Failure};

use crate::{
    connections::{Connections, Scope},
    metrics::{LogCounts, Sharded, WorkerMetrics},
    net::{
        block::Block,
        count::Count,
        files::Room,
        hot::{Filled, Hot},
        pipe::Pipes,
        stream::Stream,
        timer,
        tls::Scratch,
    },
    table::{Pick, RoutingTable, View},
    upstream::pool::Pool,
};

/// What all workers and the proxy's other parts share.
#[derive(Debug)]
pub struct Shared {
    pub table: Arc<ArcSwap<RoutingTable>>,
    pub started: Instant,
    pub workers: usize,
    pub metrics: Sharded<WorkerMetrics>,
    pub access_log: LogCounts,
    /// Of clients, that are open.
    pub connections: AtomicUsize,
    /// To clients and to backends.
    pub streams: Count,
    pub bounds: Bounds,
}

/// What a process may use at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Clients' connections.
    pub connections: usize,
    /// Connections and pipes.
    pub room: Room,
    /// Bytes that wait in buffers, of all connections.
    pub buffers: usize,
}

/// One worker's context. Nothing of it is ever seen by another thread.
#[derive(Debug)]
pub struct Local {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub hot: Hot,
    pub pool: Pool,
    pub pipes: Pipes,
    pub timers: timer::Spares,
    /// For TLS.
    pub scratch: Rc<Scratch>,
    pub connections: Connections,
    pub is_draining: Cell<bool>,
    /// The time of the last sweep.
    coarse: Cell<Millis>,
    /// The same as `Date` has it.
    date: RefCell<String>,
    view: RefCell<(Tables, View)>,
    rng: RefCell<fastrand::Rng>,
    spare: Spare,
    /// Bytes that connections hold in buffers.
    buffered: Cell<usize>,
    /// How many they may hold.
    most_buffered: usize,
}

/// Finds the current table without asking every other thread.
type Tables = Cache<Arc<ArcSwap<RoutingTable>>, Arc<RoutingTable>>;

/// Memory that was used before, so that the next request allocates none.
#[derive(Debug, Default)]
struct Spare {
    requests: RefCell<Vec<Request>>,
    responses: RefCell<Vec<Response>>,
    buffers: RefCell<Vec<Vec<u8>>>,
}

/// Counts bytes that a connection holds in buffers.
#[derive(Debug)]
pub struct Held {
    local: Rc<Local>,
    bytes: usize,
}

/// Of what one read finds: a body of 64 KiB together with its head.
const HOT: usize = 128 * 1024;
/// Of what one read finds when buffers are full.
const LITTLE: usize = 4 * 1024;
/// Of a worker: what they hold is the kernel's memory.
const PIPES: usize = 64;
/// Of each kind, kept for the next request.
const SPARES: usize = 128;
/// What has grown larger than this is given back to the system.
const SPARE_SIZE: usize = 16 * 1024;

// === impl Shared ===

impl Shared {
    pub fn new(workers: usize, bounds: Bounds) -> Self {
        Self {
            table: Arc::new(ArcSwap::from_pointee(RoutingTable::default())),
            started: clock::now(),
            workers,
            metrics: Sharded::new(workers),
            access_log: LogCounts::default(),
            connections: AtomicUsize::new(0),
            streams: Count::default(),
            bounds,
        }
    }

    pub fn millis(&self, now: Instant) -> Millis {
        let elapsed = now.saturating_duration_since(self.started);
        elapsed.as_secs() * 1_000 + u64::from(elapsed.subsec_millis())
    }
}

// === impl Local ===

impl Local {
    pub fn new(index: usize, shared: Arc<Shared>, seed: u64) -> Self {
        let mut cache = Cache::new(Arc::clone(&shared.table));
        let view = Rc::new(Arc::clone(cache.load()));
        let local = Self {
            index,
            hot: Hot::new(HOT),
            pool: Pool::new(index),
            pipes: Pipes::new((shared.bounds.room.pipes / shared.workers).min(PIPES)),
            timers: timer::Spares::default(),
            scratch: Rc::default(),
            connections: Connections::default(),
            is_draining: Cell::new(false),
            coarse: Cell::new(0),
            date: RefCell::default(),
            view: RefCell::new((cache, view)),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            spare: Spare::default(),
            buffered: Cell::new(0),
            most_buffered: shared.bounds.buffers / shared.workers,
            shared,
        };
        local.tick(clock::now());
        local
    }

    pub fn millis(&self, now: Instant) -> Millis {
        self.shared.millis(now)
    }

    /// As of the last tick.
    pub fn coarse(&self) -> Millis {
        self.coarse.get()
    }

    /// Sets the coarse clocks.
    pub fn tick(&self, now: Instant) {
        self.coarse.set(self.millis(now));
        let date = httpdate::HttpDate::from(std::time::UNIX_EPOCH + clock::wall());
        *self.date.borrow_mut() = date.to_string();
    }

    /// The time, as `Date` has it.
    pub fn with_date<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        f(self.date.borrow().as_bytes())
    }

    pub fn metrics(&self) -> &WorkerMetrics {
        self.shared.metrics.of(self.index)
    }

    /// The current table.
    pub fn view(&self) -> View {
        let (cache, view) = &mut *self.view.borrow_mut();
        let table = cache.load();
        if !Arc::ptr_eq(table, view) {
            *view = Rc::new(Arc::clone(table));
        }
        Rc::clone(view)
    }

    pub fn with_rng<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.rng.borrow_mut())
    }

    /// The backend answered, and that was no failure.
    pub fn record_success(&self, pick: &Pick) {
        pick.backend().live.outlier.record_success(self.coarse());
    }

    pub fn record_failure(&self, pick: &Pick, failure: Failure) {
        let metrics = pick.metrics(self.index);
        match failure {
            Failure::Connect => metrics.connect_failures.increment(),
            Failure::Reset => metrics.resets.increment(),
            Failure::Timeout | Failure::GivenUp => metrics.timeouts.increment(),
            Failure::Status => metrics.responses_5xx.increment(),
        }
        let set = pick.set();
        let Some(ejector) = &set.ejector else { return };
        let now = self.millis(clock::now());
        let (backends, backend) = (&set.backends, pick.backend());
        let ejection = self.with_rng(|rng| {
            ejector.record_failure(backends, backend, failure, pick.key(), now, rng)
        });
        if let Some(ejection) = ejection {
            metrics.ejections.increment();
            let set = &set.spec.name;
            tracing::warn!(%set, backend = %backend.name, ?failure, ?ejection, "ejected");
        }
    }

    /// There are no more descriptors, or ports: what idles is closed.
    pub fn make_room(&self) {
        self.metrics().limits.descriptors.increment();
        self.pool.clear();
        self.pipes.clear();
        self.connections.end_oldest(Scope::All);
    }

    /// If there are this many connections, the client that has idled longest makes room for one more, or
    /// else what idles to backends. Returns whether there is room.
    pub fn make_room_within(&self, most: usize) -> bool {
        if self.shared.streams.get() < most {
            return true;
        }
        self.metrics().limits.descriptors.increment();
        self.connections.end_oldest(Scope::All) || self.pool.clear()
    }

    /// Whether what waits in buffers is all that may.
    pub fn is_full(&self) -> bool {
        self.most_buffered < self.buffered.get()
    }

    /// Reads into the thread's buffer. If too much waits in buffers already, only a little at a time, so
    /// that what waits of it does not become much.
    pub fn poll_fill(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        let most = if self.is_full() { LITTLE } else { usize::MAX };
        self.hot.poll_fill(most, stream, cx)
    }

    pub fn request(&self) -> Request {
        self.spare.requests.borrow_mut().pop().unwrap_or_default()
    }

    pub fn response(&self) -> Response {
        self.spare.responses.borrow_mut().pop().unwrap_or_default()
    }

    pub fn buffer(&self) -> Vec<u8> {
        self.spare.buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub fn recycle_request(&self, mut request: Request) {
        if request.fields.capacity() <= SPARE_SIZE {
            request.clear();
            keep(&self.spare.requests, request);
        }
    }

    pub fn recycle_response(&self, mut response: Response) {
        if response.fields.capacity() <= SPARE_SIZE {
            response.clear();
            keep(&self.spare.responses, response);
        }
    }

    /// Keeps what a read found behind what `block` has, for longer than until the next read.
    pub fn keep(&self, filled: Filled, block: &mut Block) {
        if block.is_empty() {
            self.recycle_block(std::mem::take(block));
            if let Some(all) = self.hot.take(filled) {
                *block = all;
                return;
            }
            *block = Block::new(self.buffer(), 0..0);
        }
        self.hot.with(filled, |bytes| block.extend(bytes));
    }

    pub fn recycle_block(&self, block: Block) {
        if let Some(buffer) = self.hot.recycle(block.into_memory()) {
            self.recycle_buffer(buffer);
        }
    }

    pub fn recycle_buffer(&self, mut buffer: Vec<u8>) {
        if (1..=SPARE_SIZE).contains(&buffer.capacity()) {
            buffer.clear();
            keep(&self.spare.buffers, buffer);
        }
    }
}

fn keep<T>(spares: &RefCell<Vec<T>>, spare: T) {
    let mut spares = spares.borrow_mut();
    if spares.len() < SPARES {
        spares.push(spare);
    }
}

// === impl Held ===

impl Held {
    pub fn new(local: &Rc<Local>) -> Self {
        Self { local: Rc::clone(local), bytes: 0 }
    }

    /// It is so much now.
    pub fn set(&mut self, bytes: usize) {
        if self.bytes != bytes {
            let others = self.local.buffered.get() - self.bytes;
            self.local.buffered.set(others + bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
