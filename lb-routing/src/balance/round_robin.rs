//! Weighted round robin, exact over all workers of a proxy.
//!
//! One cursor counts the picks of all workers and walks a precomputed [`Schedule`], so any whole
//! cycle of picks gives each backend exactly its weight, whichever workers made them.
//!
//! # Invariants
//!
//! - An update keeps the relative position in the cycle. Beginning again would give the first
//!   backends most of the traffic for as long as updates keep coming (Envoy #31378).
//! - The first position is random, over turns and not backends, so that proxies which start
//!   together don't walk in step (Envoy #3271, #32233).
//! - The turn of a backend that is out, or starts slowly and is passed over, is drawn by weight,
//!   because its neighbour would get two shares.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Carry, PickContext, Picker, schedule::Schedule};
use crate::backend::Backend;

#[derive(Debug)]
pub struct RoundRobin {
    schedule: Schedule,
    /// Shared with the pickers before and after this one, of which some may still be in use.
    cursor: Arc<Cursor>,
    /// From the cursor to the position in this schedule. Below its length.
    offset: u64,
}

/// Picks so far. Written by all workers, so nothing else lives on its cache line (or on the one
/// that is fetched with it).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cursor(AtomicU64);

// === impl RoundRobin ===

impl RoundRobin {
    pub fn new(backends: &[Arc<Backend>], former: Carry<'_>, rng: &mut fastrand::Rng) -> Self {
        let schedule = Schedule::new(backends);
        let len = schedule.len() as u64;
        let former = match former {
            Carry::RoundRobin(former) => Some(former),
            Carry::Nothing | Carry::Maglev(_) => None,
        };
        let cursor = former.map(|former| Arc::clone(&former.cursor)).unwrap_or_default();
        if len == 0 {
            return Self { schedule, cursor, offset: 0 };
        }

        let picks = cursor.0.load(Ordering::Relaxed);
        let position = match former.filter(|former| !former.schedule.is_empty()) {
            Some(former) => {
                let was_len = former.schedule.len() as u64;
                let was = (picks + former.offset) % was_len;
                // Rounded at random: rounding down would creep back to the start, update by update.
                (was * len + rng.u64(..was_len)) / was_len % len
            }
            None => rng.u64(..len),
        };
        let offset = (position + len - picks % len) % len;
        Self { schedule, cursor, offset }
    }
}

impl Picker for RoundRobin {
    fn pick(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize> {
        if self.schedule.is_empty() {
            return None;
        }
        let turn = self.cursor.0.fetch_add(1, Ordering::Relaxed) + self.offset;
        let i = self.schedule.at((turn % self.schedule.len() as u64) as usize);
        if cx.keeps(&backends[i]) {
            return Some(i);
        }
        self.schedule.draw(backends, cx)
    }

    fn carry(&self) -> Carry<'_> {
        Carry::RoundRobin(self)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::balance::fixture;

    fn round_robin(backends: &[Arc<Backend>], seed: u64) -> RoundRobin {
        RoundRobin::new(backends, Carry::Nothing, &mut fastrand::Rng::with_seed(seed))
    }

    fn updated(picker: &RoundRobin, backends: &[Arc<Backend>], seed: u64) -> RoundRobin {
        RoundRobin::new(backends, picker.carry(), &mut fastrand::Rng::with_seed(seed))
    }

    fn picks(picker: &RoundRobin, backends: &[Arc<Backend>], n: usize) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(0);
        (0..n).map(|_| fixture::pick(picker, backends, &mut rng).expect("one is open")).collect()
    }

    #[test]
    fn any_cycle_is_exact_wherever_it_begins() {
        let backends = fixture::backends(&[1, 2, 1]);
        for seed in 0..20 {
            let shares = fixture::shares(&round_robin(&backends, seed), &backends, 4, seed);
            assert_eq!(shares, [1, 2, 1], "seed {seed}");
        }
    }

