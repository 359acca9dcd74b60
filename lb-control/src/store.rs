//! What outlives the controller: accepted revisions, its epoch, and the health it had decided.
//!
//! # Invariants
//!
//! - What a write returned `Ok` for is on disk, and survives the process at any moment.
//! - A revision's number is the last one's plus one. The last [`HISTORY`] are kept.

pub mod redb;

use std::{ops::RangeInclusive, path::PathBuf};

use lb_common::material::Materials;
use lb_proto::v1;

/// So many revisions are kept.
pub const HISTORY: u64 = 1_000;

/// One accepted change and the state that it led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    /// Number, time, comment and changes.
    pub about: v1::Revision,
    pub spec: v1::Spec,
}

/// What a controller starts from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// This start's own; already persisted.
    pub epoch: u64,
    /// 0 before the first one.
    pub revision: u64,
    pub spec: v1::Spec,
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
