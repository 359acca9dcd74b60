//! One backend as a proxy sees it: what the table says, and what this proxy knows by itself.
//!
//! The table's part is replaced with each version. The live part is carried over by name and
//! address, so an unrelated update changes nothing for a running request or for a picker.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lb_common::{
    id::BackendName,
    spec::{self, BackendState},
};

use crate::{millis::Millis, outlier::state::OutlierState};

/// Immutable; belongs to one table.
#[derive(Debug)]
pub struct Backend {
    pub name: BackendName,
    pub address: SocketAddr,
    /// Above 0 if it is usable.
    pub weight: u32,
    /// Active and with a weight, whatever its health: consistent hashing goes by all members, so
    /// that a backend's failure moves no keys but its own.
    pub member: bool,
    /// A member, and healthy as far as the controller knows. A backend that is not is kept in the
    /// list.
    pub usable: bool,
    pub live: Arc<Live>,
}

/// What outlives a table.
#[derive(Debug)]
pub struct Live {
    /// Unique in this process: says whether two tables mean the same backend.
    pub id: u64,
    in_flight: AtomicU64,
    /// As the tables had it, without a break: [`ALWAYS`] or [`NEVER`] or a time.
    usable_since: AtomicU64,
    pub outlier: OutlierState,
}

/// Since the table that had its set first, and nobody knows for how long before.
pub(crate) const ALWAYS: Millis = 0;
const NEVER: Millis = Millis::MAX;

/// Counts one attempt against its backend for as long as it lives.
///
/// It moves into the response body: a slow reader keeps the backend busy, and a cancelled request
/// releases it without anyone remembering to.
#[derive(Debug)]
pub struct InFlight(Arc<Live>);

// === impl Backend ===

impl Backend {
    /// What the table says of it, with what is live of it.
    pub fn new(spec: &spec::Backend, is_healthy: bool, live: Arc<Live>) -> Self {
        let member = spec.state == BackendState::Active && spec.weight > 0;
        Self {
            name: spec.name.clone(),
            address: spec.address,
            weight: spec.weight,
            member,
            usable: member && is_healthy,
            live,
        }
    }

    /// For each new table: notes whether the backend is usable, and since when. `is_first` says that
    /// no table before had its set.
    pub fn note(&self, is_first: bool, now: Millis) {
        let since = &self.live.usable_since;
        if !self.usable {
            since.store(NEVER, Ordering::Relaxed);
        } else if since.load(Ordering::Relaxed) == NEVER {
            let from = if is_first { ALWAYS } else { now.max(1) };
            since.store(from, Ordering::Relaxed);
        }
    }

    /// Whether a pick may choose it: usable by the table, and not ejected by this proxy.
    pub fn is_open(&self, now: Millis) -> bool {
        self.usable && !self.live.outlier.is_ejected(now)
    }
}

// === impl Live ===

impl Live {
    #[expect(clippy::new_without_default, reason = "each one is another backend")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            in_flight: AtomicU64::new(0),
            usable_since: AtomicU64::new(NEVER),
            outlier: OutlierState::default(),
        }
    }

    /// Since when it is usable: the beginning of time, if it was when its set came, and the end, if it
    /// is not now.
    pub fn usable_since(&self) -> Millis {
        self.usable_since.load(Ordering::Relaxed)
    }

    /// Attempts under way, over all workers of this proxy.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

// === impl InFlight ===

impl InFlight {
    pub fn start(live: &Arc<Live>) -> Self {
        live.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(live))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
