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
//!   [`MIN_CAP`] retries if that is more; each worker saves up for its own. So of 1,000 requests a second, 200 to 400 in flight can
//!   be retried at once when they are lost with their backend, and a quiet route can't save up for
//!   a storm.
//! - 0% is never, without a floor.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_routing::millis::Millis;

use crate::metrics::Sharded;

/// Retries that a new budget has.
pub const FLOOR: u64 = 3;

/// Retries that can be saved up by any route, over all workers.
pub const MIN_CAP: u64 = 10;

/// What a retry costs: a request deposits percents of it.
const RETRY: u64 = 100;

/// One route's budget. Each worker deposits what its own requests are worth, so that no two cores write
/// the same cache line for each request; a retry may be paid from what others have saved up.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    /// What a worker can save up whatever its traffic is.
    least: u64,
    shards: Sharded<Shard>,
}

/// One worker's.
#[derive(Debug, Default)]
struct Shard {
    balance: AtomicU64,
    /// Requests in this second in the low half, and which second that is in the high one.
    current: AtomicU64,
    /// Requests in the second before.
    last: AtomicU64,
}

// === impl RetryBudget ===

impl RetryBudget {
    pub fn new(percent: u32, workers: usize) -> Self {
        let shards = Sharded::<Shard>::new(workers);
        let floor = if percent == 0 { 0 } else { FLOOR as usize };
        for i in 0..floor {
            shards.of(i % workers).balance.fetch_add(RETRY, Ordering::Relaxed);
        }
        let least = MIN_CAP.div_ceil(workers as u64) * RETRY;
        Self { percent: u64::from(percent), least, shards }
    }

    /// One request of this worker's, not counting its retries.
    ///
    /// Two relaxed additions as a rule, to what others hardly ever look at.
    pub fn deposit(&self, worker: usize, now: Millis) {
        if self.percent == 0 {
            return;
        }
        let shard = self.shards.of(worker);
        self.advance(shard, now / 1_000);
        let counted = (shard.current.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff) + 1;
        let cap = self.cap(counted + shard.last.load(Ordering::Relaxed));
        let room = cap.saturating_sub(shard.balance.load(Ordering::Relaxed));
        if room > 0 {
            shard.balance.fetch_add(self.percent.min(room), Ordering::Relaxed);
        }
    }

    /// Takes what one retry costs, if it is there: from what this worker has, and then the others.
    pub fn try_withdraw(&self, worker: usize, now: Millis) -> bool {
        let own = self.shards.of(worker);
        let mut paid = own.take(RETRY);
        for other in self.shards.iter() {
            if paid == RETRY {
                break;
            }
            // Who has had no requests since has not noticed either that time has passed.
            self.advance(other, now / 1_000);
            paid += other.take(RETRY - paid);
        }
        if paid < RETRY {
            own.balance.fetch_add(paid, Ordering::Relaxed);
        }
        paid == RETRY
    }

    /// Begins a second, if that is a new one. The cap follows the traffic down; deposits alone would leave
    /// what is saved.
    fn advance(&self, shard: &Shard, second: u64) {
        let mut current = shard.current.load(Ordering::Relaxed);
        // A clock read just before the second ended counts as the next one: time goes forward here.
        while current >> 32 < second {
            let (former, fresh) = (current, second << 32);
            let order = Ordering::Relaxed;
            match shard.current.compare_exchange_weak(former, fresh, order, order) {
                Ok(_) => {
                    let adjacent = (former >> 32) + 1 == second;
                    let last = if adjacent { former & 0xffff_ffff } else { 0 };
                    shard.last.store(last, order);
                    shard.balance.fetch_min(self.cap(last), order);
                    return;
                }
                Err(changed) => current = changed,
            }
        }
    }

    fn cap(&self, requests: u64) -> u64 {
        requests.saturating_mul(self.percent).max(self.least)
    }
}

