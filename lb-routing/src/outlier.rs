//! Ejection: what this proxy does by itself about a backend that keeps failing under it.
//!
//! It takes a backend out of its set, for a time that grows with each ejection that soon follows
//! another. Afterwards the backend starts with a clean record. Ejection needs no probe and no
//! controller, and acts within a few requests. Source: Envoy's outlier detection.
//!
//! A failure says little by itself, because it may be due to the request: one URL that always fails
//! does so on every backend, and a client that gives up does so wherever its request went. So a
//! backend is judged beside its peers, which get the same kind of requests. There are three grounds:
//!
//! - **It cannot be connected to**, so many times in a row. No request has a part in that.
//! - **It gives no answer** (resets, timeouts, clients that give up), so many times in a row, while
//!   its peers do well: see `outlier/evidence.rs`. This is quick where nothing succeeds any
//!   more. Peers that are failing in a row themselves, half as long at least, are not asked. Any
//!   answer ends a row, and so does a pause longer than `interval`.
//! - **It fails more than they do**, in whatever way, 5xx included: within `interval`, it was tried
//!   `min_requests` times at least, failed `failure_percent` of them at least, and clearly more than
//!   its peers: see `outlier/evidence.rs`. They have been tried a quarter of `min_requests`
//!   at least (one that fails at once draws traffic away from them).
//!
//! What fails everywhere ejects nobody, nor does a backend without peers go, unless it cannot be
//! connected to. A backend that has been ejected is no peer, so that a second bad one is found beside
//! it.
//!
//! Under consistent hashing, each backend has keys of its own and so requests of its own: one URL that
//! always fails may be one backend's alone, and would go on to the next with each ejection. The third
//! ground is none there, and for the second each key counts once in a row.
//!
//! # Invariants
//!
//! - An ejection never brings the ejected share of a set's usable backends above `max_percent`,
//!   save that one of two or more may always go, and the only one never: better a failing backend
//!   than none. Only 100% lets the last one go.
//! - A success costs three relaxed loads and a relaxed add; whether a backend is ejected, one load.

use std::sync::{Arc, Mutex, PoisonError, TryLockError, atomic::Ordering};

use lb_common::spec::{self, Balance, OutlierEjection};

use crate::{
    backend::Backend,
    millis::{self, Millis},
};

mod answers;
mod evidence;
mod keys;
pub mod state;
mod streak;

pub use self::{
    keys::Key,
    state::{Ejection, Failure},
};

use self::{
    answers::{Counts, Slots},
    evidence::Evidence,
    state::OutlierState,
    streak::Row,
};

/// Decides about one backend set's ejections.
#[derive(Clone, Debug)]
pub struct Ejector {
    policy: OutlierEjection,
    /// Whether its backends get the same kind of requests.
    compares: bool,
    /// A mutex, because the limit is a count over the set: two workers that count at once would
    /// each eject the last one allowed. Only taken when a backend has failed often enough, and
    /// no worker waits for it. All tables' ejectors of a set share it.
    deciding: Arc<Mutex<()>>,
}

/// So few backends are looked at within less time than a failure takes anyway.
const FEW: usize = 32;

// === impl Ejector ===

impl Ejector {
    /// `former` is that of the same set in the table before.
    pub fn new(policy: &OutlierEjection, former: Option<&Self>) -> Self {
        let deciding = former.map(|former| Arc::clone(&former.deciding)).unwrap_or_default();
        Self { policy: policy.clone(), compares: true, deciding }
    }

    /// For a set that wants ejections.
    pub fn of(set: &spec::BackendSet, former: Option<&Self>) -> Option<Self> {
        let compares = match set.balance {
            Balance::RoundRobin | Balance::LeastConnections | Balance::Random => true,
            Balance::ConsistentHash(_) => false,
        };
        let policy = set.outlier_ejection.as_ref()?;
        Some(Self { compares, ..Self::new(policy, former) })
    }

    /// Counts a failure of `backend`, which is one of `backends`, with a request of this key, and
    /// returns its ejection if this was one too many.
    pub fn record_failure(
        &self,
        backends: &[Arc<Backend>],
        backend: &Backend,
        failure: Failure,
        key: Key,
        now: Millis,
        rng: &mut fastrand::Rng,
    ) -> Option<Ejection> {
        let state = &backend.live.outlier;
        if state.is_ejected(now) {
            // It was sent before the ejection, which has already judged.
            return None;
        }
        if failure == Failure::GivenUp && !state.gives_up(now) {
            return None;
        }
        let row = match failure {
            Failure::Connect | Failure::Reset | Failure::Timeout | Failure::GivenUp => {
                let gap = millis::of(self.policy.interval);
                Some(state.streak.extend(gap, failure == Failure::Connect, now))
            }
            Failure::Status => {
                state.streak.end();
                None
            }
        };
        state.answers.count(true, now);
        let row = row.filter(|row| self.is_long(state, *row, key));
        let is_enough = row.is_some_and(|row| row.is_of_connects)
            || self.is_own_doing(backends, backend, row, now);
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
        let base = millis::of(self.policy.base_time);
        let times = u64::from(state.count_ejection(base, now));
        let longest = base.saturating_mul(times).min(millis::of(self.policy.max_time));
        // Up to a tenth shorter, so that backends which failed together don't return together.
        let remaining = longest - rng.u64(..=longest / 10);
        state.eject(failure, now.saturating_add(remaining));
        Some(Ejection { failure, remaining })
    }

