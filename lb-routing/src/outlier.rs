//! Ejection: what this proxy does by itself about a backend that keeps failing under it.
//!
//! So many failures in a row take a backend out of the set, for a time that grows with each
//! ejection that soon follows another. Afterwards it starts with a clean count, as in Envoy. It
//! needs no probe and no controller, and acts within a few requests. Source: Envoy's outlier
//! detection by consecutive 5xx.
//!
//! # Invariants
//!
//! - An ejection never brings the ejected share of a set's usable backends above `max_percent`,
//!   save that one of two or more may always go, and the only one never: better a failing backend
//!   than none. Only 100% lets the last one go.
//! - A success costs a relaxed load; so does the question whether a backend is ejected.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use lb_common::spec::OutlierEjection;

use crate::backend::{Backend, Millis};

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
    /// In a row.
    failures: AtomicU32,
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
    pub fn record_success(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn eject(&self, failure: Failure, until: Millis) {
        let until = until.min(u64::MAX >> FAILURE_BITS);
        let ejected = until << FAILURE_BITS | failure.encode();
        self.ejected.store(ejected, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
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
        Self { policy: policy.clone(), deciding }
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
        let failures = state.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < self.policy.consecutive_failures.get() || self.policy.max_percent == 0 {
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
            state.failures.store(0, Ordering::Relaxed);
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

    /// Ends ejections, those that would end first, until no more are left than the policy allows.
    ///
    /// For each new table: when the controller takes backends out that are in, the ejected ones may
    /// be all that is left.
    pub fn settle(&self, backends: &[Arc<Backend>], now: Millis) {
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
mod tests {
    use std::{num::NonZeroU32, thread};

    use super::*;
    use crate::balance::fixture;

    fn ejector(max_percent: u32) -> Ejector {
        let policy = OutlierEjection {
            consecutive_failures: NonZeroU32::new(5).expect("not 0"),
            base_time: Duration::from_secs(10),
            max_time: Duration::from_secs(25),
            max_percent,
        };
        Ejector::new(&policy, None)
    }

    /// Fails a backend until it is ejected, or five times.
    fn fail(ejector: &Ejector, backends: &[Arc<Backend>], i: usize, now: Millis) -> Option<Millis> {
        let mut rng = fastrand::Rng::with_seed(now);
        let mut fail =
            || ejector.record_failure(backends, &backends[i], Failure::Connect, now, &mut rng);
        (0..5).find_map(|_| fail()).map(|ejection| ejection.remaining)
    }

    fn ejected(backends: &[Arc<Backend>], now: Millis) -> Vec<usize> {
        (0..backends.len()).filter(|i| backends[*i].live.outlier.is_ejected(now)).collect()
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_starts_over() {
        let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
        let state = &backends[0].live.outlier;
        let mut rng = fastrand::Rng::with_seed(1);
        let mut fail =
            || ejector.record_failure(&backends, &backends[0], Failure::Status, 1_000, &mut rng);

        for _ in 0..4 {
            assert_eq!(fail(), None);
        }
        state.record_success();
        for _ in 0..4 {
            assert_eq!(fail(), None);
        }
        let ejection = fail().expect("the fifth in a row");
        assert!((9_000..=10_000).contains(&ejection.remaining), "{ejection:?}");
        assert_eq!(ejection.failure.to_string(), "5xx");
        assert_eq!(state.ejection(1_000), Some(ejection));

        let end = 1_000 + ejection.remaining;
        assert_eq!(state.ejection(end - 1).map(|e| e.remaining), Some(1));
        assert!(state.is_ejected(end - 1) && !state.is_ejected(end));
        assert_eq!(state.ejection(end), None);
    }

    #[test]
    fn each_ejection_that_follows_another_is_longer_up_to_the_maximum() {
        let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
        let mut now = 5;
        for longest in [10_000, 20_000, 25_000, 25_000] {
            let time = fail(&ejector, &backends, 0, now).expect("it may be ejected");
            assert!((longest * 9 / 10..=longest).contains(&time), "{time} of {longest}");
            now += time;
        }
    }

    #[test]
    fn time_spent_in_the_set_is_forgiving() {
        let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
        let mut now = 5;
        for _ in 0..2 {
            now += fail(&ejector, &backends, 0, now).expect("it may be ejected");
        }
        // Two in a row; one is forgiven after 10 s.
        now += 10_500;
        let time = fail(&ejector, &backends, 0, now).expect("it may be ejected");
        assert!((18_000..=20_000).contains(&time), "{time}");
        now += time + 1_000_000;
        let time = fail(&ejector, &backends, 0, now).expect("it may be ejected");
        assert!((9_000..=10_000).contains(&time), "{time}");
    }

    #[test]
    fn failures_of_requests_from_before_the_ejection_do_not_count() {
        let (ejector, backends) = (ejector(50), fixture::backends(&[1, 1]));
        let time = fail(&ejector, &backends, 0, 0).expect("it may be ejected");
        assert_eq!(fail(&ejector, &backends, 0, 1), None, "it is out already");
        let rng = &mut fastrand::Rng::with_seed(1);
        let after = ejector.record_failure(&backends, &backends[0], Failure::Reset, time, rng);
        assert_eq!(after, None, "the count starts at zero");
    }

    #[test]
    fn the_ejected_share_is_bounded() {
        #[rustfmt::skip]
        let cases = [
            // usable, percent, how many of them go when all fail
            (1, 100, 0),
            (2, 0,   0),
            (2, 10,  1),
            (2, 50,  1),
            (2, 100, 2),
            (10, 50, 5),
            (10, 99, 9),
            (5, 100, 5),
        ];
        for (n, percent, expected) in cases {
            let (ejector, backends) = (ejector(percent), fixture::backends(&vec![1; n]));
            for _ in 0..3 {
                for i in 0..n {
                    fail(&ejector, &backends, i, 0);
                }
            }
            assert_eq!(ejected(&backends, 1).len(), expected, "{n} at {percent}%");
        }
    }

    #[test]
    fn backends_that_are_out_anyway_do_not_raise_the_limit() {
        let (ejector, backends) = (ejector(50), fixture::with_usable(&[1; 10], |i| i < 4));
        for i in 0..4 {
            fail(&ejector, &backends, i, 0);
        }
        assert_eq!(ejected(&backends, 1), [0, 1], "half of four");
    }

    /// Nor one backend twice, which would count as two in a row.
    #[test]
    fn workers_do_not_eject_past_the_limit_together() {
        for round in 0..100 {
            let (ejector, backends) = (ejector(50), fixture::backends(&[1; 8]));
            let worker = |worker: usize| {
                let fail = |turn| fail(&ejector, &backends, (worker / 2 + turn) % 8, round);
                (0..8).filter_map(fail).count()
            };
            let ejections: usize = thread::scope(|scope| {
                let workers: Vec<_> = (0..8).map(|i| scope.spawn(move || worker(i))).collect();
                workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
            });
            let out = ejected(&backends, round + 1).len();
            assert!((1..=4).contains(&out), "{out} of 8, round {round}");
            assert_eq!(ejections, out, "round {round}");
        }
    }

    /// Two of four are ejected, and then the controller takes the other two out.
    #[test]
    fn a_new_table_does_not_leave_a_set_with_ejected_backends_only() {
        let (ejector, backends) = (ejector(50), fixture::backends(&[1; 4]));
        fail(&ejector, &backends, 1, 0).expect("one of four may go");
        fail(&ejector, &backends, 2, 5_000).expect("two of four may go");

        let next = fixture::next_table(&backends, |i| i == 1 || i == 2);
        Ejector::new(&ejector.policy, Some(&ejector)).settle(&next, 5_001);
        assert_eq!(ejected(&next, 5_001), [2], "the one that would return first is back");
        ejector.settle(&backends, 5_001);
        assert_eq!(ejected(&backends, 5_001), [2], "what the limit allows stays out");
    }
}
