//! Choosing a backend: one file an algorithm, all behind [`Picker`].
//!
//! A picker is built with the table, from that table's backends, and is given the same list at
//! each pick. It never blocks, awaits or reads a clock: fix the seed and the choice is fixed.
//!
//! | picker | state | a pick costs | a backend that is out |
//! |---|---|---|---|
//! | [`round_robin`] | one cursor for all workers | O(1) | its turns are drawn by weight |
//! | [`random`] | none | O(1) | drawn again |
//! | [`least_connections`] | in-flight counts of the backends | two draws by weight, O(log n), or a scan of up to 8 | not a candidate |
//! | [`consistent_hash`] | none | Maglev O(1), rendezvous O(n) | its keys go to their next in rank |
//!
//! In a set that starts slowly, all but the last give backends that came later less of their share:
//! see [`slow_start`].

use std::sync::Arc;

use lb_common::spec::Balance;

use crate::{backend::Backend, millis::Millis};

pub mod consistent_hash;
#[cfg(test)]
pub(crate) mod fixture;
pub mod hash;
pub mod least_connections;
pub mod maglev;
pub mod random;
pub mod rendezvous;
pub mod round_robin;
pub mod schedule;
mod shares;
pub mod slow_start;

use self::{
    consistent_hash::ConsistentHash,
    least_connections::LeastConnections,
    random::Random,
    round_robin::RoundRobin,
    slow_start::{SlowStart, WHOLE},
};

/// Chooses one backend of a backend set.
pub trait Picker: Send + Sync + std::fmt::Debug {
    /// An index into `backends`, or `None` if none of them is open and untried. Empty lists are an
    /// answer, too.
    fn pick(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize>;

    /// What the picker of the next table may take over.
    fn carry(&self) -> Carry<'_> {
        Carry::Nothing
    }
}

/// What outlives a picker.
#[derive(Clone, Copy, Debug)]
pub enum Carry<'a> {
    Nothing,
    /// The position, so that an update does not begin the schedule again.
    RoundRobin(&'a RoundRobin),
    /// The table, because it takes milliseconds to fill and most updates don't change it.
    Maglev(&'a Arc<maglev::Table>),
}

/// Everything that a pick may depend on besides the backends.
#[derive(Debug)]
pub struct PickContext<'a> {
    pub now: Millis,
    pub rng: &'a mut fastrand::Rng,
    /// The [`crate::backend::Live::id`]s that earlier attempts of this request used. The caller
    /// clears this before it gives up, so that a backend set of one can still be retried.
    pub tried: &'a [u64],
    /// The hash of what consistent hashing goes by; other pickers do not look at it.
    pub hash: u64,
    /// Off, unless the backend set says otherwise.
    pub slow_start: SlowStart,
}

/// Draws one of the items that it is offered, each with a chance in proportion to its weight.
///
/// One pass, no memory, and no neighbour that inherits the share of an item that was left out, as
/// a scan from a random start would have it. Source: M. T. Chao, "A general purpose unequal
/// probability sampling plan", Biometrika 69, 1982.
#[derive(Debug, Default)]
struct Draw {
    total: u64,
    drawn: Option<usize>,
}

/// The picker for `backends`. `former` is the picker of the same backend set in the table before.
pub fn build(
    spec: &Balance,
    backends: &[Arc<Backend>],
    former: Option<&dyn Picker>,
    rng: &mut fastrand::Rng,
) -> Box<dyn Picker> {
    let carry = former.map_or(Carry::Nothing, Picker::carry);
    match spec {
        Balance::RoundRobin => Box::new(RoundRobin::new(backends, carry, rng)),
        Balance::LeastConnections => Box::new(LeastConnections::new(backends)),
        Balance::ConsistentHash(hash) => Box::new(ConsistentHash::new(hash, backends, carry)),
        Balance::Random => Box::new(Random::new(backends)),
    }
}

// === impl PickContext ===

impl<'a> PickContext<'a> {
    /// For a backend set that does not start slowly, or that will say so itself.
    pub fn new(now: Millis, rng: &'a mut fastrand::Rng, tried: &'a [u64], hash: u64) -> Self {
        Self { now, rng, tried, hash, slow_start: SlowStart::OFF }
    }
}

