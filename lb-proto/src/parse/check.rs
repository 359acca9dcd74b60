//! What must hold between the parts of a desired state.

use std::collections::BTreeMap;

use lb_common::{
    id::{BackendSetName, CertificateName},
    spec::{DesiredState, Protocol},
};

use super::route_kind;
use crate::error::Problems;

/// Adds a problem for every reference that leads nowhere and for addresses that collide.
pub fn check(state: &DesiredState, problems: &mut Problems) {
    let mut set_exists = |field: String, name: &BackendSetName| {
        if !state.backend_sets.contains_key(name) {
            let known = list(state.backend_sets.keys());
            problems.add(field, format!("no backend set is called {name:?}; there are {known}"));
        }
    };
    let mut without_target = Vec::new();
    for (name, listener) in &state.listeners {
        let Protocol::Tcp { backend_set } = &listener.protocol else { continue };
        let field = format!("listeners[{name}].backend_set");
        match backend_set {
            Some(backend_set) => set_exists(field, backend_set),
            None if !state.routes.values().any(|route| route.serves(listener)) => {
                without_target.push(field);
            }
            None => {}
        }
    }
    for (name, route) in &state.routes {
        for (i, target) in route.backend_sets().iter().enumerate() {
            // One target may have been given in either spelling.
            let field = match route.backend_sets() {
                [_] => format!("routes[{name}].backend_set"),
                _ => format!("routes[{name}].forward[{i}].backend_set"),
            };
            set_exists(field, &target.backend_set);
        }
    }
    let mut certificate_exists = |field: String, name: &CertificateName| {
        if !state.certificates.contains_key(name) {
            let known = list(state.certificates.keys());
            problems.add(field, format!("no certificate is called {name:?}; there are {known}"));
        }
    };
    for (name, listener) in &state.listeners {
        for certificate in listener.tls.iter().flat_map(|tls| &tls.certificates) {
            certificate_exists(format!("listeners[{name}].tls.certificates"), certificate);
        }
    }
    for (name, set) in &state.backend_sets {
        let shown = set.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        if let Some(certificate) = shown {
            certificate_exists(format!("backend_sets[{name}].tls.client_certificate"), certificate);
        }
    }
    for field in without_target {
        problems
            .add(field, "is empty, and no route is for this tcp listener; name one here, or route");
    }
    for (name, route) in &state.routes {
        let (mut http, mut tcp) = (route.listeners.is_empty(), false);
        for listener in &route.listeners {
            match state.listeners.get(listener).map(|listener| &listener.protocol) {
                Some(Protocol::Http) => http = true,
                Some(Protocol::Tcp { .. }) => tcp = true,
                None => {
                    let known = list(state.listeners.keys());
                    problems.add(
                        format!("routes[{name}].listeners"),
                        format!("no listener is called {listener:?}; there are {known}"),
                    );
                }
            }
        }
        match (http, tcp) {
            (true, true) => problems.add(
                format!("routes[{name}].listeners"),
                "are http and tcp ones; give each kind a route of its own",
            ),
            (false, true) => route_kind::check_tcp(name, route, problems),
            (true, false) => route_kind::check_http(name, route, problems),
            (false, false) => {}
        }
    }
    let mut addresses = BTreeMap::new();
    for (name, listener) in &state.listeners {
        let fixed = listener.address.port() != 0;
        if let Some(other) = addresses.insert(listener.address, name)
            && fixed
        {
            problems.add(
                format!("listeners[{name}].address"),
                format!("{} is taken by listener {other:?}", listener.address),
            );
        }
    }
}

/// The names that there are, for a message; not more than a few.
pub fn list<T: std::fmt::Display>(names: impl Iterator<Item = T>) -> String {
    const MOST: usize = 10;
    let mut names: Vec<_> = names.take(MOST + 1).map(|name| name.to_string()).collect();
    if names.is_empty() {
        return "none".into();
    }
    if names.len() > MOST {
        names[MOST] = "more".into();
    }
    names.join(", ")
}
