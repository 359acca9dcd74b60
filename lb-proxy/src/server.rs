//! Takes snapshots into service: builds the table, opens listeners, swaps, closes listeners.
//!
//! # Invariant
//!
//! A snapshot is taken whole or not at all: whatever can fail comes before the swap.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use lb_common::{clock, drain::Drain, id::ListenerName, inherited, snapshot::Snapshot};
use lb_proto::v1;
use tokio::sync::mpsc;

use crate::{
    control::{Install, InstallError},
    local::Shared,
    net::listen,
    observe::report::{self, Past},
    table::{RoutingTable, Unusable},
    worker::Command,
};

/// Where each listener really accepts; the spec may say port 0, and the proxy may override it.
pub type BoundAddresses = Arc<Mutex<BTreeMap<ListenerName, SocketAddr>>>;

/// The one writer of the table.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    overrides: BTreeMap<ListenerName, SocketAddr>,
    inherited: inherited::Sockets,
    open: BTreeMap<ListenerName, Open>,
    /// A mutex, because the admin port reads it; nobody waits for it on the request path.
    bound: BoundAddresses,
    rng: fastrand::Rng,
    drain: Drain,
    past: Past,
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
    sockets: Vec<listen::Socket>,
}

impl Server {
    pub fn new(
        shared: Arc<Shared>,
        workers: Vec<mpsc::UnboundedSender<Command>>,
        overrides: BTreeMap<ListenerName, SocketAddr>,
        inherited: inherited::Sockets,
        bound: BoundAddresses,
        rng: fastrand::Rng,
        drain: Drain,
    ) -> Self {
        let (open, past) = (BTreeMap::new(), Past::default());
        Self { shared, workers, overrides, inherited, open, bound, rng, drain, past }
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
            let sockets = match self.inherited.find(name.as_str(), wanted) {
                Some(socket) => listen::share(socket, self.workers.len()),
                None => listen::bind(wanted, self.workers.len()),
            };
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
        let former = self.shared.table.load_full();
        let now = self.shared.millis(clock::now());
        let workers = self.shared.workers;
        let table = RoutingTable::build(snapshot, &former, workers, now, &mut self.rng)
            .map_err(|Unusable { resource, reason }| InstallError { resource, reason })?;
        let opened = if draining { Vec::new() } else { self.bind(snapshot)? };
        for (_, set) in table.backend_sets() {
            if let Some(ejector) = &set.ejector {
                ejector.settle(&set.backends, now);
            }
        }
        self.past.replace(&former, &table);
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

    fn report(&mut self, totals: bool) -> v1::Report {
        let now = self.shared.millis(clock::now());
        let table = self.shared.table.load();
        report::report(&table, &self.shared.metrics, &mut self.past, totals, now)
    }
}
