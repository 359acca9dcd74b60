//! Takes snapshots into service: builds the table, swaps, has listeners opened and closed.
//!
//! # Invariant
//!
//! A snapshot is taken whole or not at all, but for listeners that cannot be opened here.

use std::sync::Arc;

use lb_common::{clock, snapshot::Snapshot};
use tokio::sync::watch;

use crate::{
    control::{Install, InstallError, Problems, Seen},
    listeners,
    local::Shared,
    observe::report::{self, Past},
    table::{Built, RoutingTable, Unusable},
};

/// The one writer of the table.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: listeners::Shared,
    rng: fastrand::Rng,
    past: Past,
}

impl Server {
    pub fn new(shared: Arc<Shared>, listeners: listeners::Shared, rng: fastrand::Rng) -> Self {
        Self { shared, listeners, rng, past: Past::default() }
    }
}

impl Install for Server {
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), InstallError> {
        let former = self.shared.table.load_full();
        let now = self.shared.millis(clock::now());
        let workers = self.shared.workers;
        let Built { table, backend_sets, gone_routes } =
            RoutingTable::build(snapshot, &former, workers, now, &mut self.rng)
                .map_err(|Unusable { resource, reason }| InstallError { resource, reason })?;
        for set in backend_sets {
            if let Some(ejector) = &set.ejector {
                ejector.settle(&set.backends, now);
            }
        }
        self.past.take(&gone_routes);
        self.shared.table.store(Arc::new(table));
        listeners::lock(&self.listeners).follow(&snapshot.desired.listeners);
        Ok(())
    }

    fn problems(&self) -> watch::Receiver<Problems> {
        listeners::lock(&self.listeners).problems()
    }

    fn look(&mut self, totals: bool) -> Seen {
        let now = self.shared.millis(clock::now());
        let table = self.shared.table.load();
        report::look(&table, &self.shared.metrics, &mut self.past, totals, now)
    }
}
