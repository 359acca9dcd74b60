//! Wire to domain. All that is wrong is collected, so that one round of corrections is enough.
//!
//! Each function takes the path of what it parses, and returns `None` only after it has added a
//! problem.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use lb_common::{
    id::{BackendSetName, ListenerName},
    spec::{DesiredState, Listener, PathNormalization, Protocol},
};

use crate::{defaults, error::Problems, v1};

mod at;
mod backend_set;
mod check;
mod route;

use at::At;
pub use backend_set::{backend, backend_set, name_of};
pub use check::{check, list};
pub use route::route;

/// Weights beyond this are refused: balancing by them would need too fine a schedule.
pub const MAX_WEIGHT: u32 = 65_535;

/// A whole desired state.
///
/// # Errors
/// Everything that is wrong with it, references between its parts included.
pub fn desired_state(spec: &v1::Spec) -> Result<DesiredState, Problems> {
    let mut problems = Problems::default();
    let state = spec_parts(spec, &mut problems);
    // References are looked at only when all parts are there, lest one mistake be told twice.
    if problems.0.is_empty() {
        check(&state, &mut problems);
    }
    problems.or(state)
}

/// The parts, each valid by itself; references are not looked at.
pub fn spec_parts(spec: &v1::Spec, problems: &mut Problems) -> DesiredState {
    let mut state = DesiredState::default();
    for (i, wire) in spec.listeners.iter().enumerate() {
        let path = element("listeners", &wire.name, i);
        if let Some(parsed) = listener(wire, &path, problems) {
            insert(&mut state.listeners, parsed.name.clone(), parsed, &path, problems);
        }
    }
    for (i, wire) in spec.routes.iter().enumerate() {
        let path = element("routes", &wire.name, i);
        if let Some(parsed) = route(wire, &path, problems) {
            insert(&mut state.routes, parsed.name.clone(), parsed, &path, problems);
        }
    }
    for (i, wire) in spec.backend_sets.iter().enumerate() {
        let path = element("backend_sets", &wire.name, i);
        if let Some(parsed) = backend_set(wire, &path, problems) {
            insert(&mut state.backend_sets, parsed.name.clone(), parsed, &path, problems);
        }
    }
    state
}

/// How an element of a list is called in a path: by name, or by position if it has none.
pub fn element(kind: &str, name: &str, index: usize) -> String {
    if name.is_empty() { format!("{kind}[{index}]") } else { format!("{kind}[{name}]") }
}

pub fn listener(wire: &v1::Listener, path: &str, problems: &mut Problems) -> Option<Listener> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, ListenerName::new);
    let address = at.address("address", &wire.address);
    let protocol = match wire.protocol.as_str() {
        "" | "http" => {
            if !wire.backend_set.is_empty() {
                at.problem(
                    "backend_set",
                    "is only for protocol \"tcp\"; an http listener has routes",
                );
            }
            Some(Protocol::Http)
        }
        "tcp" => at
            .name("backend_set", &wire.backend_set, BackendSetName::new)
            .map(|backend_set| Protocol::Tcp { backend_set }),
        other => at.one_of("protocol", other, "http, tcp"),
    };
    let idle_default = protocol.as_ref().map(defaults::idle_timeout).unwrap_or_default();
    let idle_timeout = at.duration("idle_timeout", wire.idle_timeout, idle_default);
    let header_timeout =
        at.duration("header_timeout", wire.header_timeout, defaults::HEADER_TIMEOUT);
    let body_timeout = at.duration("body_timeout", wire.body_timeout, defaults::BODY_TIMEOUT);
    let write_timeout = at.duration("write_timeout", wire.write_timeout, defaults::WRITE_TIMEOUT);
    let max_header_bytes = at.within(
        "max_header_bytes",
        wire.max_header_bytes,
        defaults::MAX_HEADER_BYTES,
        1024..=1_048_576,
    );
    let max_header_fields = at.within(
        "max_header_fields",
        wire.max_header_fields,
        defaults::MAX_HEADER_FIELDS,
        1..=1000,
    );
    let max_target_bytes = at.within(
        "max_target_bytes",
        wire.max_target_bytes,
        defaults::MAX_TARGET_BYTES,
        64..=65_536,
    );
    let path_normalization = match wire.path_normalization.as_str() {
        "" => Some(defaults::PATH_NORMALIZATION),
        "off" => Some(PathNormalization::Off),
        "match" => Some(PathNormalization::Match),
        "forward" => Some(PathNormalization::Forward),
        other => at.one_of("path_normalization", other, "off, match, forward"),
    };
    let limit = |wire: Option<u32>| wire.and_then(NonZeroU32::new);
    Some(Listener {
        name: name?,
        address: address?,
        protocol: protocol?,
        idle_timeout: idle_timeout?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        write_timeout: write_timeout?,
        max_connections: limit(wire.max_connections),
        max_connections_per_client: limit(wire.max_connections_per_client),
        max_requests_per_connection: limit(wire.max_requests_per_connection),
        max_header_bytes: max_header_bytes?,
        max_header_fields: max_header_fields?,
        max_target_bytes: max_target_bytes?,
        path_normalization: path_normalization?,
    })
}

fn insert<K: Ord, V>(
    map: &mut BTreeMap<K, Arc<V>>,
    name: K,
    value: V,
    path: &str,
    problems: &mut Problems,
) {
    if map.insert(name, Arc::new(value)).is_some() {
        problems.add(path, "is there twice; names are unique");
    }
}

#[cfg(test)]
mod tests;
