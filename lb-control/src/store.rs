//! What outlives the controller: accepted revisions, its epoch, and the health it had decided.
//!
//! Whoever writes says for which [`Term`] it leads, and what it takes to be the last revision, so that two
//! controllers cannot write over each other.
//!
//! # Invariants
//!
//! - What a write returned `Ok` for is on disk, and survives the process at any moment.
//! - What a write returned [`StoreError::Unknown`] for may be there or not, all of it or nothing. After any
//!   other error nothing of it is there.
//! - A store that failed works again as soon as what it is on does; nobody has to start anything again.
//! - A revision's number is the last one's plus one. The last [`HISTORY`] are kept, or fewer, so that what
//!   led to them has [`HISTORY_BYTES`] at most.

pub mod redb;

use std::{
    collections::BTreeSet, error::Error, fmt, ops::RangeInclusive, path::PathBuf, sync::Arc,
};

use lb_common::{
    id::{BackendName, BackendSetName},
    map::{Change, Map, changes},
    material::{MaterialId, Materials},
    secret::Secret,
    spec::SetOverrides,
};
use lb_proto::{encode, v1};
use prost::{DecodeError, Message};
use v1::Kind;

use crate::asked::Asked;

/// So many revisions are kept.
pub const HISTORY: u64 = 1_000;
/// Of what tells them apart.
pub const HISTORY_BYTES: u64 = 64 * 1024 * 1024;

/// Where it is. Nothing here blocks the thread that asks.
#[tonic::async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Takes the lead, with an epoch that is later than all before it, and `least` at least. Who has loaded
    /// what is there before says what was the last of it that it `knows`.
    ///
    /// # Errors
    /// If that is not the last any more, or if it cannot be written.
    async fn campaign(&self, least: u64, knows: Option<Head>) -> Result<Term, StoreError>;

    /// All that a controller starts from.
    ///
    /// # Errors
    /// If it cannot be read, or does not decode.
    async fn load(&self) -> Result<Stored, StoreError>;

    /// Writes a change, if what it `knows` is the last that was written.
    ///
    /// # Errors
    /// If it is not, if another one leads, or if it cannot be written.
    async fn commit(&self, term: Term, knows: Head, accepted: Accepted) -> Result<(), StoreError>;

    /// Replaces what was decided about these backends.
    ///
    /// # Errors
    /// If another one leads, or if it cannot be written.
    async fn put_verdicts(&self, term: Term, verdicts: Vec<Verdict>) -> Result<(), StoreError>;

    /// Replaces the contents of files, and other material that comes by itself. The last revision needs
    /// it.
    ///
    /// # Errors
    /// If another one leads, or if it cannot be written.
    async fn put_materials(&self, term: Term, materials: Materials) -> Result<(), StoreError>;

    /// Writes something that means nothing, and says what is the last that was written before.
    ///
    /// # Errors
    /// If another one leads, or if it cannot be written.
    async fn probe(&self, term: Term) -> Result<Head, StoreError>;

    /// What there is of these.
    ///
    /// # Errors
    /// If it cannot be read.
    async fn materials(&self, ids: Vec<MaterialId>) -> Result<Materials, StoreError>;

    /// All that was asked for, as it was at a revision.
    ///
    /// # Errors
    /// If it is not among those that are kept, or cannot be read.
    async fn state(&self, revision: u64) -> Result<StoredState, StoreError>;

    /// At most `limit` revisions, newest first, all of them before `before`.
    ///
    /// # Errors
    /// If they cannot be read.
    async fn history(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<v1::Revision>, StoreError>;

    /// All that is there, as it is at one moment.
    ///
    /// # Errors
    /// If it cannot be read, or does not decode.
    async fn contents(&self) -> Result<Contents, StoreError>;
}

/// For which a controller leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    pub epoch: u64,
}

/// A change that is to be stored, all of it at once.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// None if only the file's digest is new.
    pub revision: Option<Box<Revision>>,
    /// What the revision needs besides itself, unless that is what the one before it needs.
    pub materials: Option<Materials>,
    /// Of a configuration file that was applied.
    pub file_digest: Option<u64>,
}

/// What was written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// 0 before the first one.
    pub revision: u64,
    pub file_digest: Option<u64>,
}

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
            parts.push(Part { kind: Kind::Override, name: format!("{set} {backend}"), content });
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

