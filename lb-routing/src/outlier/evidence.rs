//! Whether a backend fails more than its peers, or only as much as chance would have it.
//!
//! If failures are due to requests, they fall on all backends alike: each of the set's failures is
//! one backend's with the share of the answers that this backend gave. So one bad URL, a bad client, or
//! an outage of what is behind all of them give no backend more than its part, save by chance. How
//! likely chance is has a bound (Chernoff's): of `n` failures, of which `e` are expected to be one
//! backend's, `f` or more are so by chance with a probability of at most
//! `exp(-n * D(f/n || e/n))`, where `D` is the relative entropy of two coins. The bound holds for few
//! failures as well as for many, while a test of two proportions by standard errors makes much of two
//! failures of one backend out of thirty. It holds, too, if the chance differs from failure to
//! failure. Source: W. Hoeffding, "Probability inequalities for sums of bounded random variables",
//! 1963, theorem 1.
//!
//! What is expected is taken from each slot of time by itself (as Mantel and Haenszel stratify): a
//! backend which has just come back, and has seen nothing but the outage of this second, is compared
//! with what its peers did in this second, and not with their good ten seconds before.

use super::answers::{Counts, Slots};

/// What chance brings about less often than this is not taken for chance.
const CHANCE: f64 = 1e-5;

/// A backend's answers of an interval beside those of its peers.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    pub own: Slots,
    pub rest: Slots,
}

// === impl Evidence ===

impl Evidence {
    /// Whether this backend fails clearly more than the rest of its set: so much that it matters (it
    /// has at least twice their share of failures, or at most half their share of good answers), and
    /// so much that it is not by chance.
    pub fn is_clearly_worse(&self) -> bool {
        let (mut own, mut all) = (Counts::default(), Counts::default());
        // Of its own, if all backends fail alike; and if it fails as its peers do.
        let (mut failed_alike, mut good_alike, mut failed_as_peers) = (0.0, 0.0, 0.0);
        for (of_own, of_rest) in self.own.iter().zip(&self.rest) {
            if of_own.answers == 0 || of_rest.answers == 0 {
                continue;
            }
            let of_all = *of_own + *of_rest;
            let share = of_own.answers as f64 / of_all.answers as f64;
            failed_alike += share * of_all.failed as f64;
            good_alike += share * of_all.good() as f64;
            failed_as_peers += of_own.answers as f64 * of_rest.failed_share();
            own += *of_own;
            all += of_all;
        }
        let (failed, good) = (own.failed as f64, own.good() as f64);
        let good_as_peers = own.answers as f64 - failed_as_peers;
        let matters = 2.0 * failed_as_peers <= failed || 2.0 * good <= good_as_peers;
        if failed <= failed_alike || !matters {
            return false;
        }
        let chance = chance_bound(failed, failed_alike, all.failed as f64).min(chance_bound(
            good,
            good_alike,
            all.good() as f64,
        ));
        chance <= CHANCE
    }

    /// Whether so many failures in a row are this backend's own doing. Its peers are those that are
    /// not failing in a row themselves.
    ///
    /// They must have answered well half as often as it failed: where nothing succeeds, nobody is to
    /// blame. And if they fail now and then, as they do when one URL always fails, a row must be longer
    /// than such failures make one by chance in this interval.
    pub fn is_row_of_its_own(&self, failures: u32) -> bool {
        let [own, rest] = [self.own, self.rest].map(|slots| slots.into_iter().sum::<Counts>());
        // Those of the row that were in the interval.
        let failed = own.failed.min(u64::from(failures));
        let is_known = 0 < rest.good() && failed <= 2 * rest.good();
        let length = i32::try_from(failures).unwrap_or(i32::MAX);
        let rows = rest.failed_share().powi(length) * (own.answers + rest.answers) as f64;
        is_known && rows <= CHANCE
    }
}

