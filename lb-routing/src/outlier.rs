//! Ejection: what this proxy does by itself about a backend that keeps failing under it.
//!
//! It takes a backend out of its set, for a time that grows with each ejection that soon follows
//! another. Afterwards the backend starts with a clean record. Ejection needs no probe and no
//! controller, and acts within a few requests. Source: Envoy's outlier detection.
//!
//! There are two kinds of evidence, because failures say different things:
//!
//! - **No answer** (a connect that failed, a reset, a timeout), so many times in a row. Any answer
//!   ends the row, and so does a pause longer than `interval`: failures that far apart are no row.
//! - **A 5xx** is an answer, and may be due to the request: one URL that always fails would fail on
//!   every backend. So it counts only against what the peers do with the same kind of requests.
//!   Within `interval`, a backend has answered `min_requests` times at least, with 5xx in
//!   `failure_percent` of them at least; all others that are open have together answered a quarter
//!   as often at least; and it fails clearly more than they do: with twice their share of 5xx at least, or half
//!   their share of good answers at most, and by four standard errors. What fails everywhere ejects
//!   nobody, nor does a backend without peers go. A backend that has been ejected is no peer, so
//!   that a second bad one is found beside it.
//!
//! # Invariants
//!
//! - An ejection never brings the ejected share of a set's usable backends above `max_percent`,
//!   save that one of two or more may always go, and the only one never: better a failing backend
//!   than none. Only 100% lets the last one go.
//! - A success costs three relaxed loads and a relaxed add; whether a backend is ejected, one load.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use lb_common::spec::{self, Balance, OutlierEjection};

use crate::backend::{Backend, Millis};

mod answers;
mod streak;

use self::{
    answers::{Answers, Counts},
    streak::Streak,
};

/// What counts against a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Connect,
    /// The connection ended before a response.
    Reset,
    Timeout,
    /// A 5xx.
    Status,
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
    streak: Streak,
    answers: Answers,
    /// Its 5xx were compared with those of its peers, and need not be until then.
    compared_until: AtomicU64,
    /// When the last ejection ends, and above what it was for: in one word, so that they belong
    /// together. 0 if there was none.
    ejected: AtomicU64,
    /// Ejections in a row, as of the last one. Written with the set's lock held.
    ejections: AtomicU32,
}

/// Decides about one backend set's ejections.
#[derive(Clone, Debug)]
pub struct Ejector {
    policy: OutlierEjection,
    /// Whether its backends get the same kind of requests. If not, answers are not even counted.
    compares: bool,
    /// A mutex, because the limit is a count over the set: two workers that count at once would
    /// each eject the last one allowed. Only taken when a backend has failed often enough, and
    /// no worker waits for it. All tables' ejectors of a set share it.
    deciding: Arc<Mutex<()>>,
}

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
        }
    }

    fn decode(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Connect),
            2 => Some(Self::Reset),
            3 => Some(Self::Timeout),
            4 => Some(Self::Status),
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
        })
    }
}

// === impl OutlierState ===

impl OutlierState {
    #[inline]
    pub fn is_ejected(&self, now: Millis) -> bool {
        now < self.ejected.load(Ordering::Relaxed) >> FAILURE_BITS
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

    pub(crate) fn eject(&self, failure: Failure, until: Millis) {
        let until = until.min(u64::MAX >> FAILURE_BITS);
        let ejected = until << FAILURE_BITS | failure.encode();
        self.ejected.store(ejected, Ordering::Relaxed);
        self.streak.end();
        self.answers.clear();
    }

    /// Ejections in a row, this one included: each `base` that it stayed in forgives one.
    fn count_ejection(&self, base: Millis, now: Millis) -> u32 {
        let ended = self.ejected.load(Ordering::Relaxed) >> FAILURE_BITS;
        let forgiven = now.saturating_sub(ended) / base.max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        let ejections = self.ejections.load(Ordering::Relaxed).saturating_sub(forgiven);
        self.ejections.store(ejections.saturating_add(1), Ordering::Relaxed);
        ejections.saturating_add(1)
    }
}

// === impl Ejector ===

impl Ejector {
    /// `former` is that of the same set in the table before.
    pub fn new(policy: &OutlierEjection, former: Option<&Self>) -> Self {
        let deciding = former.map(|former| Arc::clone(&former.deciding)).unwrap_or_default();
        Self { policy: policy.clone(), compares: true, deciding }
    }

    /// For a set that wants ejections.
    ///
    /// Under consistent hashing each backend has keys of its own, and so requests of its own: one URL
    /// that always fails is one backend's alone, and would go on to the next with each ejection. 5xx
    /// eject nobody there.
    pub fn of(set: &spec::BackendSet, former: Option<&Self>) -> Option<Self> {
        let compares = match set.balance {
            Balance::RoundRobin | Balance::LeastConnections | Balance::Random => true,
            Balance::ConsistentHash(_) => false,
        };
        let policy = set.outlier_ejection.as_ref()?;
        Some(Self { compares, ..Self::new(policy, former) })
    }