    /// Whether there are enough failures in a row.
    fn is_long(&self, state: &OutlierState, row: Row, key: Key) -> bool {
        let least = self.policy.consecutive_failures.get();
        let has_keys = self.compares
            || least.min(keys::MOST) <= state.keys.insert(key, row.failures == 1)
            || row.is_of_connects;
        has_keys && least.min(streak::LONGEST) <= row.failures
    }

    /// Whether the backend's recent failures are reason to eject it, beside what its peers do. `row`
    /// is there if it is long enough.
    fn is_own_doing(
        &self,
        backends: &[Arc<Backend>],
        backend: &Backend,
        row: Option<Row>,
        now: Millis,
    ) -> bool {
        let state = &backend.live.outlier;
        if now < state.compared_until.load(Ordering::Relaxed) {
            return false;
        }
        let own = state.answers.recent(now);
        let is_much = self.compares && self.is_much(own);
        if row.is_none() && !is_much {
            return false;
        }
        let peers = || backends.iter().filter(|b| b.live.id != backend.live.id && b.is_open(now));
        if let Some(Row { failures, .. }) = row {
            let gap = millis::of(self.policy.interval);
            let is_well = |peer: &&Arc<Backend>| {
                peer.live.outlier.streak.failures(gap, now) < failures.div_ceil(2)
            };
            let rest = sum(peers().filter(is_well), now);
            if (Evidence { own, rest }).is_row_of_its_own(failures) {
                return true;
            }
        }
        let rest = sum(peers(), now);
        let tried: u64 = rest.iter().map(|slot| slot.answers).sum();
        // Who fails at once draws traffic away from its peers, so they need less to be heard.
        let is_evidence = u64::from(self.policy.min_requests.get()).div_ceil(4) <= tried;
        let is_worse = is_much && is_evidence && Evidence { own, rest }.is_clearly_worse();
        if !is_worse {
            self.pause(state, backends.len(), is_much && is_evidence, now);
        }
        is_worse
    }

    /// Whether a backend has been tried often enough, and failed often enough, to be compared.
    fn is_much(&self, own: Slots) -> bool {
        let own: Counts = own.into_iter().sum();
        u64::from(self.policy.min_requests.get()) <= own.answers
            && own.answers * u64::from(self.policy.failure_percent) <= own.failed * 100
    }

    /// Lets a backend be for a while, the longer the more peers there are to look at: a set which
    /// fails as a whole spends little on comparisons. Where peers have said too little to compare
    /// with, and after a row that is none of its own, they are looked at again sooner, and at once if
    /// they are few.
    fn pause(&self, state: &OutlierState, backends: usize, was_compared: bool, now: Millis) {
        if backends <= FEW && !was_compared {
            return;
        }
        let parts = backends.clamp(8, 1_024) as u64;
        let of = if was_compared { 1_024 } else { 16 * 1_024 };
        let pause = millis::of(self.policy.interval).saturating_mul(parts) / of;
        state.compared_until.store(now.saturating_add(pause), Ordering::Relaxed);
    }

    /// For each new table: has all backends' answers counted, and ends ejections, those that would
    /// end first, until no more are left than the policy allows. When the controller takes backends
    /// out that are in, the ejected ones may be all that is left.
    pub fn settle(&self, backends: &[Arc<Backend>], now: Millis) {
        let interval = millis::of(self.policy.interval);
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

/// What these backends did of late, slot by slot.
fn sum<'a>(backends: impl Iterator<Item = &'a Arc<Backend>>, now: Millis) -> Slots {
    let mut sum = Slots::default();
    for backend in backends {
        let recent = backend.live.outlier.answers.recent(now);
        sum.iter_mut().zip(recent).for_each(|(sum, slot)| *sum += slot);
    }
    sum
}

/// Usable backends, and how many of them are ejected.
fn census(backends: &[Arc<Backend>], now: Millis) -> (usize, usize) {
    backends.iter().filter(|b| b.usable).fold((0, 0), |(usable, ejected), b| {
        (usable + 1, ejected + usize::from(b.live.outlier.is_ejected(now)))
    })
}

#[cfg(test)]
mod tests;
