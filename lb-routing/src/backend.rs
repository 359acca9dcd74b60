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
    pub outlier: OutlierState,
}

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
            outlier: OutlierState::default(),
        }
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