    /// Counts a failure of `backend`, which is one of `backends`, and returns its ejection if this
    /// was one too many.
    pub fn record_failure(
        &self,
        backends: &[Arc<Backend>],
        backend: &Backend,
        failure: Failure,
        now: Millis,
        rng: &mut fastrand::Rng,
    ) -> Option<Ejection> {
        let state = &backend.live.outlier;
        if state.is_ejected(now) {
            // It was sent before the ejection, which has already judged.
            return None;
        }
        let is_enough = match failure {
            Failure::Connect | Failure::Reset | Failure::Timeout => {
                let failures = state.streak.extend(millis(self.policy.interval), now);
                failures >= self.policy.consecutive_failures.get().min(streak::LONGEST)
            }
            Failure::Status => {
                state.streak.end();
                state.answers.count(true, now);
                self.fails_more_than_others(backends, backend, now)
            }
        };
        if !is_enough || self.policy.max_percent == 0 {
            return None;
        }

        let _deciding = match self.deciding.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // The next failure asks again.
            Err(TryLockError::WouldBlock) => return None,
        };
        let (usable, ejected) = census(backends, now);
        if state.is_ejected(now) || ejected >= self.allowed(usable) {
            // As many failures again before the next count, so that a set which fails as a whole
            // does not count itself at each request.
            state.streak.end();
            self.pause(state, backends.len(), true, now);
            return None;
        }
        let base = millis(self.policy.base_time);
        let times = u64::from(state.count_ejection(base, now));
        let longest = base.saturating_mul(times).min(millis(self.policy.max_time));
        // Up to a tenth shorter, so that backends which failed together don't return together.
        let remaining = longest - rng.u64(..=longest / 10);
        state.eject(failure, now.saturating_add(remaining));
        Some(Ejection { failure, remaining })
    }

    /// Whether the backend's recent 5xx are reason to eject it.
    fn fails_more_than_others(
        &self,
        backends: &[Arc<Backend>],
        backend: &Backend,
        now: Millis,
    ) -> bool {
        let state = &backend.live.outlier;
        let least = u64::from(self.policy.min_requests.get());
        let own = state.answers.recent(now);
        let is_much = own.failed * 100 >= own.answers * u64::from(self.policy.failure_percent);
        if own.answers < least || !is_much || now < state.compared_until.load(Ordering::Relaxed) {
            return false;
        }
        let others = backends.iter().filter(|b| b.live.id != backend.live.id && b.is_open(now));
        let rest: Counts = others.map(|other| other.live.outlier.answers.recent(now)).sum();
        // Who fails at once draws traffic away from its peers, so they need less to be heard.
        let is_evidence = least.div_ceil(4) <= rest.answers;
        let is_worse = is_evidence && own.is_clearly_worse_than(rest);
        if !is_worse {
            self.pause(state, backends.len(), is_evidence, now);
        }
        is_worse
    }

    /// Lets a backend be for a while, the longer the more peers there are to look at: a set which
    /// fails as a whole spends little on comparisons. Peers that have answered too little to compare
    /// with are looked at again sooner.
    fn pause(&self, state: &OutlierState, backends: usize, was_compared: bool, now: Millis) {
        let parts = backends.clamp(32, 1_024) as u64;
        let of = if was_compared { 1_024 } else { 16 * 1_024 };
        let pause = millis(self.policy.interval).saturating_mul(parts) / of;
        state.compared_until.store(now.saturating_add(pause), Ordering::Relaxed);
    }

    /// For each new table: has all backends' answers counted, and ends ejections, those that would
    /// end first, until no more are left than the policy allows. When the controller takes backends
    /// out that are in, the ejected ones may be all that is left.
    pub fn settle(&self, backends: &[Arc<Backend>], now: Millis) {
        let interval = if self.compares { millis(self.policy.interval) } else { 0 };
        for backend in backends {
            backend.live.outlier.answers.set_interval(interval);
        }
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let (usable, ejected) = census(backends, now);
        let excess = ejected.saturating_sub(self.allowed(usable));
        if excess == 0 {
            return;
        }
        let mut out: Vec<_> = backends
            .iter()
            .filter(|b| b.usable)
            .filter_map(|b| Some((b.live.outlier.ejection(now)?, &b.live.outlier)))
            .collect();
        out.sort_by_key(|(ejection, _)| ejection.remaining);
        for (ejection, state) in out.into_iter().take(excess) {
            state.eject(ejection.failure, now);
        }
    }

    /// How many of so many usable backends may be out.
    fn allowed(&self, usable: usize) -> usize {
        match (usable, self.policy.max_percent as usize) {
            (0 | 1, _) | (_, 0) => 0,
            (_, percent) => (usable * percent / 100).clamp(1, usable),
        }
    }
}

/// Usable backends, and how many of them are ejected.
fn census(backends: &[Arc<Backend>], now: Millis) -> (usize, usize) {
    backends.iter().filter(|b| b.usable).fold((0, 0), |(usable, ejected), b| {
        (usable + 1, ejected + usize::from(b.live.outlier.is_ejected(now)))
    })
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
