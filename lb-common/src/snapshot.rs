//! What proxies run: the desired state, who is there, decided health and material, at one version.

use std::{collections::BTreeSet, fmt, sync::Arc};

use crate::{
    id::{BackendName, BackendSetName},
    map::Map,
    material::Materials,
    spec::{Backend, DesiredState},
};

/// Which snapshot. Ordered: a later controller incarnation (`epoch`) beats any version of an
/// earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub epoch: u64,
    pub version: u64,
}

/// A digest of a snapshot's content, without its version: equal content has equal digests on the
/// controller and on every proxy.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

/// The backends that there are, by set; a set without one may be absent. What a set's own spec says of
/// backends is what was asked for, and no proxy goes by that.
pub type Members = Map<BackendSetName, Arc<Vec<Backend>>>;

impl Version {
    /// Whether it is one of these, both included. What is after the last is of nobody who leads.
    pub fn is_within(self, first: Self, last: Self) -> bool {
        first <= self && self <= last
    }
}

/// A version and what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotId {
    pub version: Version,
    pub digest: Digest,
}

/// Immutable and total: nothing that a proxy needs is elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// The accepted change that it contains.
    pub revision: u64,
    pub desired: DesiredState,
    pub members: Members,
    pub unhealthy: UnhealthyBackends,
    /// What `desired` needs.
    pub materials: Materials,
}

/// The backends that are not to be used. Sets without one are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnhealthyBackends(Map<BackendSetName, Arc<BTreeSet<BackendName>>>);

// === impl UnhealthyBackends ===

impl UnhealthyBackends {
    /// Those of some sets.
    #[must_use]
    pub fn only(&self, is_wanted: impl Fn(&BackendSetName) -> bool) -> Self {
        let wanted = self.0.iter().filter(|(set, _)| is_wanted(set));
        Self(wanted.map(|(set, backends)| (set.clone(), Arc::clone(backends))).collect())
    }

    pub fn contains(&self, set: &BackendSetName, backend: &BackendName) -> bool {
        self.0.get(set).is_some_and(|backends| backends.contains(backend))
    }

    pub fn insert(&mut self, set: BackendSetName, backend: BackendName) {
        Arc::make_mut(self.0.entry(set).or_default()).insert(backend);
    }

    /// Replaces what is known about a set; none means that all of it is healthy.
    pub fn set(&mut self, set: BackendSetName, backends: BTreeSet<BackendName>) {
        if backends.is_empty() {
            self.0.remove(&set);
        } else {
            self.0.insert(set, Arc::new(backends));
        }
    }

    pub fn of(&self, set: &BackendSetName) -> Option<&Arc<BTreeSet<BackendName>>> {
        self.0.get(set)
    }

    pub fn remove(&mut self, set: &str) {
        self.0.remove(set);
    }

    pub fn by_set(&self) -> &Map<BackendSetName, Arc<BTreeSet<BackendName>>> {
        &self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&BackendSetName, &Arc<BTreeSet<BackendName>>)> {
        self.0.iter()
    }
}

// === impl Version, Digest ===

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_beats_any_version_of_an_earlier_one() {
        let old = Version { epoch: 1, version: 900 };
        let new = Version { epoch: 2, version: 1 };
        assert!(old < new);
    }
}
