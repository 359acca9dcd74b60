//! Least connections: the backend with the fewest attempts in flight for its weight.
//!
//! The cost of a backend is `(in flight + 1) / weight`: its load if it were picked. Counts are
//! those of this proxy, over all of its workers.
//!
//! - Up to `SCAN` usable backends, all of them are compared: two draws of three would leave a
//!   slow backend the only choice too often.
//! - Above, two distinct ones are drawn and the cheaper one is kept. Choosing the least of all
//!   would be O(n), and proxies that share backends would herd to the same one, while two draws
//!   already end with a queue of `ln ln n`. Source: M. Mitzenmacher, "The Power of Two Choices in
//!   Randomized Load Balancing", 2001.
//! - Of backends that are idle, the weights decide at random. By cost alone, the heaviest would get
//!   everything as long as requests come one at a time.
//!
//! The draws are blind to weights, as Finagle's are, and weights are heeded when costs are
//! compared. That is biased to the light ones, because a pair of two light backends has no heavy
//! one in it: one of weight 0.5 among ones of weight 1 gets .56, .53 and .52 for n = 4, 6 and 10
//! (Finagle's figures). The scan of small sets avoids the worst of it. Where backends differ much
//! in weight, round robin is exact.

use std::sync::Arc;

use super::{Draw, PickContext, Picker};
use crate::backend::Backend;

/// The largest set that is scanned rather than sampled.
const SCAN: usize = 8;

/// Uniform draws before a scan of all, so that a pick stays bounded.
const DRAWS: usize = 4;

#[derive(Debug)]
pub struct LeastConnections {
    /// Indices of the usable backends.
    usable: Box<[u32]>,
}

/// Compared as a fraction.
#[derive(Clone, Copy)]
struct Cost {
    load: u64,
    weight: u32,
}

/// The cheapest of the backends that it is offered, by chance among equals.
#[derive(Default)]
struct Cheapest {
    idle: Draw,
    /// Of the heaviest idle backend.
    idle_cost: Option<Cost>,
    busy: Draw,
    busy_cost: Option<Cost>,
}

// === impl LeastConnections ===

impl LeastConnections {
    pub fn new(backends: &[Arc<Backend>]) -> Self {
        let usable = (0u32..).zip(backends).filter(|(_, backend)| backend.usable);
        Self { usable: usable.map(|(i, _)| i).collect() }
    }

    /// An admitted backend other than `except`, each with the same chance.
    fn draw(
        &self,
        backends: &[Arc<Backend>],
        cx: &mut PickContext<'_>,
        except: Option<usize>,
    ) -> Option<usize> {
        let open = |cx: &PickContext<'_>, i| Some(i) != except && cx.admits(&backends[i]);
        for _ in 0..DRAWS {
            let i = self.usable[cx.rng.usize(..self.usable.len())] as usize;
            if open(cx, i) {
                return Some(i);
            }
        }
        let mut draw = Draw::default();
        for i in self.usable.iter().map(|i| *i as usize) {
            if open(cx, i) {
                draw.offer(i, 1, cx.rng);
            }
        }
        draw.drawn
    }
}

impl Picker for LeastConnections {
    fn pick(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize> {
        if self.usable.len() <= SCAN {
            let mut cheapest = Cheapest::default();
            for i in self.usable.iter().map(|i| *i as usize) {
                if cx.admits(&backends[i]) {
                    cheapest.offer(i, &backends[i], cx.rng);
                }
            }
            return cheapest.get();
        }
        let first = self.draw(backends, cx, None)?;
        let Some(second) = self.draw(backends, cx, Some(first)) else {
            return Some(first);
        };
        let mut cheapest = Cheapest::default();
        cheapest.offer(first, &backends[first], cx.rng);
        cheapest.offer(second, &backends[second], cx.rng);
        cheapest.get()
    }
}

// === impl Cost ===

impl Cost {
    fn cmp(self, other: Self) -> std::cmp::Ordering {
        let ours = u128::from(self.load) * u128::from(other.weight);
        ours.cmp(&(u128::from(other.load) * u128::from(self.weight)))
    }
}

// === impl Cheapest ===

impl Cheapest {
    fn offer(&mut self, i: usize, backend: &Backend, rng: &mut fastrand::Rng) {
        let cost = Cost { load: backend.live.in_flight() + 1, weight: backend.weight };
        if cost.load == 1 {
            self.idle.offer(i, cost.weight, rng);
            if self.idle_cost.is_none_or(|least| cost.cmp(least).is_lt()) {
                self.idle_cost = Some(cost);
            }
            return;
        }
        let order = self.busy_cost.map_or(std::cmp::Ordering::Less, |least| cost.cmp(least));
        if order.is_lt() {
            self.busy_cost = Some(cost);
            self.busy = Draw::default();
        }
        if order.is_le() {
            self.busy.offer(i, cost.weight, rng);
        }
    }

