//! Weighted random: draws a turn of the [`Schedule`] that round robin walks.
//!
//! No shared state at all, and proxies can't fall into step. What it costs is balance: with `m`
//! requests over `n` backends the busiest one has about `sqrt(2 m ln n / n)` more than its share.

use std::sync::Arc;

use super::{PickContext, Picker, schedule::Schedule};
use crate::backend::Backend;

#[derive(Debug)]
pub struct Random {
    schedule: Schedule,
}

// === impl Random ===

impl Random {
    pub fn new(backends: &[Arc<Backend>]) -> Self {
        Self { schedule: Schedule::new(backends) }
    }
}

impl Picker for Random {
    fn pick(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize> {
        self.schedule.draw(backends, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture;

    #[test]
    fn shares_go_by_weight() {
        let backends = fixture::backends(&[1, 2, 7]);
        let shares = fixture::shares(&Random::new(&backends), &backends, 100_000, 11);
        for (share, expected) in shares.iter().zip([10_000, 20_000, 70_000]) {
            assert!(share.abs_diff(expected) < 600, "{shares:?}");
        }
    }

    #[test]
    fn picks_are_not_in_turn() {
        let backends = fixture::backends(&[1; 4]);
        let picker = Random::new(&backends);
        let mut rng = fastrand::Rng::with_seed(2);
        let order: Vec<_> =
            (0..4_000).map(|_| fixture::pick(&picker, &backends, &mut rng)).collect();
        let repeats = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!((900..1_100).contains(&repeats), "a quarter of them: {repeats}");
    }
}