    #[test]
    fn workers_share_one_cycle() {
        let backends = fixture::backends(&[1, 2, 1]);
        let picker = round_robin(&backends, 1);
        let shares = thread::scope(|scope| {
            let worker = |seed| {
                let (picker, backends) = (&picker, &backends);
                scope.spawn(move || fixture::shares(picker, backends, 25_000, seed))
            };
            let workers: Vec<_> = (0..4).map(worker).collect();
            workers.into_iter().fold([0; 3], |sum, worker| {
                let shares = worker.join().expect("it does not panic");
                [sum[0] + shares[0], sum[1] + shares[1], sum[2] + shares[2]]
            })
        });
        assert_eq!(shares, [25_000, 50_000, 25_000]);
    }

    #[test]
    fn equal_weights_take_turns_in_the_order_listed() {
        let backends = fixture::backends(&[3; 4]);
        let order = picks(&round_robin(&backends, 9), &backends, 8);
        for (a, b) in order.iter().zip(&order[1..]) {
            assert_eq!((a + 1) % 4, *b, "{order:?}");
        }
    }

    #[test]
    fn proxies_that_start_together_start_anywhere() {
        let backends = fixture::backends(&[9, 1]);
        let light =
            (0..1_000).filter(|seed| picks(&round_robin(&backends, *seed), &backends, 1) == [1]);
        let light = light.count();
        assert!((70..130).contains(&light), "a tenth of them: {light}");
    }

    #[test]
    fn an_update_that_changes_nothing_keeps_the_position() {
        let backends = fixture::backends(&[1, 2, 3]);
        let expected = picks(&round_robin(&backends, 5), &backends, 60);
        let mut picker = round_robin(&backends, 5);
        let mut actual = Vec::new();
        for update in 0..60 {
            actual.extend(picks(&picker, &backends, 1));
            picker = updated(&picker, &backends, update);
        }
        assert_eq!(actual, expected);
    }

    /// Requests that still hold the old table walk the same cycle.
    #[test]
    fn the_old_picker_and_the_new_one_share_the_cursor() {
        let backends = fixture::backends(&[1; 4]);
        let old = round_robin(&backends, 2);
        let new = updated(&old, &backends, 3);
        let mut order = Vec::new();
        for _ in 0..4 {
            order.extend(picks(&old, &backends, 1));
            order.extend(picks(&new, &backends, 1));
        }
        for (a, b) in order.iter().zip(&order[1..]) {
            assert_eq!((a + 1) % 4, *b, "{order:?}");
        }
    }

    /// The last backend goes and comes back between any two picks. Starting over each time, or
    /// rounding the position down, would give one backend everything.
    #[test]
    fn a_storm_of_updates_starves_nobody() {
        let all = fixture::backends(&[1; 10]);
        let fewer = fixture::next_table(&all, |i| i != 9);
        let mut picker = round_robin(&all, 1);
        let mut counts = [0; 10];
        for update in 0..20_000 {
            picker = updated(&picker, &fewer, update);
            picker = updated(&picker, &all, update + 1);
            counts[picks(&picker, &all, 1)[0]] += 1;
        }
        assert!(counts.iter().all(|count| (1_500..2_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_set_that_was_empty_begins_anywhere() {
        let none = fixture::with_usable(&[1; 4], |_| false);
        let all = fixture::next_table(&none, |_| true);
        let mut first = [false; 4];
        for seed in 0..100 {
            let empty = updated(&round_robin(&all, seed), &none, seed);
            first[picks(&updated(&empty, &all, seed), &all, 1)[0]] = true;
        }
        assert_eq!(first, [true; 4]);
    }

    #[test]
    fn an_ejected_backends_turns_are_shared_by_all_others() {
        let backends = fixture::backends(&[1; 5]);
        fixture::eject(&backends[2], 1_000);
        let shares = fixture::shares(&round_robin(&backends, 1), &backends, 50_000, 1);
        assert_eq!(shares[2], 0);
        let mut others = shares.iter().enumerate().filter(|(i, _)| *i != 2);
        assert!(others.all(|(_, share)| share.abs_diff(12_500) < 300), "{shares:?}");
    }
}
