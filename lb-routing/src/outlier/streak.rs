//! Failures in a row.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::millis::Millis;

/// How many there were, whether all of them were connects, and when the last one was: in one word,
/// so that they belong together.
#[derive(Debug, Default)]
pub struct Streak(AtomicU64);

/// A streak as one of its failures found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub failures: u32,
    /// No request had a part in any of them.
    pub is_of_connects: bool,
}

/// The low bits count failures, one says whether requests had a part in them, and the others are
/// milliseconds.
const COUNT_BITS: u32 = 19;
const BY_REQUESTS: u64 = 1 << COUNT_BITS;
const TIME_SHIFT: u32 = COUNT_BITS + 1;

/// A streak is not counted further.
pub const LONGEST: u32 = (1 << COUNT_BITS) - 1;

// === impl Streak ===

impl Streak {
    /// Returns the row with this failure. One that comes later than `longest_gap` after the last
    /// begins anew.
    pub fn extend(&self, longest_gap: Millis, is_connect: bool, now: Millis) -> Row {
        let row = |streak: u64| {
            let failures = failures(streak, longest_gap, now);
            let is_of_connects = is_connect && (failures == 0 || streak & BY_REQUESTS == 0);
            Row { failures: (failures + 1).min(LONGEST), is_of_connects }
        };
        let extended = |streak| {
            let Row { failures, is_of_connects } = row(streak);
            let by_requests = if is_of_connects { 0 } else { BY_REQUESTS };
            Some(now << TIME_SHIFT | by_requests | u64::from(failures))
        };
        let former = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, extended);
        row(former.unwrap_or_default())
    }

    /// How many failures it has, if the last one is no longer ago than `longest_gap`.
    pub fn failures(&self, longest_gap: Millis, now: Millis) -> u32 {
        failures(self.0.load(Ordering::Relaxed), longest_gap, now)
    }

    /// Costs a load where there is none.
    #[inline]
    pub fn end(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

fn failures(streak: u64, longest_gap: Millis, now: Millis) -> u32 {
    let gap = now.saturating_sub(streak >> TIME_SHIFT);
    if longest_gap < gap { 0 } else { streak as u32 & LONGEST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_goes_on_until_it_ends_or_pauses_for_too_long() {
        let streak = Streak::default();
        let extend = |now| streak.extend(10_000, false, now).failures;
        assert_eq!([5, 6, 10_006, 20_006].map(extend), [1, 2, 3, 4]);
        assert_eq!(streak.failures(10_000, 30_006), 4);
        assert_eq!(streak.failures(10_000, 30_007), 0);
        assert_eq!(extend(30_007), 1, "the last one is too long ago");
        // Workers' clocks differ a little.
        assert_eq!(extend(30_000), 2);
        streak.end();
        assert_eq!([30_001, 30_001].map(extend), [1, 2]);
        streak.0.store(30_001 << TIME_SHIFT | u64::from(LONGEST), Ordering::Relaxed);
        assert_eq!(extend(30_002), LONGEST);
    }

    #[test]
    fn a_row_is_of_connects_until_a_request_had_a_part_in_it() {
        let streak = Streak::default();
        let extend = |is_connect, now| streak.extend(10, is_connect, now).is_of_connects;
        assert!(extend(true, 1) && extend(true, 2));
        assert!(!extend(false, 3) && !extend(true, 4), "one is enough");
        assert!(extend(true, 15), "it begins anew");
        streak.end();
        assert!(!extend(false, 16));
        streak.end();
        assert!(extend(true, 17));
    }
}
