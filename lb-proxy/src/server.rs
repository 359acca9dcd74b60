//! Takes snapshots into service: builds the table, opens listeners, swaps, closes listeners.
//!
//! # Invariant
//!
//! A snapshot is taken whole or not at all: whatever can fail comes before the swap.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use lb_common::{clock, drain::Drain, id::ListenerName, snapshot::Snapshot};
use lb_proto::v1;
use lb_routing::{backend::Millis, outlier::Ejection};
use tokio::sync::mpsc;

use crate::{
    accept,
    control::{Install, InstallError},
    table::RoutingTable,
    worker::{Command, Shared},
};

/// Where each listener really accepts; the spec may say port 0, and the proxy may override it.
pub type BoundAddresses = Arc<Mutex<BTreeMap<ListenerName, SocketAddr>>>;

/// The one writer of the table.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    overrides: BTreeMap<ListenerName, SocketAddr>,
    open: BTreeMap<ListenerName, Open>,
    /// A mutex, because the admin port reads it; nobody waits for it on the request path.
    bound: BoundAddresses,
    rng: fastrand::Rng,
    drain: Drain,
}

#[derive(Debug)]
struct Open {
    /// As asked for.
    wanted: SocketAddr,
    /// As it came out.
    address: SocketAddr,
}

/// To be accepted on once the table is swapped.
struct Opened {
    listener: ListenerName,
    open: Open,
    sockets: Vec<TcpListener>,
}

impl Server {
    pub fn new(
        shared: Arc<Shared>,
        workers: Vec<mpsc::UnboundedSender<Command>>,
        overrides: BTreeMap<ListenerName, SocketAddr>,
        bound: BoundAddresses,
        rng: fastrand::Rng,
        drain: Drain,
    ) -> Self {
        Self { shared, workers, overrides, open: BTreeMap::new(), bound, rng, drain }
    }

    /// Sockets for what is new or is to be elsewhere. Nothing accepts on them yet.
    fn bind(&self, snapshot: &Snapshot) -> Result<Vec<Opened>, InstallError> {
        let mut opened = Vec::new();
        for (name, spec) in &snapshot.desired.listeners {
            let wanted = *self.overrides.get(name).unwrap_or(&spec.address);
            // All else that a listener says is read from the table at each connection.
            if self.open.get(name).is_some_and(|open| open.wanted == wanted) {
                continue;
            }
            let sockets = accept::bind(wanted, self.workers.len());
            let sockets = sockets.map_err(|error| InstallError {
                resource: format!("listeners[{name}]"),
                reason: format!("cannot listen on {wanted}: {error}"),
            })?;
            let address = sockets.first().and_then(|socket| socket.local_addr().ok());
            let open = Open { wanted, address: address.unwrap_or(wanted) };
            opened.push(Opened { listener: name.clone(), open, sockets });
        }
        Ok(opened)
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker that is gone is draining; it needs no more commands.
            let _ = worker.send(command());
        }
    }
}

impl Install for Server {
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), InstallError> {
        // Workers that drain open nothing more; the last requests still go by the latest health.
        let draining = self.drain.is_draining();
        let opened = if draining { Vec::new() } else { self.bind(snapshot)? };
        let former = self.shared.table.load_full();
        let table = RoutingTable::build(snapshot, &former, self.shared.workers, &mut self.rng);
        let now = self.shared.millis(clock::now());
        for set in table.backend_sets.values() {
            if let Some(ejector) = &set.ejector {
                ejector.settle(&set.backends, now);
            }
        }
        self.shared.table.store(Arc::new(table));
        if draining {
            return Ok(());
        }

        let wanted = &snapshot.desired.listeners;
        let changed = opened.iter().map(|opened| &opened.listener);
        let gone = self.open.keys().filter(|name| !wanted.contains_key(*name));
        for name in changed.chain(gone).filter(|name| self.open.contains_key(*name)) {
            self.tell_all(|| Command::Close(name.clone()));
        }
        self.open.retain(|name, _| wanted.contains_key(name));
        for Opened { listener, open, sockets } in opened {
            tracing::info!(%listener, address = %open.address, "listening");
            for (worker, socket) in self.workers.iter().zip(sockets) {
                let listener = listener.clone();
                // As in `tell_all`.
                let _ = worker.send(Command::Open { listener, socket });
            }
            self.open.insert(listener, open);
        }
        let bound = self.open.iter().map(|(name, open)| (name.clone(), open.address)).collect();
        *self.bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bound;
        Ok(())
    }

    fn report(&self) -> Vec<v1::BackendReport> {
        let now = self.shared.millis(clock::now());
        let table = self.shared.table.load();
        let mut reports = Vec::new();
        for (name, set) in &table.backend_sets {
            for backend in &set.backends {
                let in_flight = backend.live.in_flight();
                let ejection = backend.live.outlier.ejection(now);
                if in_flight > 0 || ejection.is_some() {
                    reports.push(v1::BackendReport {
                        backend_set: name.to_string(),
                        backend: backend.name.to_string(),
                        in_flight,
                        ejection: ejection.map(to_wire),
                        totals: None,
                    });
                }
            }
        }
        // The order of a hash map differs between two calls; equal reports are to be equal.
        reports.sort_by(|a, b| (&a.backend_set, &a.backend).cmp(&(&b.backend_set, &b.backend)));
        reports
    }
}

fn to_wire(ejection: Ejection) -> v1::Ejection {
    // Whole seconds, so that a report does not differ at each look.
    let seconds: Millis = ejection.remaining.div_ceil(1_000);
    v1::Ejection {
        reason: ejection.failure.to_string(),
        remaining: Some(prost_types::Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
    }
}
