//! Rendezvous hashing: each key ranks all backends, and the first admitted one gets it.
//!
//! Taking a backend out moves its own keys and no others, each to the next of the key's own
//! ranking, so they spread over all that are left; the ranking is the order of retries, too. A pick
//! is O(n), with a logarithm for each backend where weights differ.
//!
//! With weights, a backend's score is `-w / ln(u)`, which makes its share exactly `w / Σw`.
//! Source: D. Thaler, C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996; J. Resch,
//! "New Hashing Algorithms for Data Storage", 2015, for the weights. `ln` may differ in its last
//! bit between machines, which matters only to a key whose best two scores agree in 15 digits.

use super::hash;

/// Orders the members for each key.
#[derive(Debug)]
pub struct Rendezvous {
    /// In the order of their names: of equal scores, the first one wins on every proxy.
    members: Box<[Member]>,
    /// The order of the scores is then that of the hashes.
    equal_weights: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Where it is in the list of backends.
    pub index: usize,
    /// Of its name.
    pub hash: u64,
    pub weight: u32,
}

// === impl Rendezvous ===

impl Rendezvous {
    pub fn new(members: Box<[Member]>) -> Self {
        let equal_weights = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { members, equal_weights }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The index of the first in the key's ranking that `admits` takes.
    pub fn first(&self, key: u64, admits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for member in &self.members {
            let score = self.score(member, key);
            // Asking last, because few members are ever ahead.
            if best.is_none_or(|(highest, _)| score > highest) && admits(member.index) {
                best = Some((score, member.index));
            }
        }
        best.map(|(_, index)| index)
    }

    fn score(&self, member: &Member, key: u64) -> u64 {
        let hash = hash::spread(key ^ member.hash);
        if self.equal_weights {
            return hash;
        }
        // 52 bits and a half are exact, and neither 0 nor 1.
        let u = ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        // Positive floats are in the order of their bits.
        (f64::from(member.weight) / -u.ln()).to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Rendezvous {
        let member = |(index, weight): (usize, &u32)| {
            let hash = hash::spread(index as u64 + 1_000);
            Member { index, hash, weight: *weight }
        };
        Rendezvous::new(weights.iter().enumerate().map(member).collect())
    }

    #[test]
    fn keys_are_shared_by_weight() {
        let (members, mut rng) = (members(&[1, 2, 5]), fastrand::Rng::with_seed(1));
        let mut counts = [0u32; 3];
        for _ in 0..80_000 {
            counts[members.first(rng.u64(..), |_| true).expect("all are admitted")] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000, 20_000, 50_000]) {
            assert!(count.abs_diff(expected) < 500, "{counts:?}");
        }
    }

    /// Going from equal weights to unequal ones only moves keys to what became heavier.
    #[test]
    fn a_weight_that_grows_takes_keys_from_the_others_only() {
        let (before, after) = (members(&[2, 2, 2, 2]), members(&[2, 2, 3, 2]));
        let mut rng = fastrand::Rng::with_seed(2);
        let mut moved = 0u32;
        for _ in 0..20_000 {
            let key = rng.u64(..);
            let (was, is) = (before.first(key, |_| true), after.first(key, |_| true));
            if was != is {
                assert_eq!(is, Some(2), "key {key}");
                moved += 1;
            }
        }
        // From 1/4 to 3/9 of the keys.
        assert!(moved.abs_diff(20_000 / 12) < 150, "{moved}");
    }

    #[test]
    fn the_keys_of_one_that_is_out_spread_over_all_others() {
        let (members, mut rng) = (members(&[1; 5]), fastrand::Rng::with_seed(3));
        let mut counts = [0u32; 5];
        for _ in 0..100_000 {
            let key = rng.u64(..);
            if members.first(key, |_| true) == Some(2) {
                counts[members.first(key, |i| i != 2).expect("four are admitted")] += 1;
            }
        }
        for i in [0, 1, 3, 4] {
            assert!(counts[i].abs_diff(5_000) < 300, "{counts:?}");
        }
    }
}
