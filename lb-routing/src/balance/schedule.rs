//! In which order weighted backends take turns, worked out once a table.
//!
//! Earliest deadline first: of `n` backends, number `i` with weight `w` is due at `(i/n + k) / w`
//! for `k` in `0..w`. Each comes exactly `w` times a cycle and as evenly spread as the others
//! allow; the `i/n` staggers the first turns, so that equal weights alternate in the order listed,
//! and a cycle does not open with every heavy backend at once. Deadlines are compared exactly, as
//! fractions. Source of the idea: gRFC A58 and Envoy's EDF scheduler, which keep a heap and pay
//! O(log n) and a lock a pick; here a pick reads one array element.

use std::sync::Arc;

use super::{Draw, PickContext};
use crate::backend::Backend;

/// A cycle is not longer than this, plus the number of backends: the weights are rounded to fit.
const MAX_LEN: u64 = 65_536;

/// Weighted draws before a scan of all: with half the backends out, one pick in 16 scans.
const DRAWS: usize = 4;

/// One cycle: indices into the list of backends, of the usable ones only.
#[derive(Debug)]
pub struct Schedule(Box<[u32]>);

/// One turn: it is due at `at / weight`, in units of `1/n`.
struct Turn {
    at: u64,
    weight: u64,
    index: u32,
}

// === impl Schedule ===

impl Schedule {
    pub fn new(backends: &[Arc<Backend>]) -> Self {
        let usable = (0u32..).zip(backends).filter(|(_, backend)| backend.usable);
        let (indices, mut weights): (Vec<u32>, Vec<u64>) =
            usable.map(|(i, backend)| (i, u64::from(backend.weight))).unzip();
        reduce(&mut weights);

        let n = weights.len() as u64;
        let mut turns: Vec<Turn> = indices
            .iter()
            .zip(&weights)
            .zip(0u64..)
            .flat_map(|((&index, &weight), i)| {
                (0..weight).map(move |k| Turn { at: i + k * n, weight, index })
            })
            .collect();
        // Each backend's turns are in order already, which makes this a merge of runs. Only different
        // weights can tie; the lighter one goes first, as its turns are further apart.
        turns.sort_by(|a, b| {
            let due = u128::from(a.at) * u128::from(b.weight);
            due.cmp(&(u128::from(b.at) * u128::from(a.weight))).then(a.weight.cmp(&b.weight))
        });
        Self(turns.into_iter().map(|turn| turn.index).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The backend whose turn it is. `position` is below [`Self::len`].
    pub fn at(&self, position: usize) -> usize {
        self.0[position] as usize
    }

    /// An admitted backend, drawn by weight: what is out leaves its share to all others, not to its
    /// neighbour.
    pub fn draw(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let i = self.at(cx.rng.usize(..self.len()));
            if cx.keeps(&backends[i]) {
                return Some(i);
            }
        }
        let mut draw = Draw::default();
        for (i, backend) in backends.iter().enumerate() {
            if cx.admits(backend) {
                draw.offer(i, cx.weight_of(backend), cx.rng);
            }
        }
        draw.drawn
    }
}

/// Smaller weights of the same proportions; of about the same ones, if they are too large.
fn reduce(weights: &mut [u64]) {
    let divisor = weights.iter().copied().fold(0, gcd);
    for weight in &mut *weights {
        *weight /= divisor;
    }
    let sum: u64 = weights.iter().sum();
    if sum > MAX_LEN {
        for weight in weights {
            *weight = (*weight * MAX_LEN / sum).max(1);
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture;

    #[track_caller]
    fn check(weights: &[u32], expected: &[u32]) {
        assert_eq!(*Schedule::new(&fixture::backends(weights)).0, *expected, "{weights:?}");
    }

    #[test]
    fn turns_are_spread_and_equal_weights_are_in_the_order_listed() {
        check(&[], &[]);
        check(&[7], &[0]);
        check(&[1, 1, 1], &[0, 1, 2]);
        check(&[20, 20, 20], &[0, 1, 2]);
        check(&[1, 2, 1], &[0, 1, 2, 1]);
        check(&[5, 1, 1], &[0, 0, 1, 0, 0, 2, 0]);
    }

    #[test]
    fn each_backend_comes_as_often_as_it_weighs() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let weights: Vec<u32> = (0..rng.usize(2..20)).map(|_| rng.u32(1..40)).collect();
            let schedule = Schedule::new(&fixture::backends(&weights));
            let divisor = weights.iter().fold(0, |d, w| gcd(d, u64::from(*w)));
            for (i, weight) in weights.iter().enumerate() {
                let turns = (0..schedule.len()).filter(|p| schedule.at(*p) == i).count();
                assert_eq!(turns as u64 * divisor, u64::from(*weight), "{i} of {weights:?}");
            }
        }
    }

    /// Over any stretch of a cycle, a backend is less than two turns from its due share.
    #[test]
    fn no_backend_runs_ahead_or_falls_behind() {
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..100 {
            let weights: Vec<u32> = (0..rng.usize(2..12)).map(|_| rng.u32(1..40)).collect();
            let schedule = Schedule::new(&fixture::backends(&weights));
            let sum = f64::from(weights.iter().sum::<u32>());
            for (i, weight) in weights.iter().enumerate() {
                let mut turns = 0.0;
                for position in 0..schedule.len() {
                    turns += f64::from(u8::from(schedule.at(position) == i));
                    let due = f64::from(*weight) / sum * (position + 1) as f64;
                    assert!((turns - due).abs() < 2.0, "{i} of {weights:?} at {position}");
                }
            }
        }
    }

    /// Around the end of the cycle, too.
    #[test]
    fn a_heavy_backend_is_interrupted() {
        let schedule = Schedule::new(&fixture::backends(&[5, 1, 1]));
        let twice: Vec<usize> = (0..14).map(|p| schedule.at(p % 7)).collect();
        let longest = twice.chunk_by(|a, b| a == b).map(<[_]>::len).max();
        assert!(longest <= Some(3), "{twice:?}");
    }

    #[test]
    fn huge_weights_are_rounded_and_nobody_loses_all() {
        let schedule = Schedule::new(&fixture::backends(&[65_535, 65_534, 1]));
        let turns = |i| (0..schedule.len()).filter(|p| schedule.at(*p) == i).count();
        assert!(schedule.len() <= 65_536 + 3);
        assert_eq!(turns(2), 1);
        assert!(turns(0).abs_diff(turns(1)) <= 1, "{} and {}", turns(0), turns(1));
    }

    /// Every other backend is out; what they leave is shared by all that are in.
    #[test]
    fn a_draw_leaves_no_one_with_a_neighbours_share() {
        let backends = fixture::backends(&[1; 10]);
        let schedule = Schedule::new(&backends);
        let tried: Vec<_> = [1, 2, 3, 4, 6].iter().map(|i| backends[*i].live.id).collect();
        let mut rng = fastrand::Rng::with_seed(5);
        let mut counts = [0u32; 10];
        for _ in 0..50_000 {
            let mut cx = PickContext::new(0, &mut rng, &tried, 0);
            counts[schedule.draw(&backends, &mut cx).expect("five are open")] += 1;
        }
        for i in [0, 5, 7, 8, 9] {
            assert!(counts[i].abs_diff(10_000) < 450, "{counts:?}");
        }
    }
}
