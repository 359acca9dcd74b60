//! What a tcp listener does with its connections, compiled.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::id::BackendSetName;
use lb_prelude::client_hello::ClientHello;
use lb_routing::route::TcpRoutes;

use super::route::Route;
use crate::metrics::{Sharded, TcpMetrics};

#[derive(Debug)]
pub struct Tcp {
    routes: TcpRoutes<Arc<Route>>,
    /// For what no route takes.
    backend_set: Option<BackendSetName>,
    /// By backend set.
    metrics: BTreeMap<BackendSetName, Sharded<TcpMetrics>>,
}

/// What takes a connection.
#[derive(Debug)]
pub enum Taker {
    Route(Arc<Route>),
    BackendSet(BackendSetName),
}

impl Tcp {
    /// `former` is what the listener did before.
    pub(super) fn new(
        routes: &[Arc<Route>],
        backend_set: Option<&BackendSetName>,
        former: Option<&Self>,
        workers: usize,
    ) -> Self {
        let of_routes = routes.iter().flat_map(|route| route.spec.backend_sets());
        let sets: BTreeSet<_> =
            of_routes.map(|weighted| &weighted.backend_set).chain(backend_set).collect();
        let metrics = sets.into_iter().map(|set| {
            let same = former.and_then(|former| former.metrics.get(set)).cloned();
            (set.clone(), same.unwrap_or_else(|| Sharded::new(workers)))
        });
        let metrics = metrics.collect();
        let found = |route: &Arc<Route>| (Arc::clone(&route.spec), Arc::clone(route));
        Self {
            routes: TcpRoutes::new(routes.iter().map(found)),
            backend_set: backend_set.cloned(),
            metrics,
        }
    }

    /// Whether it matters what a client says first.
    pub fn asks_for_hello(&self) -> bool {
        self.routes.asks_for_hello()
    }

    /// For a client there that says this; without TLS, nothing.
    pub fn taker(&self, hello: &ClientHello, from: IpAddr) -> Option<Taker> {
        let route = self.routes.find(hello, from).cloned().map(Taker::Route);
        route.or_else(|| self.backend_set.clone().map(Taker::BackendSet))
    }

    pub fn metrics_of(&self, set: &BackendSetName) -> Option<&Sharded<TcpMetrics>> {
        self.metrics.get(set)
    }

    /// Each backend set with what was counted of it.
    pub fn counted(&self) -> impl Iterator<Item = (&str, &Sharded<TcpMetrics>)> {
        self.metrics.iter().map(|(set, metrics)| (set.as_str(), metrics))
    }
}
