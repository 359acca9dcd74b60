//! A store that fails: since when, why, and when it is tried again.
//!
//! Pure. Nothing is written meanwhile but what somebody waits for; what else came to be written follows
//! once the store works.

use std::time::{Duration, Instant};

/// How long after one attempt the next one follows, and so how soon it is noticed that the store works.
pub const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Outage(Option<Failing>);

#[derive(Debug)]
struct Failing {
    why: String,
    since: Instant,
    /// None while an attempt is under way.
    next: Option<Instant>,
}

// === impl Outage ===

impl Outage {
    pub fn why(&self) -> Option<&str> {
        self.0.as_ref().map(|failing| &*failing.why)
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The store failed at something. Returns whether it worked until then.
    pub fn failed(&mut self, why: String, now: Instant) -> bool {
        if let Some(failing) = &mut self.0 {
            failing.why = why;
            return false;
        }
        self.0 = Some(Failing { why, since: now, next: Some(now + AGAIN) });
        true
    }

    /// When it is to be tried.
    pub fn due(&self) -> Option<Instant> {
        self.0.as_ref()?.next
    }

    /// Whether it is to be tried now; exactly one [`Outage::tried`] follows.
    pub fn start(&mut self, now: Instant) -> bool {
        let Some(failing) = &mut self.0 else { return false };
        failing.next.take_if(|next| *next <= now).is_some()
    }

    /// It failed again.
    pub fn tried(&mut self, now: Instant) {
        if let Some(failing) = &mut self.0 {
            failing.next = Some(now + AGAIN);
        }
    }

    /// The store did something. Returns for how long it had not, if it had not.
    pub fn worked(&mut self, now: Instant) -> Option<Duration> {
        self.0.take().map(|failing| now - failing.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_is_tried_at_a_steady_pace_until_it_works() {
        let began = lb_common::clock::now();
        let mut outage = Outage::default();
        assert!(outage.failed("full".into(), began));
        assert!(!outage.failed("full still".into(), began), "it is known already");
        assert_eq!(outage.why(), Some("full still"));
        assert!(!outage.start(began));
        let first = outage.due().expect("it is to be tried");
        assert!(outage.start(first));
        assert!(!outage.start(first + AGAIN), "one attempt at a time");
        outage.tried(first + AGAIN);
        assert_eq!(outage.due(), Some(first + 2 * AGAIN));
        assert_eq!(outage.worked(first + 2 * AGAIN), Some(3 * AGAIN));
        assert_eq!((outage.worked(first), outage.due(), outage.why()), (None, None, None));
    }
}
