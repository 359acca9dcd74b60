//! Slow start: a backend that others of its set have a lead on gets its share little by little, because
//! its caches are cold, its code is not compiled yet, its connections are to be opened.
//!
//! Its weight counts by the part of the window that it has been usable for, from a tenth on. Those that
//! a set begins with, when it is new or the proxy is, count as a whole from the start: they are equally
//! cold, or warm already. For the same reason, where none is warm (the set was down, or its backends
//! had to prove themselves first) a part counts beside that of the one that has been usable for longest.
//! Source: HAProxy's `slowstart` (linear, not at the start), and Envoy's
//! `slow_start_config` (a tenth at least).
//!
//! No schedule is built anew for it. What is drawn at random or has its turn is kept with the
//! probability that its part says, and otherwise another one is drawn, which makes shares go by
//! weight times part; where all are looked at, that product is their weight. Consistent hashing is
//! exempt: keys that move to others and back would cost more than they spare.

use std::{sync::Arc, time::Duration};

use crate::{
    backend::{ALWAYS, Backend},
    millis::{self, Millis},
};

/// What a pick has to know of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlowStart {
    /// 0 where there is none.
    window: Millis,
    /// Since when one of the set has been usable, the one that has been for longest.
    longest: Millis,
}

/// A part of the window is so many of it.
pub const WHOLE: u32 = 1_024;
const LEAST: u32 = WHOLE / 10;

// === impl SlowStart ===

impl SlowStart {
    pub const OFF: Self = Self { window: 0, longest: 0 };

    /// Of a set with these backends.
    pub fn new(window: Option<Duration>, backends: &[Arc<Backend>]) -> Self {
        let Some(window) = window else { return Self::OFF };
        let usable = backends.iter().filter(|backend| backend.usable);
        let longest = usable.map(|backend| backend.live.usable_since()).min();
        Self { window: millis::of(window), longest: longest.unwrap_or_default() }
    }

    #[inline]
    pub fn is_off(&self) -> bool {
        self.window == 0
    }

    /// How much of its weight counts, of [`WHOLE`].
    pub fn part(&self, backend: &Backend, now: Millis) -> u32 {
        // An ejection that has ended is in the past, and one that has not is not picked from.
        let since = backend.live.usable_since().max(backend.live.outlier.ejected_until());
        let own = self.of_window(since, now);
        if own == WHOLE {
            return WHOLE;
        }
        (own * WHOLE / self.of_window(self.longest, now)).min(WHOLE)
    }

    fn of_window(&self, since: Millis, now: Millis) -> u32 {
        let elapsed = now.saturating_sub(since);
        if since == ALWAYS || self.window <= elapsed {
            return WHOLE;
        }
        let part = u128::from(elapsed) * u128::from(WHOLE) / u128::from(self.window);
        u32::try_from(part).unwrap_or(WHOLE).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::spec::{Balance, Hash, HashAlgorithm, HashFunction, HashKey};

    use super::*;
    use crate::{
        backend::InFlight,
        balance::{self, PickContext, fixture},
    };

    const WINDOW: Duration = Duration::from_secs(100);
    /// When the first ones have long been warm.
    const LATER: Millis = 1_000_000;

    /// Backends that a set began with, and as the last one one that came at once.
    fn with_a_new_one(weights: &[u32]) -> Vec<Arc<Backend>> {
        let backends = fixture::backends(weights);
        let (new, warm) = backends.split_last().expect("there is one");
        warm.iter().for_each(|backend| backend.note(true, LATER));
        new.note(false, LATER);
        backends
    }

    fn hash(algorithm: HashAlgorithm) -> Balance {
        let (key, function) = (HashKey::Path, HashFunction::Xxh3);
        Balance::ConsistentHash(Hash { key, algorithm, function, table_size: 65_537 })
    }

    /// How often each one is picked of 100,000 times.
    fn shares(
        policy: &Balance,
        backends: &[Arc<Backend>],
        window: Option<Duration>,
        now: Millis,
    ) -> Vec<u32> {
        let mut rng = fastrand::Rng::with_seed(now);
        let picker = balance::build(policy, backends, None, &mut rng);
        let slow_start = SlowStart::new(window, backends);
        let mut counts = vec![0; backends.len()];
        for _ in 0..100_000 {
            let hash = rng.u64(..);
            let cx = PickContext::new(now, &mut rng, &[], hash);
            let mut cx = PickContext { slow_start, ..cx };
            counts[picker.pick(backends, &mut cx).expect("all are open")] += 1;
        }
        counts
    }

    /// Within five standard deviations.
    #[track_caller]
    fn check(counts: &[u32], weights: &[f64], case: &str) {
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let share = weight / total;
            let bound = 5.0 * (100_000.0 * share * (1.0 - share)).sqrt() + 1.0;
            let off = (f64::from(*count) - 100_000.0 * share).abs();
            assert!(off <= bound, "{case}: {counts:?}, not as {weights:?}");
        }
    }

