//! How a backend has answered of late, and how often it failed to.
//!
//! An interval is counted in four slots, which take turns. One word has a slot's number, its answers
//! and those of them that were failures, so that they always belong together. Evidence is never
//! older than the interval, and covers at least three quarters of it.
//!
//! An answer costs two relaxed loads, a division and a relaxed add. The add is to a word that all
//! workers write, as they do the count of attempts in flight beside it.

use std::{
    iter::Sum,
    ops::{Add, AddAssign},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::millis::Millis;

/// One backend's, shared by all workers.
#[derive(Debug, Default)]
pub struct Answers {
    /// Of a slot. 0 counts nothing.
    length: AtomicU64,
    slots: [AtomicU64; SLOTS as usize],
}

/// Attempts that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those without an answer as well.
    pub answers: u64,
    /// Of them.
    pub failed: u64,
}

/// Those of an interval, each slot's at a place of its own, which is the same for all backends.
pub type Slots = [Counts; SLOTS as usize];

const SLOTS: u64 = 4;

/// From the low end, a slot has its answers, its failures, and the low bits of its number.
const COUNT_BITS: u32 = 22;
const MOST: u64 = (1 << COUNT_BITS) - 1;
const ANSWER: u64 = 1;
const FAILURE: u64 = 1 << COUNT_BITS;
const COUNTS: u64 = (1 << (2 * COUNT_BITS)) - 1;

// === impl Answers ===

impl Answers {
    /// From now on, counts for this interval; not at all, if it is 0.
    pub fn set_interval(&self, interval: Millis) {
        let length = interval.div_ceil(SLOTS);
        if self.length.load(Ordering::Relaxed) != length {
            self.length.store(length, Ordering::Relaxed);
            self.clear();
        }
    }

    #[inline]
    pub fn count(&self, is_failed: bool, now: Millis) {
        let length = self.length.load(Ordering::Relaxed);
        if length == 0 {
            return;
        }
        let number = now / length;
        let slot = &self.slots[(number % SLOTS) as usize];
        let counts = slot.load(Ordering::Relaxed);
        let answer = ANSWER + if is_failed { FAILURE } else { 0 };
        if !is_of(counts, number) {
            begin(slot, counts, number, answer);
        } else if counts & MOST < MOST / 2 {
            slot.fetch_add(answer, Ordering::Relaxed);
        } else {
            halve(slot, counts);
        }
    }

    /// What was counted in the interval that ends now.
    pub fn recent(&self, now: Millis) -> Slots {
        let mut recent = Slots::default();
        let Some(last) = now.checked_div(self.length.load(Ordering::Relaxed)) else {
            return recent;
        };
        for number in last.saturating_sub(SLOTS - 1)..=last {
            let place = (number % SLOTS) as usize;
            let counts = self.slots[place].load(Ordering::Relaxed);
            if is_of(counts, number) {
                let failed = counts >> COUNT_BITS & MOST;
                recent[place] = Counts { answers: counts & MOST, failed };
            }
        }
        recent
    }

    pub fn clear(&self) {
        for slot in &self.slots {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether a slot's word is that of the slot with this number, and not of one before.
fn is_of(counts: u64, number: u64) -> bool {
    counts & !COUNTS == number << (2 * COUNT_BITS)
}

/// The first answer of a slot takes it from an older one. Out of line, because it is rare.
#[cold]
fn begin(slot: &AtomicU64, former: u64, number: u64, answer: u64) {
    let first = number << (2 * COUNT_BITS) | answer;
    let begun = slot.compare_exchange(former, first, Ordering::Relaxed, Ordering::Relaxed);
    if begun.is_err() {
        // Another worker's answer was the first.
        slot.fetch_add(answer, Ordering::Relaxed);
    }
}

/// Makes room in a slot that is full: what matters is the share. The answer that found it full is
/// one of millions.
#[cold]
fn halve(slot: &AtomicU64, counts: u64) {
    let half = (counts & COUNTS) >> 1 & !(1 << (COUNT_BITS - 1));
    let halved = counts & !COUNTS | half;
    // If it has changed, the next answer does it.
    let _ = slot.compare_exchange(counts, halved, Ordering::Relaxed, Ordering::Relaxed);
}

// === impl Counts ===

impl Counts {
    pub fn good(self) -> u64 {
        self.answers.saturating_sub(self.failed)
    }

    /// 0 where there are none.
    pub fn failed_share(self) -> f64 {
        if self.answers == 0 { 0.0 } else { self.failed as f64 / self.answers as f64 }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { answers: self.answers + other.answers, failed: self.failed + other.failed }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn answers(interval: Millis) -> Answers {
        let answers = Answers::default();
        answers.set_interval(interval);
        answers
    }

    #[track_caller]
    fn check(answers: &Answers, now: Millis, expected: (u64, u64)) {
        let Counts { answers, failed } = answers.recent(now).into_iter().sum();
        assert_eq!((answers, failed), expected, "at {now}");
    }

    #[test]
    fn answers_count_until_their_slot_is_an_interval_old() {
        let answers = answers(1_000);
        check(&answers, 0, (0, 0));
        for (now, is_failed) in [(0, true), (249, false), (250, false), (900, true)] {
            answers.count(is_failed, now);
        }
        check(&answers, 900, (4, 2));
        check(&answers, 999, (4, 2));
        check(&answers, 1_000, (2, 1));
        check(&answers, 1_250, (1, 1));
        check(&answers, 1_750, (0, 0));
        // The fifth slot is in the first one's place.
        answers.count(false, 1_100);
        check(&answers, 1_100, (3, 1));
    }

    #[test]
    fn without_an_interval_nothing_is_counted_and_with_another_it_begins_anew() {
        let answers = Answers::default();
        answers.count(true, 5);
        check(&answers, 5, (0, 0));
        answers.set_interval(1_000);
        answers.count(true, 5);
        answers.set_interval(1_000);
        check(&answers, 5, (1, 1));
        answers.set_interval(2_000);
        check(&answers, 5, (0, 0));
        answers.set_interval(1);
        answers.count(true, 5);
        check(&answers, 5, (1, 1));
    }

    #[test]
    fn a_slot_that_is_full_keeps_its_share() {
        let answers = answers(1_000);
        for i in 0..5_000_000u64 {
            answers.count(i % 3 == 0, 3_000_000);
        }
        let Counts { answers, failed } = answers.recent(3_000_000).into_iter().sum();
        assert!(answers > 1_000_000, "{answers}");
        assert!((failed * 3).abs_diff(answers) < 100, "{failed} of {answers}");
    }

    #[test]
    fn of_two_answers_that_begin_a_slot_at_once_both_count() {
        let answers = answers(1_000);
        for _ in 0..2 {
            begin(&answers.slots[3], 0, 7, ANSWER + FAILURE);
        }
        check(&answers, 7 * 250, (2, 2));
    }

    #[test]
    fn no_answer_of_several_workers_is_lost() {
        let answers = answers(1_000);
        let count = || (0..10_000).for_each(|i| answers.count(i % 10 == 0, i / 20));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(count);
            }
        });
        check(&answers, 500, (40_000, 4_000));
    }
}
