//! When to probe what: a pure queue of due times.
//!
//! # Invariants
//!
//! - A target is either waiting or in flight, so it has at most one probe at a time.
//! - At most [`CONCURRENT`] probes are in flight, those of targets that are gone included.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// So many probes at a time.
pub const CONCURRENT: usize = 64;

/// One backend under one health check. Never used again for another one, so a late outcome cannot
/// be taken for somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(u64);

#[derive(Debug, Default)]
pub struct Schedule {
    targets: HashMap<TargetId, Target>,
    waiting: BTreeSet<(Instant, TargetId)>,
    in_flight: usize,
    last_id: u64,
}

#[derive(Debug)]
struct Target {
    interval: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting { due: Instant },
    InFlight { since: Instant },
}

// === impl Schedule ===

impl Schedule {
    /// Its first probe is due at once.
    pub fn add(&mut self, interval: Duration, now: Instant) -> TargetId {
        self.last_id += 1;
        let id = TargetId(self.last_id);
        self.targets.insert(id, Target { interval, state: State::Waiting { due: now } });
        self.waiting.insert((now, id));
        id
    }

    pub fn remove(&mut self, id: TargetId) {
        if let Some(Target { state: State::Waiting { due }, .. }) = self.targets.remove(&id) {
            self.waiting.remove(&(due, id));
        }
    }

    /// Starts the next probe that is due, if there is one and room for it.
    pub fn start(&mut self, now: Instant) -> Option<TargetId> {
        if self.in_flight >= CONCURRENT {
            return None;
        }
        let (due, id) = self.waiting.first().copied().filter(|(due, _)| *due <= now)?;
        self.waiting.remove(&(due, id));
        self.in_flight += 1;
        if let Some(target) = self.targets.get_mut(&id) {
            target.state = State::InFlight { since: now };
        }
        Some(id)
    }

    /// A probe that was started is over. The next one follows an interval after the start of this
    /// one, give or take a tenth, so that the probes of many backends spread out.
    pub fn finish(&mut self, id: TargetId, now: Instant, rng: &mut fastrand::Rng) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(target) = self.targets.get_mut(&id)
            && let State::InFlight { since } = target.state
        {
            let due = (since + target.interval.mul_f64(0.9 + 0.2 * rng.f64())).max(now);
            target.state = State::Waiting { due };
            self.waiting.insert((due, id));
        }
    }

    /// When [`Schedule::start`] will have something, unless a probe ends before.
    pub fn next_due(&self) -> Option<Instant> {
        if self.in_flight >= CONCURRENT {
            return None;
        }
        self.waiting.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    struct Fixture {
        schedule: Schedule,
        rng: fastrand::Rng,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let now = lb_common::clock::now();
            Self { schedule: Schedule::default(), rng: fastrand::Rng::with_seed(1), now }
        }

        fn start_all(&mut self) -> Vec<TargetId> {
            std::iter::from_fn(|| self.schedule.start(self.now)).collect()
        }

        fn finish(&mut self, id: TargetId) {
            self.schedule.finish(id, self.now, &mut self.rng);
        }
    }

    #[test]
    fn the_first_probe_is_due_at_once_and_is_alone() {
        let mut f = Fixture::new();
        let id = f.schedule.add(INTERVAL, f.now);
        assert_eq!(f.start_all(), [id]);
        f.now += INTERVAL * 5;
        assert_eq!(f.start_all(), [], "the first one is still in flight");
    }

    #[test]
    fn probes_follow_each_other_an_interval_apart_give_or_take_a_tenth() {
        let mut f = Fixture::new();
        let id = f.schedule.add(INTERVAL, f.now);
        let mut gaps = Vec::new();
        for _ in 0..200 {
            assert_eq!(f.start_all(), [id]);
            let started = f.now;
            f.now += Duration::from_millis(300);
            f.finish(id);
            f.now = f.schedule.next_due().expect("it is waiting");
            gaps.push((f.now - started).as_secs_f64());
        }
        assert!(gaps.iter().all(|gap| (9.0..=11.0).contains(gap)), "{gaps:?}");
        let spread = gaps.iter().filter(|gap| **gap < 9.5 || **gap > 10.5).count();
        assert!(spread > 50, "half of them are that far out: {spread}");
    }

    #[test]
    fn a_probe_that_outlasts_its_interval_is_followed_at_once() {
        let mut f = Fixture::new();
        let id = f.schedule.add(INTERVAL, f.now);
        f.start_all();
        f.now += INTERVAL * 3;
        f.finish(id);
        assert_eq!(f.schedule.next_due(), Some(f.now));
    }

    #[test]
    fn no_more_than_the_limit_are_in_flight() {
        let mut f = Fixture::new();
        for _ in 0..CONCURRENT + 5 {
            f.schedule.add(INTERVAL, f.now);
        }
        let started = f.start_all();
        assert_eq!(started.len(), CONCURRENT);
        assert_eq!(f.schedule.next_due(), None, "nothing can start before one ends");
        f.finish(started[0]);
        assert_eq!(f.start_all().len(), 1);
    }

    #[test]
    fn a_target_that_went_is_not_probed_but_counts_until_its_probe_ends() {
        let mut f = Fixture::new();
        let waiting = f.schedule.add(INTERVAL, f.now);
        f.schedule.remove(waiting);
        assert_eq!((f.start_all(), f.schedule.next_due()), (vec![], None));

        let gone = f.schedule.add(INTERVAL, f.now);
        f.start_all();
        f.schedule.remove(gone);
        for _ in 0..CONCURRENT {
            f.schedule.add(INTERVAL, f.now);
        }
        assert_eq!(f.start_all().len(), CONCURRENT - 1);
        f.finish(gone);
        assert_eq!(f.start_all().len(), 1);
        assert_eq!(f.schedule.targets.len(), CONCURRENT, "it did not come back");
    }
}
