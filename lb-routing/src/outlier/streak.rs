//! Failures in a row.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::millis::Millis;

/// How many there were, and when the last one was: in one word, so that they belong together.
#[derive(Debug, Default)]
pub struct Streak(AtomicU64);

/// The low bits count failures; the others are milliseconds.
const COUNT_BITS: u32 = 20;

/// A streak is not counted further.
pub const LONGEST: u32 = (1 << COUNT_BITS) - 1;

// === impl Streak ===

impl Streak {
    /// Returns how many failures it has, this one included. One that comes later than `longest_gap`
    /// after the last begins anew.
    pub fn extend(&self, longest_gap: Millis, now: Millis) -> u32 {
        let count = |streak: u64| {
            let gap = now.saturating_sub(streak >> COUNT_BITS);
            let failures = if longest_gap < gap { 0 } else { streak as u32 & LONGEST };
            (failures + 1).min(LONGEST)
        };
        let extended = |streak| Some(now << COUNT_BITS | u64::from(count(streak)));
        let former = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, extended);
        count(former.unwrap_or_default())
    }

    /// Costs a load where there is none.
    #[inline]
    pub fn end(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_goes_on_until_it_ends_or_pauses_for_too_long() {
        let streak = Streak::default();
        let extend = |now| streak.extend(10_000, now);
        assert_eq!([5, 6, 10_006, 20_006].map(extend), [1, 2, 3, 4]);
        assert_eq!(extend(30_007), 1, "the last one is too long ago");
        // Workers' clocks differ a little.
        assert_eq!(extend(30_000), 2);
        streak.end();
        assert_eq!([30_001, 30_001].map(extend), [1, 2]);
        streak.0.store(30_001 << COUNT_BITS | u64::from(LONGEST), Ordering::Relaxed);
        assert_eq!(extend(30_002), LONGEST);
    }
}
