//! Wire to domain. All that is wrong is collected, so that one round of corrections is enough.
//!
//! Each function takes the path of what it parses, and returns `None` only after it has added a
//! problem.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lb_common::{
    id::{BackendName, BackendSetName},
    map::Map,
    spec::{DesiredState, Override, Overrides, SetOverrides},
};

use crate::{error::Problems, v1};

mod at;
mod backend_set;
mod certificate;
mod check;
mod listener;
mod probe;
mod route;
mod route_kind;

use at::At;
use backend_set::backend_state;
pub use backend_set::{backend, backend_set, backends, name_of};
pub use certificate::certificate;
pub use check::{check, check_changes, list};
pub use listener::listener;
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
    for (i, wire) in spec.certificates.iter().enumerate() {
        let path = element("certificates", &wire.name, i);
        if let Some(parsed) = certificate(wire, &path, problems) {
            insert(&mut state.certificates, parsed.name.clone(), parsed, &path, problems);
        }
    }
    state
}

/// What was set by hand, by set and backend.
pub fn overrides(wire: &[v1::Override], problems: &mut Problems) -> Overrides {
    let mut overrides = BTreeMap::<BackendSetName, SetOverrides>::new();
    for (i, wire) in wire.iter().enumerate() {
        let path = element("overrides", &wire.backend, i);
        let mut at = At { path: &path, problems };
        let set = at.name("backend_set", &wire.backend_set, BackendSetName::new);
        let backend = at.name("backend", &wire.backend, BackendName::new);
        let weight = wire.weight.map(|weight| at.weight("weight", Some(weight)));
        let state = (!wire.state.is_empty()).then(|| backend_state(&wire.state, &mut at));
        let time = wire.time.unwrap_or_default();
        let by_hand = Override {
            weight: weight.flatten(),
            state: state.flatten(),
            author: wire.author.clone(),
            time: Duration::new(
                u64::try_from(time.seconds).unwrap_or_default(),
                u32::try_from(time.nanos).unwrap_or_default(),
            ),
        };
        if let Some((set, backend)) = set.zip(backend) {
            overrides.entry(set).or_default().insert(backend, by_hand);
        }
    }
    overrides.into_iter().map(|(set, of_set)| (set, Arc::new(of_set))).collect()
}

/// How an element of a list is called in a path: by name, or by position if it has none.
pub fn element(kind: &str, name: &str, index: usize) -> String {
    if name.is_empty() { format!("{kind}[{index}]") } else { format!("{kind}[{name}]") }
}

fn insert<K: Ord + Clone, V>(
    map: &mut Map<K, Arc<V>>,
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
