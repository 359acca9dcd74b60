//! What a proxy remembers of one backend's failures.

use std::{
    fmt,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::{answers::Answers, keys::Keys, streak::Streak};
use crate::millis::Millis;

/// What counts against a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Connect,
    /// The connection ended before a response.
    Reset,
    Timeout,
    /// A 5xx.
    Status,
    /// Its client went after it had waited for some time.
    GivenUp,
}

/// A backend is kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// The last straw.
    pub failure: Failure,
    pub remaining: Millis,
}

/// One backend's record. Lives in [`crate::backend::Live`], shared by all workers and tables.
#[derive(Debug, Default)]
pub struct OutlierState {
    pub(super) streak: Streak,
    /// Of the streak. Only where each backend has keys of its own.
    pub(super) keys: Keys,
    pub(super) answers: Answers,
    /// A client gave up, and others that do so before then are not counted.
    gave_up_until: AtomicU64,
    /// It was compared with its peers, and need not be until then.
    pub(super) compared_until: AtomicU64,
    /// When the last ejection ends, and above what it was for: in one word, so that they belong
    /// together. 0 if there was none.
    ejected: AtomicU64,
    /// Ejections in a row, as of the last one. Written with the set's lock held.
    ejections: AtomicU32,
}

/// As long as a client has to have waited for it to be counted at all.
const GIVE_UPS_APART: Millis = 1_000;

/// The low bits of [`OutlierState::ejected`] say what for; the others count milliseconds.
const FAILURE_BITS: u32 = 8;

// === impl Failure ===

impl Failure {
    fn encode(self) -> u64 {
        match self {
            Self::Connect => 1,
            Self::Reset => 2,
            Self::Timeout => 3,
            Self::Status => 4,
            Self::GivenUp => 5,
        }
    }

    fn decode(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Connect),
            2 => Some(Self::Reset),
            3 => Some(Self::Timeout),
            4 => Some(Self::Status),
            5 => Some(Self::GivenUp),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect failed",
            Self::Reset => "connection reset",
            Self::Timeout => "timeout",
            Self::Status => "5xx",
            Self::GivenUp => "clients gave up",
        })
    }
}

// === impl OutlierState ===

impl OutlierState {
    #[inline]
    pub fn is_ejected(&self, now: Millis) -> bool {
        now < self.ejected.load(Ordering::Relaxed) >> FAILURE_BITS
    }

    /// When the last ejection ends or has ended; 0 if there was none.
    pub fn ejected_until(&self) -> Millis {
        self.ejected.load(Ordering::Relaxed) >> FAILURE_BITS
    }

    /// Why and for how much longer, if it is ejected.
    pub fn ejection(&self, now: Millis) -> Option<Ejection> {
        let ejected = self.ejected.load(Ordering::Relaxed);
        let remaining = (ejected >> FAILURE_BITS).checked_sub(now).filter(|left| *left > 0)?;
        let failure = Failure::decode(ejected & ((1 << FAILURE_BITS) - 1))?;
        Some(Ejection { failure, remaining })
    }

    /// A response that is not a failure. It does not end an ejection: it may be to a request from
    /// before.
    #[inline]
    pub fn record_success(&self, now: Millis) {
        self.streak.end();
        self.answers.count(false, now);
    }

    /// Whether a client that gave up just now is to be counted. A client that ends ends all its
    /// requests at once, and is one.
    pub(super) fn gives_up(&self, now: Millis) -> bool {
        let next = |until| (until <= now).then(|| now.saturating_add(GIVE_UPS_APART));
        self.gave_up_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    pub(crate) fn eject(&self, failure: Failure, until: Millis) {
        let until = until.min(u64::MAX >> FAILURE_BITS);
        let ejected = until << FAILURE_BITS | failure.encode();
        self.ejected.store(ejected, Ordering::Relaxed);
        self.streak.end();
        self.answers.clear();
    }

    /// Ejections in a row, this one included: each `base` that it stayed in forgives one.
    pub(super) fn count_ejection(&self, base: Millis, now: Millis) -> u32 {
        let forgiven = now.saturating_sub(self.ejected_until()) / base.max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        let ejections = self.ejections.load(Ordering::Relaxed).saturating_sub(forgiven);
        self.ejections.store(ejections.saturating_add(1), Ordering::Relaxed);
        ejections.saturating_add(1)
    }
}
