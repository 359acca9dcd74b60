//! What outlives the controller: accepted revisions, its epoch, and the health it had decided.
//!
//! # Invariants
//!
//! - What a write returned `Ok` for is on disk, and survives the process at any moment.
//! - A revision's number is the last one's plus one. The last [`HISTORY`] are kept, or fewer, so that what
//!   led to them has [`HISTORY_BYTES`] at most.

pub mod redb;

use std::{collections::BTreeSet, ops::RangeInclusive, path::PathBuf, sync::Arc};

use lb_common::{
    id::{BackendName, BackendSetName},
    map::{Change, Map, changes},
    material::Materials,
    spec::SetOverrides,
};
use lb_proto::{encode, v1};
use prost::Message;
use v1::Kind;

use crate::asked::Asked;

/// So many revisions are kept.
pub const HISTORY: u64 = 1_000;
/// Of what tells them apart.
pub const HISTORY_BYTES: u64 = 64 * 1024 * 1024;

/// One accepted change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    /// Number, time, comment and changes.
    pub about: v1::Revision,
    pub parts: Vec<Part>,
}

/// A listener, a route, a backend set, a certificate or an override, as it is from then on.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub kind: v1::Kind,
    pub name: String,
    /// The encoded message of the spec; none if it is gone.
    pub content: Option<Vec<u8>>,
}

/// What makes one state of the other.
pub fn parts(Asked { spec: from, overrides: former }: &Asked, next: &Asked) -> Vec<Part> {
    let mut parts = Vec::new();
    let Asked { spec: to, overrides } = next;
    collect(&mut parts, Kind::Listener, &from.listeners, &to.listeners, |part| {
        encode::listener(part).encode_to_vec()
    });
    collect(&mut parts, Kind::Route, &from.routes, &to.routes, |part| {
        encode::route(part).encode_to_vec()
    });
    collect(&mut parts, Kind::BackendSet, &from.backend_sets, &to.backend_sets, |part| {
        encode::backend_set(part).encode_to_vec()
    });
    collect(&mut parts, Kind::Certificate, &from.certificates, &to.certificates, |part| {
        encode::certificate(part).encode_to_vec()
    });
    for Change { key: set, old, new } in changes(former, overrides) {
        let of = |of_set: Option<&Arc<SetOverrides>>| of_set.map(|of| of.as_ref().clone());
        let (old, new) = (of(old).unwrap_or_default(), of(new).unwrap_or_default());
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for backend in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
            let by_hand = new.get(backend);
            let content =
                by_hand.map(|by_hand| encode::override_of(set, backend, by_hand).encode_to_vec());
            parts.push(Part { kind: Kind::Override, name: format!("{set}/{backend}"), content });
        }
    }
    parts
}

fn collect<K: Ord + ToString, V: PartialEq>(
    parts: &mut Vec<Part>,
    kind: Kind,
    from: &Map<K, Arc<V>>,
    to: &Map<K, Arc<V>>,
    encode: impl Fn(&V) -> Vec<u8>,
) {
    for Change { key, new, .. } in changes(from, to) {
        let content = new.map(|part| encode(part));
        parts.push(Part { kind, name: key.to_string(), content });
    }
}

/// What was decided about a backend, or that nothing is any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub backend_set: BackendSetName,
    pub backend: BackendName,
    pub status: Option<v1::BackendStatus>,
}

/// What a controller starts from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// This start's own; already persisted.
    pub epoch: u64,
    /// 0 before the first one.
    pub revision: u64,
    pub spec: v1::Spec,
    pub overrides: Vec<v1::Override>,
    /// Of the configuration file that was applied last.
    pub file_digest: Option<u64>,
    /// What was decided about each backend: set, name, address, health, since and why.
    pub health: Vec<v1::BackendStatus>,
    /// What the state needs besides itself, and the keys that the history needs.
    pub materials: Materials,
}

/// Why the store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot create the data directory {path:?}; make it or choose another --data-dir")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path:?} is in use by another process; stop that one, or choose another --data-dir")]
    InUse { path: PathBuf },
    #[error(
        "cannot open {path:?}: {source}; bring back a copy of it, or move it away to start empty"
    )]
    Open { path: PathBuf, source: Box<::redb::Error> },
    #[error(
        "{what} in {path:?} is not readable: {why}; bring back a copy of the file, or move it \
         away to start empty"
    )]
    Unreadable { path: PathBuf, what: String, why: String },
    #[error("{path:?} failed: {source}; look at its disk, then start the controller again")]
    Failed { path: PathBuf, source: Box<::redb::Error> },
    #[error("the write to the store was cut off")]
    CutOff,
    #[error("there is no revision {number}; there are {}", describe(.kept))]
    NoSuchRevision { number: u64, kept: Option<RangeInclusive<u64>> },
}

fn describe(kept: &Option<RangeInclusive<u64>>) -> String {
    match kept {
        Some(kept) => format!("{} to {}", kept.start(), kept.end()),
        None => "none yet".into(),
    }
}
