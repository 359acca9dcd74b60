//! The buckets in which proxies count how long answers took, the same everywhere, so that counts of
//! several proxies add up.

use std::time::Duration;

/// Upper bounds in microseconds; one more bucket takes the rest.
pub const BOUNDS: [u64; 20] = [
    100, 250, 500, 1_000, 1_500, 2_500, 4_000, 6_000, 10_000, 15_000, 25_000, 50_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

pub const BUCKETS: usize = BOUNDS.len() + 1;

/// [`BOUNDS`] in seconds, as metrics have them.
pub fn bounds() -> impl Iterator<Item = f64> {
    BOUNDS.into_iter().map(|micros| Duration::from_micros(micros).as_secs_f64())
}

/// The bucket of one measurement.
pub fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    BOUNDS.partition_point(|bound| *bound < micros)
}

/// The duration that a share `q` (0 to 1) of the counted ones does not exceed, `None` if nothing
/// was counted. Linear within a bucket, as Prometheus' `histogram_quantile` has it; beyond the last
/// bound it is the last bound.
pub fn quantile(counts: &[u64], q: f64) -> Option<Duration> {
    let total = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
    let rank = q * total as f64;
    let mut below: u64 = 0;
    for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let upper = *BOUNDS.get(i).unwrap_or(&BOUNDS[BOUNDS.len() - 1]) as f64;
        let lower = if i == 0 { 0 } else { BOUNDS[i.min(BOUNDS.len()) - 1] } as f64;
        if below.saturating_add(*count) as f64 >= rank {
            let within = (rank - below as f64) / *count as f64;
            let micros = lower + (upper - lower) * within.clamp(0.0, 1.0);
            return Some(Duration::from_micros(micros as u64));
        }
        below = below.saturating_add(*count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_micros(100)), 0);
        assert_eq!(bucket(Duration::from_micros(101)), 1);
        assert_eq!(bucket(Duration::MAX), BOUNDS.len());
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[0; BUCKETS], 0.5), None);
        let mut counts = [0; BUCKETS];
        counts[3] = 90; // up to 1 ms
        counts[12] = 10; // 50 to 100 ms
        assert_eq!(quantile(&counts, 0.5).map(|d| d.as_micros()), Some(777));
        assert_eq!(quantile(&counts, 0.99).map(|d| d.as_millis()), Some(95));
        counts[BUCKETS - 1] = 1_000;
        assert_eq!(quantile(&counts, 0.99), Some(Duration::from_secs(30)));
        assert_eq!(quantile(&[0, u64::MAX, u64::MAX], 0.1).map(|d| d.as_micros()), Some(115));
    }
}
