//! A snapshot in the form that decides, as a proxy's table is: routes by listener, and pickers.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use lb_common::{
    id::{BackendSetName, ListenerName},
    snapshot::Snapshot,
    spec::{self, Protocol},
};
use lb_routing::{
    backend::{Backend, Live},
    balance::{self, PickContext, Picker},
    route::{Routes, TcpRoutes},
};

#[derive(Debug)]
pub struct Compiled {
    pub snapshot: Arc<Snapshot>,
    /// Of the http listeners.
    routes: BTreeMap<ListenerName, Routes<Arc<spec::Route>>>,
    tcp_routes: BTreeMap<ListenerName, TcpRoutes<Arc<spec::Route>>>,
    sets: BTreeMap<BackendSetName, Arc<Set>>,
}

/// A backend set, and how proxies pick from it while they keep nobody out by themselves.
#[derive(Debug)]
pub struct Set {
    pub spec: Arc<spec::BackendSet>,
    pub members: Arc<Vec<spec::Backend>>,
    /// In the order of the members.
    pub backends: Vec<Arc<Backend>>,
    /// Built when it is first asked: a table for consistent hashing takes milliseconds and more.
    picker: OnceLock<Box<dyn Picker>>,
}

// === impl Compiled ===

impl Compiled {
    /// Sets that are as they were in `former` are shared with it.
    pub fn new(snapshot: &Arc<Snapshot>, former: Option<&Self>) -> Self {
        let desired = &snapshot.desired;
        let (mut routes, mut tcp_routes) = (BTreeMap::new(), BTreeMap::new());
        for (name, listener) in &desired.listeners {
            let serving = desired.routes.values().filter(|route| route.serves(listener));
            let serving = serving.map(|route| (Arc::clone(route), Arc::clone(route)));
            if listener.protocol == Protocol::Http {
                let compiled = Routes::new(listener.path_normalization, serving);
                routes.insert(name.clone(), compiled);
            } else {
                tcp_routes.insert(name.clone(), TcpRoutes::new(serving));
            }
        }
        let sets = desired.backend_sets.iter().map(|(name, spec)| {
            let unchanged = former.and_then(|former| {
                let same_health = snapshot.unhealthy.of(name) == former.snapshot.unhealthy.of(name)
                    && snapshot.members.get(name) == former.snapshot.members.get(name);
                former.sets.get(name).filter(|set| same_health && Arc::ptr_eq(&set.spec, spec))
            });
            let set = unchanged.cloned().unwrap_or_else(|| Arc::new(Set::new(spec, snapshot)));
            (name.clone(), set)
        });
        let sets = sets.collect();
        Self { snapshot: Arc::clone(snapshot), routes, tcp_routes, sets }
    }

    /// Of an http listener of this snapshot.
    pub fn routes(&self, listener: &ListenerName) -> &Routes<Arc<spec::Route>> {
        self.routes.get(listener).expect("it was found in this snapshot")
    }

    /// Of a tcp listener of this snapshot.
    pub fn tcp_routes(&self, listener: &ListenerName) -> &TcpRoutes<Arc<spec::Route>> {
        self.tcp_routes.get(listener).expect("it was found in this snapshot")
    }

    /// One that a route of this snapshot names.
    pub fn set(&self, name: &BackendSetName) -> &Set {
        self.sets.get(name).expect("a snapshot has all that it names")
    }
}

// === impl Set ===

impl Set {
    fn new(spec: &Arc<spec::BackendSet>, snapshot: &Snapshot) -> Self {
        let compiled = |backend: &spec::Backend| {
            let is_healthy = !snapshot.unhealthy.contains(&spec.name, &backend.name);
            Arc::new(Backend::new(backend, is_healthy, Arc::new(Live::new())))
        };
        let members = snapshot.members.get(&spec.name).cloned().unwrap_or_default();
        Self {
            spec: Arc::clone(spec),
            backends: members.iter().map(compiled).collect(),
            members,
            picker: OnceLock::new(),
        }
    }

    /// The backends that may be picked.
    pub fn eligible(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|backend| backend.usable).map(|backend| &**backend)
    }

    /// Whose turn it is for a key with this hash. Only of use for consistent hashing: other
    /// policies go by more than the key.
    pub fn pick(&self, hash: u64) -> Option<&Backend> {
        // Consistent hashing draws nothing from it.
        let mut rng = fastrand::Rng::with_seed(0);
        let build = || balance::build(&self.spec.balance, &self.backends, None, &mut rng);
        let picker = self.picker.get_or_init(build);
        let mut rng = fastrand::Rng::with_seed(0);
        let mut cx = PickContext::new(0, &mut rng, &[], hash);
        picker.pick(&self.backends, &mut cx).map(|i| &*self.backends[i])
    }
}
