//! Idle connections to backends, kept by each worker for itself: no lock, and no request changes its
//! thread.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Weak},
};

use lb_routing::{
    backend::Live,
    millis::{self, Millis},
};
use lb_tls::client::Client;

use crate::{
    metrics::{BackendMetrics, Sharded},
    net::stream::Stream,
    table::Pick,
};

/// By the id of the backend's live part.
#[derive(Debug)]
pub struct Pool {
    /// Which shard of the counters is this worker's.
    worker: usize,
    backends: RefCell<HashMap<u64, Backend, Plain>>,
}

#[derive(Debug)]
struct Backend {
    /// Gone when the backend is.
    live: Weak<Live>,
    metrics: Sharded<BackendMetrics>,
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    until: Millis,
    /// Whom it was made by, if it is TLS: gone when the settings are others, or what they are made of.
    client: Option<Weak<Client>>,
    /// The PROXY header that it began with. Who has the same may have it: that is the same client.
    header: Box<[u8]>,
}

/// Ids are counted by this process, so nobody can choose them to collide.
type Plain = std::hash::BuildHasherDefault<IdHasher>;

#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    /// Spreads to the high bits, which a map looks at first (Fibonacci hashing).
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Pool {
    pub fn new(worker: usize) -> Self {
        Self { worker, backends: RefCell::default() }
    }

    /// The connection that was used last, if one is alive: the older ones may then grow too old.
    pub fn take(&self, pick: &Pick, header: &[u8], now: Millis) -> Option<Stream> {
        let mut backends = self.backends.borrow_mut();
        let backend = backends.get_mut(&pick.backend().live.id)?;
        let client = pick.tls().map(Arc::as_ptr);
        let mut found = None;
        // As a rule the last one: few are told whose they are.
        while let Some(last) = backend.idle.iter().rposition(|idle| *idle.header == *header) {
            let mut candidate = backend.idle.remove(last);
            let is_of_it = candidate.client.as_ref().map(Weak::as_ptr) == client;
            if is_of_it && now < candidate.until && candidate.stream.is_silent() {
                found = Some(candidate.stream);
                break;
            }
        }
        backend.count(self.worker);
        found
    }

    /// Keeps a connection, unless there are enough. Returns whether it does.
    pub fn put(&self, pick: &Pick, stream: Stream, header: Box<[u8]>, now: Millis) -> bool {
        let limits = &pick.set().spec.pool;
        let live = &pick.backend().live;
        let mut backends = self.backends.borrow_mut();
        let backend = backends.entry(live.id).or_insert_with(|| Backend {
            live: Arc::downgrade(live),
            metrics: pick.all_metrics().clone(),
            idle: Vec::new(),
        });
        if !header.is_empty() && limits.max_idle <= backend.idle.len() && limits.max_idle > 0 {
            // Its client may be gone, and nobody else can use it.
            backend.idle.remove(0);
        }
        let has_room = backend.idle.len() < limits.max_idle;
        if has_room {
            let lifetime = millis::of(limits.idle_timeout);
            let client = pick.tls().map(Arc::downgrade);
            let until = now.saturating_add(lifetime);
            backend.idle.push(Idle { stream, until, client, header });
            backend.count(self.worker);
        }
        has_room
    }

    /// Closes what is too old, what its backend closed, what leads to a backend that is gone, and what
    /// was made with TLS settings that are.
    pub fn sweep(&self, now: Millis) {
        self.backends.borrow_mut().retain(|_, backend| {
            let is_known = backend.live.strong_count() > 0;
            backend.idle.retain_mut(|idle| {
                let is_of_now = idle.client.as_ref().is_none_or(|client| client.strong_count() > 0);
                is_known && is_of_now && now < idle.until && idle.stream.is_silent()
            });
            backend.count(self.worker);
            !backend.idle.is_empty()
        });
    }

    /// Closes all, so that others may have their descriptors. Returns whether there were some.
    pub fn clear(&self) -> bool {
        let mut backends = self.backends.borrow_mut();
        let had_some = backends.values().any(|backend| !backend.idle.is_empty());
        for (_, mut backend) in backends.drain() {
            backend.idle.clear();
            backend.count(self.worker);
        }
        had_some
    }
}

impl Backend {
    fn count(&self, worker: usize) {
        self.metrics.of(worker).idle.set(self.idle.len() as u64);
    }
}
