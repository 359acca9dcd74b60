//! What is meant by a name, or what there is instead.

use std::{fmt::Display, sync::Arc};

use lb_common::{
    id::BackendName,
    spec::{Backend, BackendSet, DesiredState},
};
use lb_proto::{error::Problems, parse::list};

/// # Errors
/// If there is no such backend set; says what there is.
pub fn known_set<'a>(current: &'a DesiredState, set: &str) -> Result<&'a BackendSet, Problems> {
    current.backend_sets.get(set).map(Arc::as_ref).ok_or_else(|| {
        let mut problems = Problems::default();
        problems.add("backend_set", unknown("backend set", set, current.backend_sets.keys()));
        problems
    })
}

/// # Errors
/// If there is no such backend; says what there is.
pub fn known_backend<'a>(
    current: &'a DesiredState,
    set: &str,
    backend: &str,
) -> Result<(&'a BackendSet, &'a Backend), Problems> {
    let of = known_set(current, set)?;
    match of.backends.iter().find(|known| known.name.as_str() == backend) {
        Some(found) => Ok((of, found)),
        None => {
            let mut problems = Problems::default();
            problems.add("backend", unknown_backend(set, backend, &of.backends));
            Err(problems)
        }
    }
}

pub fn unknown<T: Display>(kind: &str, name: &str, known: impl Iterator<Item = T>) -> String {
    format!("no {kind} is called {name:?}; there are {}", list(known))
}

pub fn unknown_backend(set: &str, backend: &str, known: &[Backend]) -> String {
    let known: Vec<&BackendName> = known.iter().map(|backend| &backend.name).collect();
    format!("no backend of {set:?} is called {backend:?}; there are {}", list(known.into_iter()))
}