/// A bound for the probability that of `all`, each of which is one backend's by chance, as many or
/// as few are as `seen`, where `expected` would be usual.
fn chance_bound(seen: f64, expected: f64, all: f64) -> f64 {
    let part = |seen: f64, expected: f64| {
        if seen == 0.0 { 0.0 } else { seen * (seen / expected).ln() }
    };
    (-part(seen, expected) - part(all - seen, all - expected)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts((failed, answers): (u64, u64)) -> Counts {
        Counts { answers, failed }
    }

    fn evidence(own: &[(u64, u64)], rest: &[(u64, u64)]) -> Evidence {
        let slots = |list: &[(u64, u64)]| {
            let mut slots = Slots::default();
            slots.iter_mut().zip(list).for_each(|(slot, pair)| *slot = counts(*pair));
            slots
        };
        Evidence { own: slots(own), rest: slots(rest) }
    }

    #[test]
    fn worse_is_what_matters_and_is_not_by_chance() {
        #[rustfmt::skip]
        let cases = [
            // failed of answers, those of the rest, whether it is clearly worse
            ((20, 20),         (0, 20),           true),
            ((20, 20),         (20, 20),          false),
            ((0, 20),          (0, 20),           false),
            ((15, 30),         (0, 30),           false),
            ((17, 34),         (0, 34),           true),
            ((10, 20),         (0, 60),           true),
            ((10, 20),         (15, 60),          false), // twice as many, but of few
            ((500, 1_000),     (250, 1_000),      true),
            ((520, 1_000),     (490, 1_000),      false),
            ((52_000, 100_000), (48_000, 100_000), false), // surely more, but not much
            ((100, 100),       (200, 300),        true),  // three of four are bad
            ((90, 100),        (50, 100),         true),  // a tenth of its answers are good, not half
            ((75, 100),        (60, 100),         false),
            ((11, 110),        (0, 220),          true),  // one in ten
            ((10, 100),        (0, 200),          false), // 1 in 3 to the power of 10
            ((17, 170),        (0, 170),          true),
            ((10, 100),        (4, 200),          false), // chance may have it
            ((100, 1_000),     (20, 2_000),       true),
            ((100, 1_000),     (120, 2_000),      false), // not twice as many
            ((2, 20),          (0, 580),          false), // five standard errors, but only two
            ((4, 20),          (0, 580),          true),
            ((50, 50),         (0, 0),            false), // nobody to compare with
        ];
        for (own, rest, expected) in cases {
            let actual = evidence(&[own], &[rest]).is_clearly_worse();
            assert_eq!(actual, expected, "{own:?} against {rest:?}");
        }
    }

    /// Its peers were well for ten seconds, and fail as it does since it is back.
    #[test]
    fn a_backend_that_came_back_into_an_outage_is_no_worse_than_those_that_were_there_before() {
        let outage = (40, 50);
        let before = (0, 50);
        let rest = [before, before, before, outage];
        assert!(!evidence(&[(0, 0), (0, 0), (0, 0), outage], &rest).is_clearly_worse());
        assert!(evidence(&[outage, outage, outage, outage], &rest).is_clearly_worse());
    }

    #[test]
    fn a_row_needs_peers_that_do_well_and_is_longer_where_they_do_not() {
        #[rustfmt::skip]
        let cases = [
            // failures, failed of answers in the interval, those of the rest, whether it is enough
            (5, (5, 5),         (0, 5),         true),
            (5, (5, 5),         (0, 3),         true),
            (5, (5, 5),         (0, 2),         false), // they have hardly said anything
            (5, (2, 2),         (0, 1),         true),  // most of the row is longer ago
            (1, (1, 1),         (0, 0),         false),
            (5, (5, 5),         (5, 5),         false),
            (5, (5, 1_000),     (0, 3_000),     true),
            (5, (5, 1_000),     (300, 3_000),   false), // each tenth fails: chance makes rows of 5
            (10, (100, 1_000),  (300, 3_000),   true),
            (8, (100, 1_000),   (300, 3_000),   false),
            (20, (50, 100),     (50, 100),      false),
            (25, (50, 100),     (50, 100),      true),
        ];
        for (failures, own, rest, expected) in cases {
            let actual = evidence(&[own], &[rest]).is_row_of_its_own(failures);
            assert_eq!(actual, expected, "{failures} in a row, {own:?} against {rest:?}");
        }
    }

    /// The bound is one: it is never below the probability, summed term by term.
    #[test]
    fn chance_is_bounded_from_above() {
        for (all, share) in [(5u32, 0.1), (20, 0.5), (40, 0.33), (100, 0.03)] {
            let all_of = f64::from(all);
            let mut term = (1.0f64 - share).powi(i32::try_from(all).expect("it is small"));
            let mut terms = vec![term];
            for k in 0..all {
                term *= f64::from(all - k) / f64::from(k + 1) * share / (1.0 - share);
                terms.push(term);
            }
            for seen in 0..=all {
                let (seen_of, expected) = (f64::from(seen), share * all_of);
                let tail: f64 = match expected <= seen_of {
                    true => terms[seen as usize..].iter().sum(),
                    false => terms[..=seen as usize].iter().sum(),
                };
                let bound = chance_bound(seen_of, expected, all_of);
                assert!(tail <= bound * (1.0 + 1e-9), "{seen} of {all}: {tail} > {bound}");
            }
        }
    }
}