    fn get(self) -> Option<usize> {
        match (self.idle_cost, self.busy_cost) {
            (Some(idle), Some(busy)) if busy.cmp(idle).is_lt() => self.busy.drawn,
            (Some(_), _) => self.idle.drawn,
            (None, _) => self.busy.drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{backend::InFlight, balance::fixture};

    /// Gives each backend that many attempts in flight.
    fn load(backends: &[Arc<Backend>], counts: &[usize]) -> Vec<InFlight> {
        let start = |(b, n): (&Arc<Backend>, &usize)| {
            let live = Arc::clone(&b.live);
            (0..*n).map(move |_| InFlight::start(&live))
        };
        backends.iter().zip(counts).flat_map(start).collect()
    }

    /// Every backend that is ever picked.
    fn picked(backends: &[Arc<Backend>]) -> Vec<usize> {
        let shares = fixture::shares(&LeastConnections::new(backends), backends, 2_000, 1);
        (0..backends.len()).filter(|i| shares[*i] > 0).collect()
    }

    #[test]
    fn a_small_set_always_gives_the_least_loaded() {
        let backends = fixture::backends(&[1; 8]);
        let _load = load(&backends, &[3, 2, 1, 4, 1, 2, 3, 9]);
        assert_eq!(picked(&backends), [2, 4]);
    }

    #[test]
    fn load_counts_by_weight() {
        let backends = fixture::backends(&[1, 4, 2]);
        let _load = load(&backends, &[1, 6, 3]);
        assert_eq!(picked(&backends), [1], "7/4 is below 4/2 and 2/1");
    }

    #[test]
    fn idle_backends_share_by_weight() {
        let backends = fixture::backends(&[1, 3]);
        let picker = LeastConnections::new(&backends);
        let shares = fixture::shares(&picker, &backends, 40_000, 2);
        assert!(shares[0].abs_diff(10_000) < 500, "{shares:?}");
    }

    #[test]
    fn a_light_idle_backend_waits_while_a_heavy_one_has_room() {
        let backends = fixture::backends(&[1, 100]);
        let _load = load(&backends, &[0, 50]);
        assert_eq!(picked(&backends), [1]);
    }

    #[test]
    fn of_a_hundred_the_busiest_is_never_picked() {
        let backends = fixture::backends(&[1; 100]);
        let mut counts = vec![2; 100];
        counts[41] = 3;
        let _load = load(&backends, &counts);
        let picker = LeastConnections::new(&backends);
        let shares = fixture::shares(&picker, &backends, 50_000, 3);
        assert_eq!(shares[41], 0);
        assert_eq!(shares.iter().filter(|share| **share == 0).count(), 1, "all others get some");
    }

    /// With draws that may coincide, the busiest of nine would get 1/81 of the picks.
    #[test]
    fn two_draws_are_of_two_backends() {
        let backends = fixture::backends(&[1; 9]);
        let _load = load(&backends, &[0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(picked(&backends), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_pair_is_compared_by_weight() {
        let mut weights = [1; 20];
        weights[0] = 10;
        let backends = fixture::backends(&weights);
        let mut counts = [1; 20];
        counts[0] = 9;
        let _load = load(&backends, &counts);
        let shares = fixture::shares(&LeastConnections::new(&backends), &backends, 50_000, 4);
        // It wins every pair that it is in: 19 of 190.
        assert!(shares[0].abs_diff(5_000) < 300, "{shares:?}");
    }

    /// Tosses `n` balls into `n` bins and returns the fullest.
    fn fullest(n: usize, seed: u64) -> u64 {
        let backends = fixture::backends(&vec![1; n]);
        let picker = LeastConnections::new(&backends);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut balls = Vec::new();
        for _ in 0..n {
            let i = fixture::pick(&picker, &backends, &mut rng).expect("all are open");
            balls.push(InFlight::start(&backends[i].live));
        }
        backends.iter().map(|b| b.live.in_flight()).max().expect("there are bins")
    }

    /// One choice would have 6 or more in the fullest bin, two have ln ln n / ln 2 + O(1).
    #[test]
    fn two_choices_keep_the_longest_queue_short() {
        for seed in 0..5 {
            let fullest = fullest(4_096, seed);
            assert!((2..=4).contains(&fullest), "{fullest}, seed {seed}");
        }
    }

    /// Four backends, of which one takes ten times as long: with round robin its queue would grow by
    /// 65 in 100 ticks and never stop.
    #[test]
    fn a_slow_backends_queue_stays_within_two_of_the_others() {
        for seed in 0..20 {
            let backends = fixture::backends(&[1; 4]);
            let picker = LeastConnections::new(&backends);
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut queues: Vec<VecDeque<InFlight>> = (0..4).map(|_| VecDeque::new()).collect();
            for tick in 0..5_000u32 {
                for (i, queue) in queues.iter_mut().enumerate() {
                    let serves = i != 0 || tick.is_multiple_of(10);
                    if serves {
                        queue.pop_front();
                    }
                }
                for _ in 0..3 {
                    let i = fixture::pick(&picker, &backends, &mut rng).expect("all are open");
                    queues[i].push_back(InFlight::start(&backends[i].live));
                }
                let longest = queues[1..].iter().map(VecDeque::len).max().expect("three others");
                assert!(queues[0].len() <= longest + 2, "seed {seed}, tick {tick}");
            }
        }
    }
}