    const POLICIES: [Balance; 3] =
        [Balance::RoundRobin, Balance::Random, Balance::LeastConnections];

    #[test]
    fn the_share_of_a_new_backend_grows_from_a_tenth_to_all_of_it() {
        for policy in POLICIES {
            for weights in [&[1, 1][..], &[1, 1, 1], &[1, 2, 3], &[1, 9], &[1; 12], &[2; 40]] {
                for (percent, part) in [(0, 0.1), (5, 0.1), (25, 0.25), (50, 0.5), (100, 1.0)] {
                    let backends = with_a_new_one(weights);
                    let now = LATER + percent * 1_000;
                    let counts = shares(&policy, &backends, Some(WINDOW), now);
                    let mut expected: Vec<_> = weights.iter().map(|w| f64::from(*w)).collect();
                    // Parts are rounded down to 1024ths.
                    let part = (part * f64::from(WHOLE)).floor() / f64::from(WHOLE);
                    *expected.last_mut().expect("there is one") *= part;
                    check(&counts, &expected, &format!("{policy:?} at {percent}%"));
                }
            }
        }
    }

    #[test]
    fn without_it_a_new_backend_has_its_share_at_once() {
        for policy in POLICIES {
            let counts = shares(&policy, &with_a_new_one(&[1, 1, 1]), None, LATER);
            check(&counts, &[1.0; 3], &format!("{policy:?}"));
        }
    }

    #[test]
    fn where_all_are_equally_cold_nobody_is_held_back() {
        for policy in POLICIES {
            let backends = fixture::backends(&[1, 2, 3]);
            backends.iter().for_each(|backend| backend.note(false, LATER));
            for now in [LATER, LATER + 50_000] {
                let counts = shares(&policy, &backends, Some(WINDOW), now);
                check(&counts, &[1.0, 2.0, 3.0], &format!("{policy:?}, {now}"));
            }
            // One is half warm, and the other one a fifth.
            let backends = fixture::backends(&[1, 1]);
            backends[0].note(false, LATER);
            backends[1].note(false, LATER + 30_000);
            let counts = shares(&policy, &backends, Some(WINDOW), LATER + 50_000);
            check(&counts, &[1.0, 0.4], &format!("{policy:?}, half warm"));
        }
    }

    /// Not at random instead, as where turns are passed over.
    #[test]
    fn where_all_are_equally_cold_turns_are_exact() {
        for is_first in [true, false] {
            let backends = fixture::backends(&[1, 1, 2]);
            backends.iter().for_each(|backend| backend.note(is_first, LATER));
            let counts = shares(&Balance::RoundRobin, &backends, Some(WINDOW), LATER);
            assert_eq!(counts, [25_000, 25_000, 50_000], "{is_first}");
        }
    }

