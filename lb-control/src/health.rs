//! Active health checking as a pure state machine: outcomes in, transitions out.
//!
//! No clock and no sockets. [`schedule`] decides when to probe, [`probe`] does the I/O on the threads of
//! [`prober`] and by what [`asking`] says, this module decides what an outcome means, [`monitor`] keeps one
//! tracker a backend, and [`cap`] says how much of that is acted upon.

pub mod asking;
pub mod cap;
pub mod monitor;
pub mod probe;
pub mod prober;
pub mod schedule;
pub mod tls;

use lb_common::{health::Health, spec::HealthCheck};

/// What one probe concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail,
}

/// What one outcome did to the health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The outcome agrees with what was decided before.
    Unchanged,
    /// The outcome contradicts the health, but the streak is still too short.
    Pending,
    /// Decided for the first time or anew.
    Decided(Health),
}

/// Turns probe outcomes into health.
///
/// One integer holds both the health and the streak, so the two cannot disagree:
///
/// ```text
///   0 ........ rise-1 | rise ........ rise+fall-1
///        unhealthy    |        healthy
/// ```
///
/// Crossing `rise` upwards jumps to the top and crossing it downwards drops to zero, so leaving a
/// confirmed state always takes a full streak.
#[derive(Clone, Debug)]
pub struct HealthTracker {
    // Invariant: level <= rise + fall - 1.
    level: u16,
    rise: u16,
    fall: u16,
    /// Some probe was conclusive, now or before a restart.
    decided: bool,
}

// === impl HealthTracker ===

impl HealthTracker {
    /// Starts healthy, and what fails before it was ever seen well may not have started yet: that takes
    /// a full streak, too. Or unhealthy, if the check wants proof first.
    pub fn new(check: &HealthCheck) -> Self {
        let rise = u16::from(check.healthy_after.get());
        let fall = u16::from(check.unhealthy_after.get());
        let level = if check.prove_first { 0 } else { rise + fall - 1 };
        Self { level, rise, fall, decided: false }
    }

    /// Goes on from what was decided earlier; leaving that takes a full streak.
    pub fn resume(check: &HealthCheck, decided: Option<Health>) -> Self {
        let new = Self::new(check);
        match decided {
            None => new,
            Some(Health::Healthy) => Self { level: new.rise + new.fall - 1, decided: true, ..new },
            Some(Health::Unhealthy) => Self { level: 0, decided: true, ..new },
        }
    }

    /// What the checks say; how far that is acted upon, [`cap`] says.
    pub fn health(&self) -> Health {
        if self.rise <= self.level { Health::Healthy } else { Health::Unhealthy }
    }

    /// `None` before the first conclusive outcome.
    pub fn decided(&self) -> Option<Health> {
        self.decided.then(|| self.health())
    }

