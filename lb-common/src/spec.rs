//! What operators ask for, parsed. Every value here is valid by itself, and a [`DesiredState`]
//! is consistent as a whole; `lb_proto::parse` is where that is decided.

mod backend_set;
mod certificate;
mod listener;
mod overlay;
mod route;

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    id::{BackendSetName, CertificateName, ListenerName, RouteName},
    map::Map,
    material::MaterialId,
};

pub use backend_set::{
    Backend, BackendSet, BackendState, BackendTls, Balance, CheckAddress, Hash, HashAlgorithm,
    HashFunction, HashKey, HealthCheck, OutlierEjection, PoolLimits, Probe, ProxyVersion, Trust,
};
pub use certificate::{Acme, Certificate, CertificateSource, Challenge, Eab, Key, Pem};
pub use listener::{
    ClientAuth, ClientCertHeaders, ForwardedHeader, Forwarding, Listener, ListenerTls,
    PathNormalization, Protocol, ProxyProtocol, Scheme, TlsVersion,
};
pub use overlay::{Override, Overrides, SetOverrides, overridden};
pub use route::{
    Action, Answer, HostMatch, PathMatch, Redirect, RetryOn, RetryPolicy, Route, RouteMatch,
    WeightedBackendSet,
};

/// Listeners, routes, backend sets and certificates, each by name. Parts are shared between versions
/// that have them in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredState {
    pub listeners: Map<ListenerName, Arc<Listener>>,
    pub routes: Map<RouteName, Arc<Route>>,
    pub backend_sets: Map<BackendSetName, Arc<BackendSet>>,
    pub certificates: Map<CertificateName, Arc<Certificate>>,
}

// === impl ===

impl DesiredState {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        let Self { listeners, routes, backend_sets, certificates } = self;
        listeners.is_empty()
            && routes.is_empty()
            && backend_sets.is_empty()
            && certificates.is_empty()
    }

    /// What it needs besides itself, each once.
    pub fn materials(&self) -> BTreeSet<MaterialId> {
        let mut needed = self.materials_of_proxies();
        needed.extend(self.certificates.values().flat_map(|part| part.materials_of_controller()));
        needed
    }

    /// What of that proxies need.
    pub fn materials_of_proxies(&self) -> BTreeSet<MaterialId> {
        let of_certificates = self.certificates.values().flat_map(|part| part.materials());
        let of_listeners = self.listeners.values().filter_map(|listener| {
            let tls = listener.tls.as_ref()?;
            tls.client_auth.as_ref()?.ca.material()
        });
        let of_sets =
            self.backend_sets.values().filter_map(|set| set.tls.as_ref()?.ca()?.material());
        let mut needed: BTreeSet<_> = of_certificates.chain(of_listeners).chain(of_sets).collect();
        if self.listeners.values().any(|listener| listener.tls.is_some()) {
            needed.insert(MaterialId::tickets());
        }
        needed
    }

    /// Backend sets whose backends nobody checks. To be told wherever somebody may hear it.
    pub fn unverified(&self) -> impl Iterator<Item = &BackendSetName> {
        self.backend_sets.values().filter(|set| set.is_unverified()).map(|set| &set.name)
    }
}

/// What is to be told of sets that are [`DesiredState::unverified`].
pub const UNVERIFIED: &str = "verify = false believes whoever answers at a backend's address";
