//! What others may see of the state.

use std::collections::HashMap;

use lb_common::{
    exposition,
    id::{BackendName, BackendSetName, CertificateName},
    snapshot::{SnapshotId, Version},
    spec::{Backend, BackendSet, BackendState},
};
use lb_proto::{encode, error::Problems, v1};

use super::Controller;
use crate::{
    asked::Asked,
    known,
    metrics::{self, Facts},
    proxies::{Emptying, FleetLoad},
    timestamp, vault,
};

impl Controller {
    pub fn asked(&self) -> (u64, Asked) {
        (self.revision, self.in_force.asked.clone())
    }

    pub fn file_digest(&self) -> Option<u64> {
        self.file_digest
    }

    pub fn proxies(&self) -> v1::ListProxiesResponse {
        let SnapshotId { version, digest } = self.current();
        let due = (!self.has_unpublished()).then(|| self.current());
        v1::ListProxiesResponse {
            proxies: self.proxies.list(due, self.moment.now),
            epoch: version.epoch,
            version: version.version,
            hash: digest.to_string(),
            revision: self.revision,
            load: Some(self.proxies.fleet_load(self.moment.now)),
        }
    }

    /// The connected proxies of which it is not true that they run all of what is current.
    pub fn elsewhere(&self) -> Vec<v1::Elsewhere> {
        self.proxies.elsewhere(self.current())
    }

    /// The backends and the sets that they are in, of one set or of all of them.
    ///
    /// # Errors
    /// If there is no such set; says what there is.
    pub fn list_backends(&self, only: Option<&str>) -> Result<v1::ListBackendsResponse, Problems> {
        let backends = self.backends(only)?;
        let mut by_set: HashMap<&str, Vec<&v1::BackendStatus>> = HashMap::new();
        for status in &backends {
            by_set.entry(&status.backend_set).or_default().push(status);
        }
        let sets = self.in_force.state.backend_sets.values();
        let sets = sets.filter(|set| only.is_none_or(|only| only == set.name.as_str()));
        let backend_sets = sets.map(|set| {
            let backends = by_set.remove(set.name.as_str()).unwrap_or_default();
            self.set_status(set, &backends)
        });
        let backend_sets = backend_sets.collect();
        Ok(v1::ListBackendsResponse { backends, backend_sets })
    }

    pub fn list_certificates(&self) -> v1::ListCertificatesResponse {
        let shows = |name: &CertificateName| {
            let listeners = self.in_force.state.listeners.values().filter(|listener| {
                listener.tls.as_ref().is_some_and(|tls| tls.certificates.contains(name))
            });
            listeners.map(|listener| listener.name.to_string()).collect()
        };
        let is_shown_by = |name: &CertificateName| {
            let sets = self.in_force.state.backend_sets.values().filter(|set| {
                set.tls.as_ref().is_some_and(|tls| tls.client_certificate.as_ref() == Some(name))
            });
            sets.map(|set| set.name.to_string()).collect()
        };
        let statuses = self.vault.certificates().map(|(name, status)| {
            let standing = self.orders.standing(name);
            let told = v1::CertificateStatus {
                name: name.to_string(),
                problem: self.problem(name, status).unwrap_or_default(),
                listeners: shows(name),
                backend_sets: is_shown_by(name),
                acme: standing.map(|standing| standing.to_wire()),
                ..<_>::default()
            };
            let Some(facts) = &status.facts else { return told };
            v1::CertificateStatus {
                names: facts.names.clone(),
                subject: facts.subject.clone(),
                issuer: facts.issuer.clone(),
                not_before: Some(timestamp(facts.not_before)),
                not_after: Some(timestamp(facts.not_after)),
                fingerprint: facts.fingerprint.clone(),
                kind: facts.kind.into(),
                ..told
            }
        });
        let problem = |(path, why): (&String, &String)| v1::FileProblem {
            path: path.clone(),
            why: why.clone(),
        };
        v1::ListCertificatesResponse {
            certificates: statuses.collect(),
            files: self.vault.broken_cas().iter().map(problem).collect(),
        }
    }

    /// What is wrong with a certificate.
    fn problem(&self, name: &CertificateName, status: &vault::Status) -> Option<String> {
        let of_order = || self.orders.standing(name)?.problem();
        status.problem.clone().or_else(of_order)
    }

