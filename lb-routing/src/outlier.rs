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
//!   of `min_requests` at least (one that fails at once draws traffic away from them); and it fails
//!   clearly more than they do: with twice their share of 5xx at least, or half their share of good
//!   answers at most, and by four standard errors. What fails everywhere ejects nobody, nor does a
//!   backend without peers go. A backend that has been ejected is no peer, so that a second bad one
//!   is found beside it.
//!
//! # Invariants
//!
//! - An ejection never brings the ejected share of a set's usable backends above `max_percent`,
//!   save that one of two or more may always go, and the only one never: better a failing backend
//!   than none. Only 100% lets the last one go.
//! - A success costs three relaxed loads and a relaxed add; whether a backend is ejected, one load.

use std::{
    sync::{Arc, Mutex, PoisonError, TryLockError, atomic::Ordering},
    time::Duration,
};

use lb_common::spec::{self, Balance, OutlierEjection};

use crate::{backend::Backend, millis::Millis};

mod answers;
pub mod state;
mod streak;

pub use self::state::{Ejection, Failure};

use self::{answers::Counts, state::OutlierState};

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
