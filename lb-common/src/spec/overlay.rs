//! What operators set by hand of single backends. It holds whatever the spec says of them, until it is
//! reset: a file that is edited does not undo a drain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Backend, BackendSet, BackendState};
use crate::{
    id::{BackendName, BackendSetName},
    map::Map,
};

/// By backend set, of those that have some.
pub type Overrides = Map<BackendSetName, Arc<SetOverrides>>;
pub type SetOverrides = BTreeMap<BackendName, Override>;

/// Of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub weight: Option<u32>,
    pub state: Option<BackendState>,
    /// Who set it last, in his own words.
    pub author: String,
    /// And when, since the Unix epoch.
    pub time: Duration,
}

// === impl Override ===

impl Override {
    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        self.weight.is_none() && self.state.is_none()
    }

    pub fn put_onto(&self, backend: &mut Backend) {
        backend.weight = self.weight.unwrap_or(backend.weight);
        backend.state = self.state.unwrap_or(backend.state);
    }
}

/// A set as it is in force.
pub fn overridden(set: &Arc<BackendSet>, overrides: Option<&Arc<SetOverrides>>) -> Arc<BackendSet> {
    let mut set = Arc::clone(set);
    if let Some(overrides) = overrides.filter(|overrides| !overrides.is_empty()) {
        for backend in &mut Arc::make_mut(&mut set).backends {
            if let Some(by_hand) = overrides.get(&backend.name) {
                by_hand.put_onto(backend);
            }
        }
    }
    set
}
