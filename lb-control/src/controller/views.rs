//! What others may see of the state.

use std::collections::BTreeMap;

use lb_common::{
    id::{BackendName, BackendSetName},
    snapshot::{SnapshotId, Version},
    spec::{BackendState, DesiredState},
};
use lb_proto::{error::Problems, v1};

use super::Controller;
use crate::{
    desired,
    metrics::{self, Facts},
    proxies::Emptying,
};

impl Controller {
    pub fn state(&self) -> (u64, DesiredState) {
        (self.revision, self.desired.clone())
    }

    pub fn file_digest(&self) -> Option<u64> {
        self.file_digest
    }

    pub fn proxies(&self) -> v1::ListProxiesResponse {
        let SnapshotId { version, digest } = self.published;
        v1::ListProxiesResponse {
            proxies: self.proxies.list(self.published),
            epoch: version.epoch,
            version: version.version,
            hash: digest.to_string(),
            revision: self.revision,
            load: None,
        }
    }

    /// The backends of one set or of all of them.
    ///
    /// # Errors
    /// If there is no such set; says what there is.
    pub fn backends(&self, only: Option<&str>) -> Result<Vec<v1::BackendStatus>, Problems> {
        if let Some(only) = only {
            desired::known_set(&self.desired, only)?;
        }
        let mut load = self.proxies.load();
        let sets = self.desired.backend_sets.values();
        let sets = sets.filter(|set| only.is_none_or(|only| only == set.name.as_str()));
        let backends = sets.flat_map(|set| set.backends.iter().map(move |backend| (set, backend)));
        Ok(backends
            .map(|(set, backend)| {
                let load = load.remove(&(set.name.clone(), backend.name.clone()));
                let load = load.unwrap_or_default();
                v1::BackendStatus {
                    in_flight: load.in_flight,
                    ejections: load.ejections,
                    ..self.health.status(set, backend)
                }
            })
            .collect())
    }

    /// How far a backend has emptied that drains since version `since`. `None` if it does not drain
    /// any more.
    pub fn emptying(
        &self,
        backend: &(BackendSetName, BackendName),
        since: Version,
    ) -> Option<Emptying> {
        let found = self.desired.backend_sets.get(&backend.0)?.backend(&backend.1)?;
        let drains = found.state == BackendState::Draining;
        drains.then(|| self.proxies.emptying(backend, since))
    }

    pub fn metrics(&self) -> String {
        let (connected, in_sync) = self.proxies.count(self.published);
        let mut backends = BTreeMap::new();
        for set in self.desired.backend_sets.values() {
            for backend in &set.backends {
                let health = self.health.health(set, backend);
                *backends.entry((set.name.as_str(), health)).or_default() += 1;
            }
        }
        metrics::render(&Facts {
            counters: &self.counters,
            revision: self.revision,
            epoch: self.published.version.epoch,
            version: self.published.version.version,
            connected,
            in_sync,
            waiting_changes: self.waiting.len(),
            tallies: self.health.tallies(),
            backends,
        })
    }
}
