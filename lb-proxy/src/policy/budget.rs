//! What retries may cost: a share of the traffic.
//!
//! Attempts per request don't bound a storm: when all fail, three attempts are three times the
//! load, on backends that fail because of load, and over three tiers 27 times. A budget does: of a
//! route's requests, each deposits `percent` hundredths of a retry, and each retry withdraws one.
//! Source of the idea: Finagle's and Linkerd's retry budgets.
//!
//! # Invariants
//!
//! - Retries ≤ [`FLOOR`] + `percent`% of requests, over the life of the budget: nothing is
//!   withdrawn that was not deposited. At 20%, 1,000 requests that all fail make at most 203
//!   retries, and three tiers that do so at most 1.2³ = 1.73 times the load. Attempts that reached
//!   nobody are not charged.
//! - What can be saved up is `percent`% of the requests of this second and the one before, or
//!   [`MIN_CAP`] retries if that is more. So of 1,000 requests a second, 200 to 400 in flight can
//!   be retried at once when they are lost with their backend, and a quiet route can't save up for
//!   a storm.
//! - 0% is never, without a floor.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_routing::millis::Millis;

/// Retries that a new budget has.
pub const FLOOR: u64 = 3;

/// Retries that can be saved up by any route.
pub const MIN_CAP: u64 = 10;

/// What a retry costs: a request deposits percents of it.
const RETRY: u64 = 100;

/// One route's budget, shared by all workers.
///
/// Written at each request, so it has cache lines to itself.
#[derive(Debug)]
#[repr(align(128))]
pub struct RetryBudget {
    percent: u64,
    balance: AtomicU64,
    /// Requests in this second in the low half, and which second that is in the high one.
    current: AtomicU64,
    /// Requests in the second before.
    last: AtomicU64,
}

// === impl RetryBudget ===

impl RetryBudget {
    pub fn new(percent: u32) -> Self {
        let floor = if percent == 0 { 0 } else { FLOOR * RETRY };
        Self {
            percent: u64::from(percent),
            balance: AtomicU64::new(floor),
            current: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// One request, not counting its retries.
    ///
    /// Two relaxed additions as a rule. Workers that deposit at once may each end above the cap by
    /// their own deposit, until the second ends.
    pub fn deposit(&self, now: Millis) {
        if self.percent == 0 {
            return;
        }
        let cap = self.count(now / 1_000);
        if self.balance.load(Ordering::Relaxed) + self.percent <= cap {
            self.balance.fetch_add(self.percent, Ordering::Relaxed);
        }
    }

    /// Takes what one retry costs, if it is there.
    pub fn try_withdraw(&self) -> bool {
        self.balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                balance.checked_sub(RETRY)
            })
            .is_ok()
    }

    /// Counts a request and returns what can be saved up.
    fn count(&self, second: u64) -> u64 {
        let mut current = self.current.load(Ordering::Relaxed);
        // A clock read just before the second ended counts as the next one: time goes forward here.
        while current >> 32 < second {
            let fresh = second << 32 | 1;
            match self.current.compare_exchange_weak(
                current,
                fresh,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    let adjacent = (current >> 32) + 1 == second;
                    let last = if adjacent { current & 0xffff_ffff } else { 0 };
                    self.last.store(last, Ordering::Relaxed);
                    let cap = self.cap(last + 1);
                    // The cap follows the traffic down; deposits alone would leave what is saved.
                    self.balance.fetch_min(cap, Ordering::Relaxed);
                    return cap;
                }
                Err(changed) => current = changed,
            }
        }
        let counted = (self.current.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff) + 1;
        self.cap(counted + self.last.load(Ordering::Relaxed))
    }

    fn cap(&self, requests: u64) -> u64 {
        requests.saturating_mul(self.percent).max(MIN_CAP * RETRY)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Retries that it affords, at once.
    fn drain(budget: &RetryBudget) -> u64 {
        (0..).take_while(|_| budget.try_withdraw()).count() as u64
    }

    #[test]
    fn a_thousand_requests_that_all_fail_make_203_retries() {
        for requests_a_ms in [1, 10, 1_000] {
            let budget = RetryBudget::new(20);
            let mut retries = 0;
            for request in 0..1_000 {
                budget.deposit(5_000 + request / requests_a_ms);
                // Two retries each, if they are granted.
                retries += u64::from(budget.try_withdraw()) + u64::from(budget.try_withdraw());
            }
            assert_eq!(retries, 203);
        }
    }

    #[test]
    fn a_new_budget_affords_the_floor() {
        assert_eq!(drain(&RetryBudget::new(20)), 3);
        assert_eq!(drain(&RetryBudget::new(1)), 3);
    }

    #[test]
    fn zero_percent_is_never() {
        let budget = RetryBudget::new(0);
        for request in 0..1_000 {
            budget.deposit(request);
            assert!(!budget.try_withdraw());
        }
    }

    /// 1,000 a second for ten seconds, then 300 in flight are lost with their backend.
    #[test]
    fn a_burst_after_healthy_load_is_retried() {
        let budget = RetryBudget::new(20);
        for request in 0..10_500 {
            budget.deposit(request);
        }
        let retries = drain(&budget);
        assert!((290..=303).contains(&retries), "a fifth of 1,500: {retries}");
    }

    #[test]
    fn a_quiet_route_saves_up_ten() {
        let budget = RetryBudget::new(20);
        for request in 0..1_000 {
            budget.deposit(request * 2_000);
        }
        assert_eq!(drain(&budget), 10);
    }

    #[test]
    fn what_was_saved_shrinks_with_the_traffic() {
        let budget = RetryBudget::new(20);
        for request in 0..10_000 {
            budget.deposit(request);
        }
        budget.deposit(60_000);
        assert_eq!(drain(&budget), 10);
    }

    /// Whatever the order of requests and retries, the rates and the pauses.
    #[test]
    fn retries_never_exceed_their_share_and_the_floor() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let percent = rng.u32(0..=120);
            let budget = RetryBudget::new(percent);
            let (mut now, mut requests, mut retries) = (rng.u64(..1 << 40), 0, 0);
            for _ in 0..2_000 {
                match rng.u32(..10) {
                    0..6 => {
                        budget.deposit(now);
                        requests += 1;
                    }
                    6..9 => retries += u64::from(budget.try_withdraw()),
                    _ => {
                        let longest = 1 << rng.u32(..14);
                        now += rng.u64(..longest);
                    }
                }
                let floor = if percent == 0 { 0 } else { FLOOR };
                let allowed = floor + u64::from(percent) * requests / 100;
                assert!(retries <= allowed, "seed {seed}: {retries} of {allowed}");
            }
        }
    }

    #[test]
    fn workers_together_do_not_overdraw() {
        for round in 0..20u64 {
            let budget = RetryBudget::new(20);
            let retries: u64 = thread::scope(|scope| {
                let worker = |worker: u64| {
                    let budget = &budget;
                    scope.spawn(move || {
                        let withdraw = |request| {
                            budget.deposit(round * 1_000 + worker + request);
                            u64::from(budget.try_withdraw())
                        };
                        (0..5_000).map(withdraw).sum::<u64>()
                    })
                };
                let workers: Vec<_> = (0..4).map(worker).collect();
                workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
            });
            assert_eq!(retries + drain(&budget), 4_003, "3 and a fifth of 20,000, round {round}");
        }
    }
}