    pub fn observe(&mut self, outcome: Outcome) -> Transition {
        let was = self.decided();
        self.level = match outcome {
            Outcome::Pass if self.rise <= self.level + 1 => self.rise + self.fall - 1,
            Outcome::Pass => self.level + 1,
            Outcome::Fail if self.level <= self.rise => 0,
            Outcome::Fail => self.level - 1,
        };
        let is = self.health();
        if (outcome == Outcome::Pass) != (is == Health::Healthy) {
            return Transition::Pending;
        }
        self.decided = true;
        if was == Some(is) { Transition::Unchanged } else { Transition::Decided(is) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{num::NonZeroU8, time::Duration};

    use lb_common::spec::{CheckAddress, Probe};

    use super::*;

    pub(crate) fn check_of(rise: u8, fall: u8) -> HealthCheck {
        let nonzero = |n| NonZeroU8::new(n).expect("thresholds are positive");
        HealthCheck {
            probe: Probe::Tcp { send: String::new(), expect: String::new() },
            goes_to: CheckAddress::OfTraffic,
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(500),
            healthy_after: nonzero(rise),
            unhealthy_after: nonzero(fall),
            prove_first: false,
            max_unhealthy_percent: 50,
        }
    }

    /// Feeds `probes` (`+` pass, `-` fail) and compares the health after each: `H` or `u`, and
    /// `h` or `U` while it is not decided.
    #[track_caller]
    fn check(mut tracker: HealthTracker, probes: &str, expected: &str) {
        let actual: String = probes
            .chars()
            .map(|probe| {
                tracker.observe(match probe {
                    '+' => Outcome::Pass,
                    '-' => Outcome::Fail,
                    other => panic!("not a probe: {other:?}"),
                });
                match (tracker.health(), tracker.decided()) {
                    (Health::Healthy, Some(_)) => 'H',
                    (Health::Healthy, None) => 'h',
                    (Health::Unhealthy, Some(_)) => 'u',
                    (Health::Unhealthy, None) => 'U',
                }
            })
            .collect();
        assert_eq!(actual, expected, "{tracker:?} probes={probes}");
    }

    fn new(rise: u8, fall: u8) -> HealthTracker {
        HealthTracker::new(&check_of(rise, fall))
    }

    fn unproven(rise: u8, fall: u8) -> HealthTracker {
        HealthTracker::new(&HealthCheck { prove_first: true, ..check_of(rise, fall) })
    }

    #[test]
    fn a_full_streak_flips_the_health() {
        check(new(2, 3), "+---", "HHHu");
        check(new(2, 3), "---++", "hhuuH");
        check(new(1, 1), "-+-+", "uHuH");
    }

    #[test]
    fn a_broken_streak_starts_over() {
        check(new(2, 3), "+--+---", "HHHHHHu");
        check(new(2, 3), "---+-++", "hhuuuuH");
    }

    /// Neither good nor bad enough for anything: it stays what it was, and nothing is published.
    #[test]
    fn a_backend_whose_probes_alternate_never_changes_its_health() {
        for (rise, fall) in [(2, 2), (2, 3), (3, 2), (5, 5)] {
            for first in [Outcome::Pass, Outcome::Fail] {
                let mut tracker = new(rise, fall);
                for _ in 0..fall {
                    tracker.observe(first);
                }
                let health = tracker.health();
                for probe in 0..1_000 {
                    let is_pass = (probe % 2 == 0) == (first == Outcome::Fail);
                    let outcome = if is_pass { Outcome::Pass } else { Outcome::Fail };
                    let transition = tracker.observe(outcome);
                    let is_kept = matches!(transition, Transition::Pending | Transition::Unchanged);
                    assert!(is_kept, "{tracker:?}, probe {probe}: {transition:?}");
                    assert_eq!(tracker.health(), health, "{tracker:?}, probe {probe}");
                }
            }
        }
    }

    #[test]
    fn a_new_backend_is_used_until_a_full_streak_of_failures_and_known_by_one_pass() {
        assert_eq!((new(2, 3).health(), new(2, 3).decided()), (Health::Healthy, None));
        check(new(2, 3), "+", "H");
        check(new(2, 3), "---", "hhu");
        check(new(2, 3), "--+---", "hhHHHu");
    }

    #[test]
    fn a_backend_that_must_prove_itself_starts_unhealthy() {
        assert_eq!((unproven(2, 3).health(), unproven(2, 3).decided()), (Health::Unhealthy, None));
        check(unproven(2, 3), "++", "UH");
        check(unproven(2, 3), "-++", "uuH");
    }

    #[test]
    fn what_was_decided_earlier_is_left_only_by_a_full_streak() {
        let resume = |health| HealthTracker::resume(&check_of(2, 3), Some(health));
        check(resume(Health::Healthy), "---", "HHu");
        check(resume(Health::Unhealthy), "++", "uH");
        let undecided = HealthTracker::resume(&check_of(2, 3), None);
        check(undecided, "---", "hhu");
    }

    #[test]
    fn transitions_tell_the_first_decision_and_every_flip() {
        use Transition::{Decided, Pending, Unchanged};
        let mut tracker = new(1, 2);
        let seen = [Outcome::Pass, Outcome::Pass, Outcome::Fail, Outcome::Fail, Outcome::Fail]
            .map(|outcome| tracker.observe(outcome));
        let expected =
            [Decided(Health::Healthy), Unchanged, Pending, Decided(Health::Unhealthy), Unchanged];
        assert_eq!(seen, expected);
    }
}