impl Shard {
    /// Takes so much, or what there is. Returns how much that was.
    fn take(&self, wanted: u64) -> u64 {
        let order = Ordering::Relaxed;
        let left = |balance: u64| Some(balance.saturating_sub(wanted));
        self.balance.fetch_update(order, order, left).unwrap_or(0).min(wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Retries that it affords, at once.
    fn drain(budget: &RetryBudget, now: Millis) -> u64 {
        (0..).take_while(|_| budget.try_withdraw(0, now)).count() as u64
    }

    #[test]
    fn a_thousand_requests_that_all_fail_make_203_retries() {
        for (workers, requests_a_ms) in [(1, 1), (1, 10), (1, 1_000), (2, 1), (4, 10), (16, 1)] {
            let budget = RetryBudget::new(20, workers);
            let mut retries = 0;
            for request in 0..1_000u64 {
                let (worker, now) = (request as usize % workers, 5_000 + request / requests_a_ms);
                budget.deposit(worker, now);
                // Two retries each, if they are granted.
                retries += u64::from(budget.try_withdraw(worker, now));
                retries += u64::from(budget.try_withdraw(worker, now));
            }
            // What comes while a worker's part is full of what a new budget has is not saved.
            let expected = if workers == 16 { 202 } else { 203 };
            assert_eq!(retries, expected, "{workers} workers");
        }
    }

    #[test]
    fn a_new_budget_affords_the_floor() {
        assert_eq!(drain(&RetryBudget::new(20, 1), 0), 3);
        assert_eq!(drain(&RetryBudget::new(1, 3), 0), 3);
        assert_eq!(drain(&RetryBudget::new(20, 16), 9_000), 3, "of other workers, and later");
    }

    #[test]
    fn zero_percent_is_never() {
        let budget = RetryBudget::new(0, 1);
        for request in 0..1_000 {
            budget.deposit(0, request);
            assert!(!budget.try_withdraw(0, request));
        }
    }

    /// 1,000 a second for ten seconds, then 300 in flight are lost with their backend.
    #[test]
    fn a_burst_after_healthy_load_is_retried() {
        for workers in [1, 2, 5] {
            let budget = RetryBudget::new(20, workers);
            for request in 0..10_500u64 {
                budget.deposit(request as usize % workers, request);
            }
            let retries = drain(&budget, 10_500);
            assert!((290..=303).contains(&retries), "a fifth of 1,500: {retries}");
        }
    }

    #[test]
    fn a_quiet_route_saves_up_ten_or_its_workers_part_of_them() {
        // 40 does not divide a retry, and is saved up to one all the same.
        for (percent, workers, saved) in [(20, 1, 10), (20, 2, 6), (20, 4, 5), (40, 16, 3)] {
            let budget = RetryBudget::new(percent, workers);
            for request in 0..1_000 {
                budget.deposit(0, request * 2_000);
            }
            assert_eq!(drain(&budget, 2_000_000), saved, "{workers} workers");
        }
    }

    #[test]
    fn what_was_saved_shrinks_with_the_traffic() {
        let budget = RetryBudget::new(20, 2);
        for request in 0..10_000u64 {
            budget.deposit(request as usize % 2, request);
        }
        // One of them has no more requests, and what it has saved is not there for ever either.
        budget.deposit(0, 60_000);
        assert_eq!(drain(&budget, 60_000), 10);
    }

    /// Whatever the order of requests and retries, the workers, the rates and the pauses.
    #[test]
    fn retries_never_exceed_their_share_and_the_floor() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (percent, workers) = (rng.u32(0..=120), rng.usize(1..4));
            let budget = RetryBudget::new(percent, workers);
            let (mut now, mut requests, mut retries) = (rng.u64(..1 << 40), 0, 0);
            for _ in 0..2_000 {
                let worker = rng.usize(..workers);
                match rng.u32(..10) {
                    0..6 => {
                        budget.deposit(worker, now);
                        requests += 1;
                    }
                    6..9 => retries += u64::from(budget.try_withdraw(worker, now)),
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
            let budget = RetryBudget::new(20, 4);
            let retries: u64 = thread::scope(|scope| {
                let worker = |worker: usize| {
                    let budget = &budget;
                    scope.spawn(move || {
                        let withdraw = |request| {
                            let now = round * 1_000 + worker as u64 + request;
                            budget.deposit(worker, now);
                            u64::from(budget.try_withdraw(worker, now))
                        };
                        (0..5_000).map(withdraw).sum::<u64>()
                    })
                };
                let workers: Vec<_> = (0..4).map(worker).collect();
                workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
            });
            let all = retries + drain(&budget, round * 1_000 + 5_000);
            // 3 and a fifth of 20,000; what comes while a worker's part is full is not saved.
            assert!((4_000..=4_003).contains(&all), "round {round}: {all}");
        }
    }
}