/// All that was asked for, as it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredState {
    pub spec: v1::Spec,
    pub overrides: Vec<v1::Override>,
}

/// What a controller starts from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The latest one that anybody led for.
    pub epoch: u64,
    /// 0 before the first one.
    pub revision: u64,
    pub state: StoredState,
    /// Of the configuration file that was applied last.
    pub file_digest: Option<u64>,
    /// What was decided about each backend: set, name, address, health, since and why.
    pub health: Vec<v1::BackendStatus>,
    /// What the state needs besides itself, and the keys that the history needs.
    pub materials: Materials,
}

/// All that there is: for backups, and for other stores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The latest one that anybody led for.
    pub epoch: u64,
    pub file_digest: Option<u64>,
    /// Of the current state.
    pub parts: Vec<v1::Resource>,
    /// Oldest first.
    pub revisions: Vec<KeptRevision>,
    pub materials: Vec<KeptMaterial>,
    /// The revision that said last what material is needed.
    pub materials_revision: u64,
    pub health: Vec<v1::BackendStatus>,
}

/// A revision of the history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptRevision {
    pub about: v1::Revision,
    /// Leads to the state before it.
    pub back: v1::Delta,
}

#[derive(Clone, Debug, PartialEq)]
pub struct KeptMaterial {
    pub id: MaterialId,
    pub content: Secret,
    /// The last revision that needed it, if it is nowhere else.
    pub needed: Option<u64>,
}

// === impl Contents ===

impl Contents {
    /// The current one; 0 before the first one.
    pub fn revision(&self) -> u64 {
        self.revisions.last().map_or(0, |last| last.about.revision)
    }
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
    #[error(
        "another controller leads, for epoch {leads}, and this one led for {epoch}; ask that one"
    )]
    Fenced { epoch: u64, leads: u64 },
    #[error("another controller has written {current} to the store, and this one knows {known}")]
    Conflict { known: Head, current: Head },
    #[error("{path:?} failed, and whether it has what was written is not known yet: {source}")]
    Unknown { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error("{path:?} failed: {source}; look at its disk, the controller goes on once that works")]
    Failed { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error("there is no revision {number}; there are {}", describe(.kept))]
    NoSuchRevision { number: u64, kept: Option<RangeInclusive<u64>> },
}

// === impl Head ===

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.revision)?;
        match self.file_digest {
            Some(digest) => write!(f, " with file {digest:016x}"),
            None => Ok(()),
        }
    }
}

// === impl StoreError ===

impl StoreError {
    /// Whether the store as such does not do what it should: what is asked next will hardly go better.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Fenced { .. }
            | Self::Conflict { .. }
            | Self::Unreadable { .. }
            | Self::NoSuchRevision { .. } => false,
            Self::Directory { .. }
            | Self::InUse { .. }
            | Self::Open { .. }
            | Self::Unknown { .. }
            | Self::Failed { .. } => true,
        }
    }

    /// Whether another controller has led meanwhile.
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Conflict { .. })
    }

    /// The same once it is known that nothing was written.
    pub fn unwritten(self) -> Self {
        match self {
            Self::Unknown { path, source } => Self::Failed { path, source },
            other => other,
        }
    }
}

/// Adds a part to a state. Returns whether it is of a kind that states have.
///
/// # Errors
/// If it does not decode.
pub fn add_part(state: &mut StoredState, kind: i32, content: &[u8]) -> Result<bool, DecodeError> {
    let StoredState { spec, overrides } = state;
    match Kind::try_from(kind) {
        Ok(Kind::Listener) => spec.listeners.push(Message::decode(content)?),
        Ok(Kind::Route) => spec.routes.push(Message::decode(content)?),
        Ok(Kind::BackendSet) => spec.backend_sets.push(Message::decode(content)?),
        Ok(Kind::Certificate) => spec.certificates.push(Message::decode(content)?),
        Ok(Kind::Override) => overrides.push(Message::decode(content)?),
        Ok(Kind::Members | Kind::Unhealthy | Kind::Material | Kind::Unspecified) | Err(_) => {
            return Ok(false);
        }
    }
    Ok(true)
}

fn describe(kept: &Option<RangeInclusive<u64>>) -> String {
    match kept {
        Some(kept) => format!("{} to {}", kept.start(), kept.end()),
        None => "none yet".into(),
    }
}