impl PickContext<'_> {
    /// Whether this pick may choose the backend.
    pub fn admits(&self, backend: &Backend) -> bool {
        backend.is_open(self.now) && !self.tried.contains(&backend.live.id)
    }

    /// Whether it chooses the backend that was drawn by its full weight, rather than to draw again.
    pub fn keeps(&mut self, backend: &Backend) -> bool {
        self.admits(backend) && (self.slow_start.is_off() || self.draws_part_of(backend))
    }

    /// Out of line, because few sets start slowly.
    #[cold]
    fn draws_part_of(&mut self, backend: &Backend) -> bool {
        let part = self.slow_start.part(backend, self.now);
        part == WHOLE || self.rng.u32(..WHOLE) < part
    }

    /// Its weight beside others of its set, where all of them are looked at.
    pub fn weight_of(&self, backend: &Backend) -> u32 {
        if self.slow_start.is_off() {
            return backend.weight;
        }
        // Weights are below 65536 and parts below 1025.
        backend.weight.saturating_mul(self.slow_start.part(backend, self.now))
    }
}

// === impl Draw ===

impl Draw {
    /// Weights are above zero.
    fn offer(&mut self, item: usize, weight: u32, rng: &mut fastrand::Rng) {
        self.total += u64::from(weight);
        if rng.u64(..self.total) < u64::from(weight) {
            self.drawn = Some(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::spec::{Hash, HashAlgorithm, HashFunction, HashKey};

    use super::*;

    fn policies() -> Vec<Balance> {
        let hash = |algorithm| {
            let (key, function) = (HashKey::Path, HashFunction::Xxh3);
            Balance::ConsistentHash(Hash { key, algorithm, function, table_size: 65_537 })
        };
        vec![
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::Random,
            hash(HashAlgorithm::Maglev),
            hash(HashAlgorithm::Rendezvous),
        ]
    }

    fn built(policy: &Balance, backends: &[Arc<Backend>]) -> Box<dyn Picker> {
        build(policy, backends, None, &mut fastrand::Rng::with_seed(1))
    }

    /// Picks with a hash drawn from the seed.
    fn pick(
        picker: &dyn Picker,
        backends: &[Arc<Backend>],
        tried: &[u64],
        seed: u64,
    ) -> Option<usize> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let hash = rng.u64(..);
        picker.pick(backends, &mut PickContext::new(0, &mut rng, tried, hash))
    }

    #[test]
    fn no_policy_finds_a_backend_where_there_is_none() {
        for policy in policies() {
            let empty = built(&policy, &[]);
            assert_eq!(pick(&*empty, &[], &[], 1), None, "{policy:?}, empty");
            for n in [1, 3, 20] {
                let down = fixture::with_usable(&vec![1; n], |_| false);
                let picked = pick(&*built(&policy, &down), &down, &[], 1);
                assert_eq!(picked, None, "{policy:?}, all {n} unusable");

                let tried = fixture::backends(&vec![1; n]);
                let ids: Vec<_> = tried.iter().map(|b| b.live.id).collect();
                let picked = pick(&*built(&policy, &tried), &tried, &ids, 1);
                assert_eq!(picked, None, "{policy:?}, all {n} tried");
            }
        }
    }

    /// Few draws hit it, so this takes the paths that end in a scan.
    #[test]
    fn every_policy_finds_the_only_backend_left() {
        for policy in policies() {
            for n in [2, 3, 8, 9, 50] {
                let backends = fixture::backends(&vec![3; n]);
                let picker = built(&policy, &backends);
                for left in [0, n / 2, n - 1] {
                    let others = backends.iter().enumerate().filter(|(i, _)| *i != left);
                    let tried: Vec<_> = others.map(|(_, b)| b.live.id).collect();
                    let picked = pick(&*picker, &backends, &tried, 1);
                    assert_eq!(picked, Some(left), "{policy:?}, {left} of {n}");
                }
            }
        }
    }

    #[test]
    fn no_policy_picks_an_ejected_or_unusable_backend() {
        for policy in policies() {
            let backends = fixture::with_usable(&[1; 12], |i| i % 3 != 0);
            fixture::eject(&backends[1], 1_000);
            let picker = built(&policy, &backends);
            for seed in 0..500 {
                let i = pick(&*picker, &backends, &[], seed).expect("seven are open");
                assert!(!i.is_multiple_of(3) && i != 1, "{policy:?} picked {i}, seed {seed}");
            }
        }
    }

    #[test]
    fn a_draw_goes_by_weight() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = [0u32; 3];
        for _ in 0..60_000 {
            let mut draw = Draw::default();
            for (item, weight) in [(0, 1), (1, 2), (2, 3)] {
                draw.offer(item, weight, &mut rng);
            }
            counts[draw.drawn.expect("three were offered")] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000, 20_000, 30_000]) {
            assert!(count.abs_diff(expected) < 500, "{counts:?}");
        }
        assert_eq!(Draw::default().drawn, None);
    }
}
