//! A backend set, compiled: its backends, how one of them is picked, and what is counted.

use std::sync::{Arc, OnceLock};

use lb_common::{
    id::BackendName,
    spec::{self, Balance, HashFunction, HashKey},
};
use lb_routing::{
    backend::{Backend, Live},
    balance::{self, PickContext, Picker, slow_start::SlowStart},
    millis::Millis,
    outlier::Ejector,
};
use lb_tls::client::Client;

use super::backend_tls::BackendTls;
use crate::metrics::{BackendMetrics, SetMetrics, Sharded};

/// Belongs to the tables that have it in common; its backends' live parts outlive it.
#[derive(Debug)]
pub struct BackendSet {
    pub spec: Arc<spec::BackendSet>,
    pub members: Arc<Vec<spec::Backend>>,
    /// In the order of the members.
    pub backends: Vec<Arc<Backend>>,
    /// Of each backend.
    metrics: Vec<Sharded<BackendMetrics>>,
    /// Of all that it ever had.
    set_metrics: Sharded<SetMetrics>,
    /// What all lines of the access log about a backend have in common, once there is one.
    log_parts: Vec<OnceLock<Box<[u8]>>>,
    picker: Box<dyn Picker>,
    slow_start: SlowStart,
    pub ejector: Option<Ejector>,
    tls: Option<Arc<BackendTls>>,
    /// How each backend is spoken to, if that is by TLS.
    clients: Vec<Arc<Client>>,
}

/// What a set is made of.
pub struct Parts<'a> {
    pub spec: &'a Arc<spec::BackendSet>,
    pub members: Arc<Vec<spec::Backend>>,
    pub tls: Option<&'a Arc<BackendTls>>,
}

impl BackendSet {
    /// `former` is the set of this name in the table before.
    pub fn new(
        parts: Parts<'_>,
        is_healthy: impl Fn(&BackendName) -> bool,
        former: Option<&Self>,
        workers: usize,
        now: Millis,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let Parts { spec, members, tls } = parts;
        let same = |backend: &spec::Backend| {
            let is_same =
                |old: &Arc<Backend>| old.name == backend.name && old.address == backend.address;
            let former = former?;
            former.backends.iter().position(is_same).map(|i| (former, i))
        };
        let (backends, metrics): (Vec<_>, Vec<_>) = members
            .iter()
            .map(|backend| {
                let (live, metrics) = match same(backend) {
                    Some((former, i)) => {
                        (Arc::clone(&former.backends[i].live), former.metrics[i].clone())
                    }
                    None => (Arc::new(Live::new()), Sharded::new(workers)),
                };
                let backend = Backend::new(backend, is_healthy(&backend.name), live);
                backend.note(former.is_none(), now);
                (Arc::new(backend), metrics)
            })
            .unzip();
        let clients = tls.map_or_else(Vec::new, |tls| {
            let client = |backend: &spec::Backend| match same(backend) {
                Some((former, i)) if former.is_spoken_to_by(Some(tls)) => {
                    Arc::clone(&former.clients[i])
                }
                _ => tls.client(backend.address),
            };
            members.iter().map(client).collect()
        });
        let former_ejector = former.and_then(|former| former.ejector.as_ref());
        let ejector = Ejector::of(spec, former_ejector);
        let set_metrics = match former {
            Some(former) => former.set_metrics.clone(),
            None => Sharded::new(workers),
        };
        let former_picker = former.map(|former| &*former.picker);
        let picker = balance::build(&spec.balance, &backends, former_picker, rng);
        let slow_start = SlowStart::new(spec.slow_start, &backends);
        let (spec, log_parts) = (Arc::clone(spec), vec![OnceLock::new(); backends.len()]);
        Self {
            spec,
            members,
            backends,
            metrics,
            set_metrics,
            log_parts,
            picker,
            slow_start,
            ejector,
            tls: tls.cloned(),
            clients,
        }
    }

    pub fn is_spoken_to_by(&self, tls: Option<&Arc<BackendTls>>) -> bool {
        self.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
    }

    pub fn tls(&self) -> Option<&Arc<BackendTls>> {
        self.tls.as_ref()
    }

    /// How a backend is spoken to, if that is by TLS.
    pub fn client_of(&self, backend: usize) -> Option<&Arc<Client>> {
        self.clients.get(backend)
    }

    pub fn pick(&self, cx: &mut PickContext<'_>) -> Option<usize> {
        cx.slow_start = self.slow_start;
        self.picker.pick(&self.backends, cx)
    }

    /// Whether a pick would find a backend that is not among `tried`.
    pub fn has_other(&self, cx: &PickContext<'_>) -> bool {
        self.backends.iter().any(|backend| cx.admits(backend))
    }

    /// What consistent hashing goes by, if this set does.
    pub fn hash_key(&self) -> Option<(&HashKey, HashFunction)> {
        match &self.spec.balance {
            Balance::ConsistentHash(hash) => Some((&hash.key, hash.function)),
            Balance::RoundRobin | Balance::LeastConnections | Balance::Random => None,
        }
    }

    pub fn log_part_of(&self, backend: usize) -> &OnceLock<Box<[u8]>> {
        &self.log_parts[backend]
    }

    pub fn metrics_of(&self, backend: usize) -> &Sharded<BackendMetrics> {
        &self.metrics[backend]
    }

    pub fn set_metrics(&self) -> &Sharded<SetMetrics> {
        &self.set_metrics
    }

    /// Each backend with what was counted of it.
    pub fn counted(&self) -> impl Iterator<Item = (&Backend, &Sharded<BackendMetrics>)> {
        self.backends.iter().zip(&self.metrics).map(|(backend, metrics)| (&**backend, metrics))
    }
}
