//! Exponential backoff with full jitter: wait `n` is uniform in `0..min(base × 2ⁿ, max)`.
//!
//! Full jitter spreads a crowd that failed together better than a jittered fixed wait does. Source:
//! M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

/// Pure: the random source is an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// How long to wait before retry `n`, counted from 0.
    pub fn delay(&self, n: u32, rng: &mut fastrand::Rng) -> Duration {
        self.ceiling(n).mul_f64(rng.f64())
    }

    fn ceiling(&self, n: u32) -> Duration {
        self.base.saturating_mul(2u32.saturating_pow(n)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) };

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings = [0, 1, 2, 3, 4, 40].map(|n| BACKOFF.ceiling(n).as_millis());
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn delays_fill_the_range_from_zero_to_the_ceiling() {
        let mut rng = fastrand::Rng::with_seed(1);
        let delays: Vec<_> = (0..1000).map(|_| BACKOFF.delay(1, &mut rng)).collect();
        let below = |ms| delays.iter().filter(|d| **d < Duration::from_millis(ms)).count();
        assert_eq!(below(200), 1000);
        assert!((450..550).contains(&below(100)), "half of them: {}", below(100));
    }
}