    fn set_status(
        &self,
        set: &BackendSet,
        backends: &[&v1::BackendStatus],
    ) -> v1::BackendSetStatus {
        let keys = set.backends.iter().map(|backend| (set.name.clone(), backend.name.clone()));
        let keys: Vec<_> = keys.collect();
        let in_flight = backends.iter().map(|backend| backend.in_flight);
        let in_flight = in_flight.fold(0, u64::saturating_add);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        v1::BackendSetStatus {
            name: set.name.to_string(),
            balance: set.balance.as_str().into(),
            backends: count(set.backends.len()),
            usable: count(self.usable(set)),
            held: count(self.health.held(&set.name)),
            load: Some(v1::Load { in_flight, ..self.proxies.rates(&keys, self.moment.now) }),
        }
    }

    /// How many of a set's backends get traffic.
    fn usable(&self, set: &BackendSet) -> usize {
        let takes_traffic = |backend: &&Backend| {
            backend.state == BackendState::Active
                && backend.weight > 0
                && !self.published.snapshot.unhealthy.contains(&set.name, &backend.name)
        };
        set.backends.iter().filter(takes_traffic).count()
    }

    /// The backends of one set or of all of them.
    ///
    /// # Errors
    /// If there is no such set; says what there is.
    pub fn backends(&self, only: Option<&str>) -> Result<Vec<v1::BackendStatus>, Problems> {
        if let Some(only) = only {
            known::known_set(&self.in_force.state, only)?;
        }
        let sets = self.in_force.state.backend_sets.values();
        let sets = sets.filter(|set| only.is_none_or(|only| only == set.name.as_str()));
        let backends = sets.flat_map(|set| set.backends.iter().map(move |backend| (set, backend)));
        Ok(backends
            .map(|(set, backend)| {
                let key = (set.name.clone(), backend.name.clone());
                let FleetLoad { in_flight, ejections } = self.proxies.load(&key);
                let rates = self.proxies.rates([&key], self.moment.now);
                let by_hand = self.in_force.asked.by_hand(&set.name, backend);
                v1::BackendStatus {
                    in_flight,
                    ejections,
                    r#override: by_hand
                        .map(|by_hand| encode::override_of(&set.name, &backend.name, by_hand)),
                    load: Some(v1::Load { in_flight, ..rates }),
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
        let found = self.in_force.state.backend_sets.get(&backend.0)?.backend(&backend.1)?;
        let drains = found.state == BackendState::Draining;
        drains.then(|| {
            let mut emptying =
                self.proxies.emptying(backend, since, self.current().version, self.moment.now);
            // Proxies of an earlier controller take a moment to come.
            emptying.empty &= self.moment.now >= self.all_back_at;
            emptying
        })
    }

    /// What is known, but nothing of the process.
    pub fn metrics(&self) -> exposition::Page {
        let backend_sets =
            self.in_force.state.backend_sets.values().map(|set| metrics::BackendSet {
                name: set.name.as_str(),
                usable: self.usable(set),
                held: self.health.held(&set.name),
                backends: set
                    .backends
                    .iter()
                    .map(|backend| self.backend_metrics(set, backend))
                    .collect(),
            });
        let (ca_files, broken) =
            (self.vault.ca_files(&self.in_force.state), self.vault.broken_cas());
        metrics::render(&Facts {
            counters: &self.counters,
            revision: self.revision,
            epoch: self.current().version.epoch,
            version: self.current().version.version,
            snapshot_bytes: self.published.resources.encoded_len(),
            waiting_changes: self.waiting.len(),
            probes_in_flight: self.health.in_flight(),
            is_cut_off: self.health.is_cut_off(),
            has_file_problem: self.file_problem.is_some(),
            is_store_failing: self.outage.is_on(),
            probe_counts: self.health.probe_counts(),
            certificates: self
                .vault
                .certificates()
                .map(|(name, status)| metrics::Certificate {
                    name: name.as_str(),
                    begins: status.facts.as_ref().map(|facts| facts.not_before),
                    expires: status.facts.as_ref().map(|facts| facts.not_after),
                    has_problem: self.problem(name, status).is_some(),
                })
                .collect(),
            ca_files: ca_files
                .iter()
                .filter_map(|id| Some((id.path()?, broken.contains_key(id.path()?))))
                .collect(),
            orders: self.orders.counts(),
            backend_sets: backend_sets.collect(),
            proxies: self.proxies.metrics(
                self.current(),
                |running| self.overtaken_at(running),
                self.moment.now,
            ),
        })
    }

    fn backend_metrics<'a>(&self, set: &BackendSet, backend: &'a Backend) -> metrics::Backend<'a> {
        metrics::Backend {
            name: backend.name.as_str(),
            health: self.health.health(set, backend),
            is_healthy: !self.published.snapshot.unhealthy.contains(&set.name, &backend.name),
        }
    }
}