    /// For as long as it runs, it does not know for how long its backends have been up.
    #[test]
    fn a_proxy_that_has_just_begun_takes_what_it_begins_with_for_warm() {
        let backends = fixture::backends(&[1, 1]);
        backends[0].note(true, 10);
        backends[1].note(false, 20);
        let counts = shares(&Balance::Random, &backends, Some(WINDOW), 30);
        check(&counts, &[1.0, 0.0996], "10 ms later");
    }

    #[test]
    fn a_backend_that_is_back_from_ejection_or_healthy_again_begins_anew() {
        for policy in POLICIES {
            let backends = fixture::backends(&[1; 3]);
            backends.iter().for_each(|backend| backend.note(true, 0));
            fixture::eject(&backends[1], LATER);
            let counts = shares(&policy, &backends, Some(WINDOW), LATER);
            check(&counts, &[1.0, 0.0996, 1.0], &format!("{policy:?}, ejected"));

            let down = fixture::next_table(&backends, |i| i != 2);
            down.iter().for_each(|backend| backend.note(false, LATER + 200_000));
            let up = fixture::next_table(&backends, |_| true);
            up.iter().for_each(|backend| backend.note(false, LATER + 300_000));
            let counts = shares(&policy, &up, Some(WINDOW), LATER + 350_000);
            check(&counts, &[1.0, 1.0, 0.5], &format!("{policy:?}, healthy again"));
        }
    }

    /// The warm ones were tried by this request, or are out.
    #[test]
    fn a_cold_backend_serves_when_no_warm_one_can() {
        let policies = POLICIES.into_iter().chain([hash(HashAlgorithm::Maglev)]);
        for policy in policies {
            for n in [2, 12] {
                let backends = with_a_new_one(&vec![1; n]);
                let slow_start = SlowStart::new(Some(WINDOW), &backends);
                let tried: Vec<_> = backends[..n - 1].iter().map(|b| b.live.id).collect();
                for seed in 0..100 {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let picker = balance::build(&policy, &backends, None, &mut rng);
                    let cx = PickContext::new(LATER, &mut rng, &tried, seed);
                    let mut cx = PickContext { slow_start, ..cx };
                    assert_eq!(picker.pick(&backends, &mut cx), Some(n - 1), "{policy:?}, {seed}");
                }
            }
        }
    }

    /// It is idle, which otherwise makes it the first choice until it has as many as the others.
    #[test]
    fn least_connections_gives_a_cold_backend_a_tenth_of_what_others_have_in_flight() {
        let backends = with_a_new_one(&[1; 3]);
        let load = |i: usize, n| (0..n).map(|_| InFlight::start(&backends[i].live)).collect();
        let _load: Vec<Vec<_>> = vec![load(0, 15), load(1, 15)];
        let mut cold: Vec<_> = load(2, 1);
        let picks = || shares(&Balance::LeastConnections, &backends, Some(WINDOW), LATER);
        assert_eq!(picks()[2], 0, "2/0.1 is more than 16");
        cold.clear();
        assert_eq!(picks()[2], 100_000, "1/0.1 is less");
    }

    #[test]
    fn consistent_hashing_knows_no_slow_start() {
        for algorithm in [HashAlgorithm::Maglev, HashAlgorithm::Rendezvous] {
            let backends = with_a_new_one(&[1, 1, 1]);
            let policy = hash(algorithm);
            let with = shares(&policy, &backends, Some(WINDOW), LATER);
            assert_eq!(with, shares(&policy, &backends, None, LATER));
            assert!(with[2] > 30_000, "{with:?}");
        }
    }

    #[test]
    fn an_empty_set_and_one_without_a_usable_backend_are_no_trouble() {
        for backends in [vec![], fixture::with_usable(&[1, 1], |_| false)] {
            backends.iter().for_each(|backend| backend.note(false, 5));
            assert!(!SlowStart::new(Some(WINDOW), &backends).is_off());
        }
        assert!(SlowStart::new(None, &[]).is_off());
    }
}
