//! What must hold between the parts of a desired state.

use std::collections::BTreeMap;

use lb_common::{
    id::{BackendSetName, CertificateName},
    map::{Change, changes, differ},
    spec::{BackendSet, DesiredState, Listener, Protocol, Route},
};

use super::route_kind;
use crate::error::Problems;

/// Adds a problem for every reference that leads nowhere and for addresses that collide.
pub fn check(state: &DesiredState, problems: &mut Problems) {
    let mut check = Check { state, problems };
    for listener in state.listeners.values() {
        check.listener(listener);
    }
    for route in state.routes.values() {
        check.targets(route);
    }
    for set in state.backend_sets.values() {
        check.backend_set(set);
    }
    for listener in state.listeners.values() {
        check.is_of_use(listener);
    }
    for route in state.routes.values() {
        check.listeners_of(route);
    }
    check.addresses();
}

/// As [`check`] of `to`, where nothing is wrong with `from`: most changes are of a route or a set that
/// nobody else's references lead to, or led to before; the others do not need to be looked at then.
pub fn check_changes(from: &DesiredState, to: &DesiredState, problems: &mut Problems) {
    let routes: Vec<_> = changes(&from.routes, &to.routes).collect();
    let sets: Vec<_> = changes(&from.backend_sets, &to.backend_sets).collect();
    let is_elsewhere = |change: &Change<'_, _, std::sync::Arc<Route>>| {
        let (old, new) = (change.old, change.new);
        new.is_none()
            || old.is_some_and(|old| Some(&old.listeners) != new.map(|new| &new.listeners))
    };
    let concerns_others = differ(&from.listeners, &to.listeners)
        || routes.iter().any(is_elsewhere)
        || sets.iter().any(|set| set.new.is_none())
        || changes(&from.certificates, &to.certificates).any(|change| change.new.is_none());
    if concerns_others {
        return check(to, problems);
    }
    let mut check = Check { state: to, problems };
    for route in routes.iter().filter_map(|change| change.new) {
        check.targets(route);
        check.listeners_of(route);
    }
    for set in sets.iter().filter_map(|change| change.new) {
        check.backend_set(set);
    }
}

struct Check<'a> {
    state: &'a DesiredState,
    problems: &'a mut Problems,
}

impl Check<'_> {
    /// What it names.
    fn listener(&mut self, listener: &Listener) {
        let name = &listener.name;
        if let Protocol::Tcp { backend_set: Some(set) } = &listener.protocol {
            self.set_exists(format!("listeners[{name}].backend_set"), set);
        }
        for certificate in listener.tls.iter().flat_map(|tls| &tls.certificates) {
            let field = format!("listeners[{name}].tls.certificates");
            self.certificate_exists(field, certificate);
        }
    }

    /// That connections lead somewhere.
    fn is_of_use(&mut self, listener: &Listener) {
        if listener.protocol == (Protocol::Tcp { backend_set: None })
            && !self.state.routes.values().any(|route| route.serves(listener))
        {
            self.problems.add(
                format!("listeners[{}].backend_set", listener.name),
                "is empty, and no route is for this tcp listener; name one here, or route",
            );
        }
    }

    fn targets(&mut self, route: &Route) {
        let name = &route.name;
        for (i, target) in route.backend_sets().iter().enumerate() {
            // One target may have been given in either spelling.
            let field = match route.backend_sets() {
                [_] => format!("routes[{name}].backend_set"),
                _ => format!("routes[{name}].forward[{i}].backend_set"),
            };
            self.set_exists(field, &target.backend_set);
        }
    }

    /// That they are there, and that a route for them says what such a route can.
    fn listeners_of(&mut self, route: &Route) {
        let name = &route.name;
        let (mut http, mut tcp) = (route.listeners.is_empty(), false);
        for listener in &route.listeners {
            match self.state.listeners.get(listener).map(|listener| &listener.protocol) {
                Some(Protocol::Http) => http = true,
                Some(Protocol::Tcp { .. }) => tcp = true,
                None => {
                    let known = list(self.state.listeners.keys());
                    self.problems.add(
                        format!("routes[{name}].listeners"),
                        format!("no listener is called {listener:?}; there are {known}"),
                    );
                }
            }
        }
        match (http, tcp) {
            (true, true) => self.problems.add(
                format!("routes[{name}].listeners"),
                "are http and tcp ones; give each kind a route of its own",
            ),
            (false, true) => route_kind::check_tcp(name, route, self.problems),
            (true, false) => route_kind::check_http(name, route, self.problems),
            (false, false) => {}
        }
    }

    fn backend_set(&mut self, set: &BackendSet) {
        let shown = set.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        if let Some(certificate) = shown {
            let field = format!("backend_sets[{}].tls.client_certificate", set.name);
            self.certificate_exists(field, certificate);
        }
    }

    fn addresses(&mut self) {
        let mut addresses = BTreeMap::new();
        for (name, listener) in &self.state.listeners {
            let fixed = listener.address.port() != 0;
            if let Some(other) = addresses.insert(listener.address, name)
                && fixed
            {
                self.problems.add(
                    format!("listeners[{name}].address"),
                    format!("{} is taken by listener {other:?}", listener.address),
                );
            }
        }
    }

    fn set_exists(&mut self, field: String, name: &BackendSetName) {
        if !self.state.backend_sets.contains_key(name) {
            let known = list(self.state.backend_sets.keys());
            let message = format!("no backend set is called {name:?}; there are {known}");
            self.problems.add(field, message);
        }
    }

    fn certificate_exists(&mut self, field: String, name: &CertificateName) {
        if !self.state.certificates.contains_key(name) {
            let known = list(self.state.certificates.keys());
            let message = format!("no certificate is called {name:?}; there are {known}");
            self.problems.add(field, message);
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
