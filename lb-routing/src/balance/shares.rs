//! Draws of backends by weight, in pairs.
//!
//! All backends' weights side by side make a line, and a point of it is somebody's. A pair is two
//! points at a random distance from each other, which is at least the heaviest weight, so that they
//! are not the same backend's. Both points are anywhere on the line alike: each backend is in as
//! many pairs as it weighs, which drawing again until they differ would not have. Only one that
//! has more than half of all weight makes a pair with itself, because it must.

use std::sync::Arc;

use crate::backend::Backend;

#[derive(Debug)]
pub struct Shares {
    /// Indices of backends, each with the end of its part of the line.
    ends: Box<[(u64, u32)]>,
    /// The length of the line.
    total: u64,
    /// Between the points of a pair, in both directions.
    least_distance: u64,
}

/// A point of the line.
#[derive(Clone, Copy, Debug)]
pub struct Point(u64);

// === impl Shares ===

impl Shares {
    /// Of the usable backends.
    pub fn new(backends: &[Arc<Backend>]) -> Self {
        let mut total = 0;
        let usable = (0u32..).zip(backends).filter(|(_, backend)| backend.usable);
        let ends = usable.map(|(i, backend)| {
            total += u64::from(backend.weight);
            (total, i)
        });
        let ends: Box<[_]> = ends.collect();
        let heaviest = backends.iter().filter(|b| b.usable).map(|b| u64::from(b.weight)).max();
        let least_distance = heaviest.unwrap_or_default().min(total / 2);
        Self { ends, total, least_distance }
    }

    /// How many backends there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Indices of the backends.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.ends.iter().map(|(_, i)| *i as usize)
    }

    /// There must be a backend.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Point {
        Point(rng.u64(..self.total))
    }

    /// The other point of a pair.
    pub fn draw_other(&self, point: Point, rng: &mut fastrand::Rng) -> Point {
        let distance = rng.u64(self.least_distance..=self.total - self.least_distance);
        Point((point.0 + distance) % self.total)
    }

    /// Whose the point is.
    pub fn at(&self, point: Point) -> usize {
        let position = self.ends.partition_point(|(end, _)| *end <= point.0);
        self.ends[position].1 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture;

    /// How often each backend is the first and the second of a pair, and how often both.
    fn pairs(shares: &Shares, n: usize, seed: u64) -> (Vec<u32>, Vec<u32>, u32) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut first, mut second, mut same) = (vec![0; n], vec![0; n], 0);
        for _ in 0..100_000 {
            let point = shares.draw(&mut rng);
            let other = shares.draw_other(point, &mut rng);
            let (a, b) = (shares.at(point), shares.at(other));
            first[a] += 1;
            second[b] += 1;
            same += u32::from(a == b);
        }
        (first, second, same)
    }

    #[test]
    fn each_of_a_pair_is_drawn_by_weight_and_they_differ() {
        for weights in [&[1, 2, 3, 4][..], &[5, 5], &[1; 9], &[7, 1, 1, 2, 3]] {
            let shares = Shares::new(&fixture::backends(weights));
            let (first, second, same) = pairs(&shares, weights.len(), 1);
            assert_eq!(same, 0, "{weights:?}");
            let total: u32 = weights.iter().sum();
            for (i, weight) in weights.iter().enumerate() {
                let expected = 100_000 * weight / total;
                assert!(first[i].abs_diff(expected) < 600, "{weights:?}: {first:?}");
                assert!(second[i].abs_diff(expected) < 600, "{weights:?}: {second:?}");
            }
        }
    }

    /// It has .8 of both: at least .6 of the pairs are it alone.
    #[test]
    fn what_has_most_of_the_weight_makes_pairs_with_itself() {
        let shares = Shares::new(&fixture::backends(&[1, 8, 1]));
        let (first, second, same) = pairs(&shares, 3, 2);
        assert!(first[1].abs_diff(80_000) < 600 && second[1].abs_diff(80_000) < 600);
        assert!(same.abs_diff(60_000) < 600, "{same}");
    }

    #[test]
    fn any_two_of_equal_weight_make_a_pair() {
        let shares = Shares::new(&fixture::backends(&[2; 10]));
        let mut rng = fastrand::Rng::with_seed(3);
        let mut pairs = std::collections::BTreeSet::new();
        for _ in 0..5_000 {
            let point = shares.draw(&mut rng);
            pairs.insert((shares.at(point), shares.at(shares.draw_other(point, &mut rng))));
        }
        assert_eq!(pairs.len(), 90);
    }

    #[test]
    fn what_is_not_usable_has_no_part() {
        let backends = fixture::with_usable(&[1; 6], |i| i % 2 == 1);
        let shares = Shares::new(&backends);
        assert_eq!((shares.len(), shares.iter().collect::<Vec<_>>()), (3, vec![1, 3, 5]));
        let (first, _, _) = pairs(&shares, 6, 4);
        assert!([0, 2, 4].iter().all(|i| first[*i] == 0) && first[5] > 30_000, "{first:?}");
    }
}
