//! What can be asked about the control stream at any time, without waiting for it.
//!
//! The stream owns a `watch::Sender` of it; the admin port and tests read the other end. Times are
//! wall time since the Unix epoch, for people to read.

use std::time::Duration;

use http::Uri;
use lb_common::snapshot::SnapshotId;

#[derive(Clone, Debug, Default)]
pub struct ControlStatus {
    pub connection: Connection,
    /// `None`: nothing is served yet.
    pub running: Option<Running>,
    /// Why the last stream ended or did not open.
    pub last_error: Option<StreamError>,
    pub last_rejection: Option<Rejection>,
    pub last_good: LastGoodStatus,
    pub counts: StreamCounts,
}

/// How often what happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Streams that were opened.
    pub streams: u64,
    /// Streams that did not open, or broke.
    pub failures: u64,
    /// Updates that were taken into service.
    pub applied: u64,
    /// Updates that were refused.
    pub rejected: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not yet, since the start.
    #[default]
    Never,
    Connected {
        controller: Uri,
        since: Duration,
    },
    Lost {
        since: Duration,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    pub id: SnapshotId,
    pub revision: u64,
    pub since: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    pub controller: Uri,
    pub message: String,
    pub at: Duration,
}

/// A snapshot that was offered and not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub snapshot: SnapshotId,
    /// Empty if no part of it can be named.
    pub resource: String,
    pub reason: String,
    pub at: Duration,
}

/// What a restart would start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LastGoodStatus {
    #[default]
    Absent,
    /// This process started from it, and nothing newer was written since.
    Loaded {
        snapshot: SnapshotId,
    },
    Written {
        snapshot: SnapshotId,
        at: Duration,
    },
    /// It is there, and it was not usable.
    Refused {
        reason: String,
    },
    /// The disk has what it had before.
    WriteFailed {
        reason: String,
        at: Duration,
    },
}

// === impl Connection ===

impl Connection {
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}
