//! Whether an attempt is followed by another one, and when. Pure; [`budget`](super::budget) says if it can be
//! afforded.
//!
//! # Invariants
//!
//! - A request that a backend may have processed is sent again only if its method is idempotent
//!   (RFC 9110, section 9.2.2). An attempt that reached nobody is safe for any method.
//! - A request whose body is no longer all there is not sent again, whatever happened.
//! - A retry is paid from the budget, unless the attempt reached nobody: it cost no backend
//!   anything. Attempts bound it all the same.

use std::time::Duration;

use lb_common::{backoff::Backoff, spec::RetryPolicy};
use lb_http::message::Method;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Refused, unreachable or not connected in time: no backend saw anything.
    ConnectFailed,
    /// The connection ended before the response's head, and the request may have been read.
    Reset,
    PerTryTimeout,
    Status(u16),
}

/// All that a decision depends on, besides the policy.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub method: Method,
    pub outcome: Outcome,
    /// From 1.
    pub number: u8,
    /// All of the body can be sent: none of it has gone, or what has gone was kept.
    pub replayable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This is the answer.
    Deliver,
    Retry {
        /// Whether the budget is charged.
        paid: bool,
    },
}

/// What to do after an attempt.
pub fn decide(policy: &RetryPolicy, seen: &Attempt) -> Decision {
    let reached_nobody = seen.outcome == Outcome::ConnectFailed;
    let may_repeat = reached_nobody || seen.method.is_idempotent();
    let is_last = policy.attempts.get() <= seen.number;
    if is_condition(policy, seen.outcome) && may_repeat && seen.replayable && !is_last {
        Decision::Retry { paid: !reached_nobody }
    } else {
        Decision::Deliver
    }
}

/// How long to wait before retry `n`, counted from 0: uniform in `0..backoff`, which doubles each
/// time up to ten times itself. `elsewhere` says that the last attempt reached nobody and that
/// another backend is open: nothing is gained by waiting then.
pub fn wait_before(
    policy: &RetryPolicy,
    n: u32,
    rng: &mut fastrand::Rng,
    elsewhere: bool,
) -> Duration {
    if elsewhere {
        return Duration::ZERO;
    }
    Backoff { base: policy.backoff, max: policy.backoff.saturating_mul(10) }.delay(n, rng)
}

/// Whether the policy says that this is worth another attempt.
fn is_condition(policy: &RetryPolicy, outcome: Outcome) -> bool {
    let on = &policy.on;
    match outcome {
        Outcome::ConnectFailed => on.connect_failure || on.any_5xx,
        Outcome::Reset => on.reset || on.any_5xx,
        Outcome::PerTryTimeout => on.timeout || on.any_5xx,
        Outcome::Status(status) => {
            on.any_5xx && (500..600).contains(&status)
                || on.gateway_error && (502..=504).contains(&status)
                || on.statuses.contains(&status)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use Decision::{Deliver, Retry};
    use Outcome::{ConnectFailed, PerTryTimeout, Reset, Status};
    use lb_common::spec::RetryOn;

    use super::*;

    const PAID: Decision = Retry { paid: true };
    const FREE: Decision = Retry { paid: false };

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy {
            attempts: NonZeroU8::new(3).expect("not 0"),
            on,
            per_try_timeout: None,
            backoff: Duration::from_millis(25),
            budget_percent: 20,
            max_body_bytes: 65_536,
        }
    }

    #[test]
    fn decisions() {
        let policy = policy(RetryOn { any_5xx: true, ..RetryOn::default() });

        #[rustfmt::skip]
        let cases = [
            // why                                    method           outcome        number replay expected
            ("a success is final",                    Method::Get,     Status(200),   1,     true,  Deliver),
            ("a client error is final",               Method::Get,     Status(404),   1,     true,  Deliver),
            ("so it is for the last attempt",         Method::Get,     Status(200),   3,     false, Deliver),
            ("503 is worth another backend",          Method::Get,     Status(503),   1,     true,  PAID),
            ("a PUT may be repeated",                 Method::Put,     Status(500),   2,     true,  PAID),
            ("a POST may already have had effects",   Method::Post,    Status(503),   1,     true,  Deliver),
            ("a PATCH may, too",                      Method::Patch,   PerTryTimeout, 1,     true,  Deliver),
            ("a CONNECT may, too",                    Method::Connect, Reset,         1,     true,  Deliver),
            ("a failed connect reached nobody",       Method::Post,    ConnectFailed, 1,     true,  FREE),
            ("the body went before",                  Method::Post,    ConnectFailed, 2,     false, Deliver),
            ("the body outgrew the replay buffer",    Method::Put,     Status(503),   1,     false, Deliver),
            ("attempts are bounded",                  Method::Get,     Status(503),   3,     true,  Deliver),
            ("free ones, too",                        Method::Get,     ConnectFailed, 3,     true,  Deliver),
        ];

        for (why, method, outcome, number, replayable, expected) in cases {
            let seen = Attempt { method, outcome, number, replayable };
            assert_eq!(decide(&policy, &seen), expected, "{why}");
        }
    }

    #[test]
    fn each_condition_takes_what_it_says_and_no_more() {
        #[rustfmt::skip]
        let outcomes = [ConnectFailed, Reset, PerTryTimeout, Status(500), Status(502), Status(503), Status(504), Status(505), Status(429), Status(200)];
        let on = RetryOn::default;

        #[rustfmt::skip]
        let cases = [
            (on(), "----------"),
            (RetryOn { connect_failure: true, ..on() },     "x---------"),
            (RetryOn { reset: true, ..on() },               "-x--------"),
            (RetryOn { timeout: true, ..on() },             "--x-------"),
            (RetryOn { gateway_error: true, ..on() },       "----xxx---"),
            (RetryOn { any_5xx: true, ..on() },             "xxxxxxxx--"),
            (RetryOn { statuses: [429, 505].into(), ..on() }, "-------xx-"),
        ];

        for (on, expected) in cases {
            let policy = policy(on);
            let letter = |outcome: &Outcome| {
                let outcome = *outcome;
                let seen = Attempt { method: Method::Get, outcome, number: 1, replayable: true };
                if decide(&policy, &seen) == Deliver { '-' } else { 'x' }
            };
            let actual: String = outcomes.iter().map(letter).collect();
            assert_eq!(actual, expected, "{:?}", policy.on);
        }
    }

    #[test]
    fn idempotent_methods_are_those_of_rfc_9110() {
        let policy = policy(RetryOn { reset: true, ..RetryOn::default() });
        let retried = |method: &&str| {
            let method = Method::of(method.as_bytes());
            let seen = Attempt { method, outcome: Reset, number: 1, replayable: true };
            decide(&policy, &seen) == PAID
        };
        let methods = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "get",
            "PURGE",
        ];
        let retried: Vec<_> = methods.into_iter().filter(retried).collect();
        assert_eq!(retried, ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"]);
    }

    #[test]
    fn waits_double_to_ten_times_the_first_and_fill_their_range() {
        let policy = policy(RetryOn::default());
        let mut rng = fastrand::Rng::with_seed(1);
        for (n, ceiling) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (200, 250)] {
            let wait = |_| wait_before(&policy, n, &mut rng, false);
            let longest = (0..1_000).map(wait).max().expect("a thousand waits");
            let ceiling = Duration::from_millis(ceiling);
            assert!(longest < ceiling && longest > ceiling.mul_f64(0.98), "{n}: {longest:?}");
        }
        assert_eq!(wait_before(&policy, 5, &mut rng, true), Duration::ZERO);
    }
}
