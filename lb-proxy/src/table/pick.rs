//! A backend that was picked, by its place in the table that it was picked from.

use std::{rc::Rc, sync::Arc, time::Duration};

use lb_routing::{backend::Backend, balance::PickContext, outlier::Key};
use lb_tls::client::Client;

use super::{backend_set::BackendSet, routing::View};
use crate::metrics::{BackendMetrics, Sharded};

/// Holds its table by a count of its own thread's: picking writes nothing that workers share.
#[derive(Clone, Debug)]
pub struct Pick {
    view: View,
    set: u32,
    key: Key,
    index: usize,
}

impl Pick {
    /// Picks from the backend set in this slot, if a backend of it is open.
    pub fn from(view: &View, set: u32, cx: &mut PickContext<'_>) -> Option<Self> {
        let index = view.set(set)?.pick(cx)?;
        Some(Self { view: Rc::clone(view), set, key: Key::of(cx.hash), index })
    }

    /// What it was picked by, if its set hashes.
    pub fn key(&self) -> Key {
        self.key
    }

    pub fn set(&self) -> &Arc<BackendSet> {
        self.view.set(self.set).expect("it was picked from there")
    }

    pub fn backend(&self) -> &Arc<Backend> {
        &self.set().backends[self.index]
    }

    /// How the backend is spoken to, if that is by TLS.
    pub fn tls(&self) -> Option<&Arc<Client>> {
        self.set().client_of(self.index)
    }

    /// Where the table that it was picked from has its set.
    pub fn slot(&self) -> u32 {
        self.set
    }

    pub fn all_metrics(&self) -> &Sharded<BackendMetrics> {
        self.set().metrics_of(self.index)
    }

    /// The shard that only this worker writes.
    pub fn metrics(&self, worker: usize) -> &BackendMetrics {
        self.all_metrics().of(worker)
    }

    /// What all lines of the access log about this backend have in common; made by `make` once.
    pub fn log_part(&self, make: impl FnOnce() -> Box<[u8]>) -> &[u8] {
        self.set().log_part_of(self.index).get_or_init(make)
    }

    /// Counts how long an attempt took to the response's head, or to its time-out.
    pub fn record_attempt(&self, worker: usize, took: Duration) {
        self.metrics(worker).latency.record(took);
        self.set().set_metrics().of(worker).attempts.record(took);
    }
}
