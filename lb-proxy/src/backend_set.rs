//! A backend set, compiled: its backends, how one of them is picked, and what is counted.

use std::{sync::Arc, time::Duration};

use lb_common::{
    id::BackendName,
    spec::{self, Balance, HashFunction, HashKey},
};
use lb_routing::{
    backend::{Backend, Live},
    balance::{self, PickContext, Picker},
    outlier::Ejector,
};

use crate::metrics::{BackendMetrics, SetMetrics, Sharded};

/// Belongs to the tables that have it in common; its backends' live parts outlive it.
#[derive(Debug)]
pub struct BackendSet {
    pub spec: Arc<spec::BackendSet>,
    /// In the order of the spec.
    pub backends: Vec<Arc<Backend>>,
    /// Of each backend.
    metrics: Vec<Arc<Sharded<BackendMetrics>>>,
    /// Of all that it ever had.
    set_metrics: Arc<Sharded<SetMetrics>>,
    picker: Box<dyn Picker>,
    pub ejector: Option<Ejector>,
}

/// One backend of a set, picked.
#[derive(Clone, Debug)]
pub struct Pick {
    pub set: Arc<BackendSet>,
    index: usize,
}

impl BackendSet {
    /// `former` is the set of this name in the table before.
    pub fn new(
        spec: &Arc<spec::BackendSet>,
        is_healthy: impl Fn(&BackendName) -> bool,
        former: Option<&Self>,
        workers: usize,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let same = |backend: &spec::Backend| {
            let is_same =
                |old: &Arc<Backend>| old.name == backend.name && old.address == backend.address;
            let former = former?;
            former.backends.iter().position(is_same).map(|i| (former, i))
        };
        let (backends, metrics): (Vec<_>, Vec<_>) = spec
            .backends
            .iter()
            .map(|backend| {
                let (live, metrics) = match same(backend) {
                    Some((former, i)) => {
                        (Arc::clone(&former.backends[i].live), Arc::clone(&former.metrics[i]))
                    }
                    None => (Arc::new(Live::new()), Arc::new(Sharded::new(workers))),
                };
                (Arc::new(Backend::new(backend, is_healthy(&backend.name), live)), metrics)
            })
            .unzip();
        let former_ejector = former.and_then(|former| former.ejector.as_ref());
        let ejection = spec.outlier_ejection.as_ref();
        let ejector = ejection.map(|policy| Ejector::new(policy, former_ejector));
        let set_metrics = match former {
            Some(former) => Arc::clone(&former.set_metrics),
            None => Arc::new(Sharded::new(workers)),
        };
        let former_picker = former.map(|former| &*former.picker);
        let picker = balance::build(&spec.balance, &backends, former_picker, rng);
        Self { spec: Arc::clone(spec), backends, metrics, set_metrics, picker, ejector }
    }

    pub fn pick(self: &Arc<Self>, cx: &mut PickContext<'_>) -> Option<Pick> {
        let index = self.picker.pick(&self.backends, cx)?;
        Some(Pick { set: Arc::clone(self), index })
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

    pub fn set_metrics(&self) -> &Sharded<SetMetrics> {
        &self.set_metrics
    }

    /// Each backend with what was counted of it.
    pub fn counted(&self) -> impl Iterator<Item = (&Backend, &Sharded<BackendMetrics>)> {
        self.backends.iter().zip(&self.metrics).map(|(backend, metrics)| (&**backend, &**metrics))
    }
}

impl Pick {
    pub fn backend(&self) -> &Arc<Backend> {
        &self.set.backends[self.index]
    }

    /// The shard that only this worker writes.
    pub fn metrics(&self, worker: usize) -> &BackendMetrics {
        self.set.metrics[self.index].of(worker)
    }

    /// Counts how long an attempt took to the response's head, or to its time-out.
    pub fn record_attempt(&self, worker: usize, took: Duration) {
        self.metrics(worker).latency.record(took);
        self.set.set_metrics.of(worker).attempts.record(took);
    }
}
