//! Least connections: the backend with the fewest attempts in flight for its weight.
//!
//! The cost of a backend is `(in flight + 1) / weight`: its load if it were picked. Counts are
//! those of this proxy, over all of its workers.
//!
//! - Up to `SCAN` usable backends, all of them are compared: two draws of three would leave a
//!   slow backend the only choice too often.
//! - Above, two distinct ones are drawn by weight, and the cheaper one is kept. Choosing the least
//!   of all would be O(n), and proxies that share backends would herd to the same one, while two
//!   draws already end with a queue of `ln ln n`. Source: M. Mitzenmacher, "The Power of Two
//!   Choices in Randomized Load Balancing", 2001. With draws that are blind to weights, none could
//!   get more than 2/n of the requests, whatever it weighs.
//! - Of backends that are idle, the weights decide at random, so that each gets its share: by cost
//!   alone, the heaviest would get everything as long as requests come one at a time. Of a pair, the
//!   weights have decided already.
//! - In a set that starts slowly, a backend counts with a part of its weight where all are compared.
//!   Otherwise an idle one would be everybody's first choice, and be as busy as the others at once.
//!   Of pairs it is in fewer: an idle one has up to twice its part then.

use std::sync::Arc;

use super::{Draw, PickContext, Picker, shares::Shares};
use crate::backend::Backend;

/// The largest set that is scanned rather than sampled.
const SCAN: usize = 8;

/// Draws before a scan of all, so that a pick stays bounded.
const DRAWS: usize = 4;

#[derive(Debug)]
pub struct LeastConnections {
    usable: Shares,
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
        Self { usable: Shares::new(backends) }
    }

    /// Two admitted backends, or one if there are no two. They may be the same one, if that has most
    /// of the weight.
    fn pair(
        &self,
        backends: &[Arc<Backend>],
        cx: &mut PickContext<'_>,
    ) -> Option<(usize, Option<usize>)> {
        let open = |cx: &mut PickContext<'_>, point| {
            Some(self.usable.at(point)).filter(|i| cx.keeps(&backends[*i]))
        };
        let first = (0..DRAWS).find_map(|_| {
            let point = self.usable.draw(cx.rng);
            Some((point, open(cx, point)?))
        });
        let Some((point, first)) = first else {
            let first = self.scan(backends, cx, None)?;
            return Some((first, self.scan(backends, cx, Some(first))));
        };
        let second = (0..DRAWS).find_map(|_| {
            let other = self.usable.draw_other(point, cx.rng);
            open(cx, other)
        });
        Some((first, second.or_else(|| self.scan(backends, cx, Some(first)))))
    }

    /// An admitted backend other than `except`, by weight.
    fn scan(
        &self,
        backends: &[Arc<Backend>],
        cx: &mut PickContext<'_>,
        except: Option<usize>,
    ) -> Option<usize> {
        let mut draw = Draw::default();
        for i in self.usable.iter() {
            if Some(i) != except && cx.admits(&backends[i]) {
                draw.offer(i, cx.weight_of(&backends[i]), cx.rng);
            }
        }
        draw.drawn
    }
}

impl Picker for LeastConnections {
    fn pick(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize> {
        let mut cheapest = Cheapest::default();
        if self.usable.len() <= SCAN {
            for i in self.usable.iter() {
                let backend = &*backends[i];
                if cx.admits(backend) {
                    let weight = cx.weight_of(backend);
                    cheapest.offer(i, backend, weight, weight, cx.rng);
                }
            }
            return cheapest.get();
        }
        let (first, second) = self.pair(backends, cx)?;
        for i in [Some(first), second].into_iter().flatten() {
            // Those that start slowly have been drawn less often instead.
            cheapest.offer(i, &backends[i], backends[i].weight, 1, cx.rng);
        }
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
    /// `chance` is its weight among equals.
    fn offer(
        &mut self,
        i: usize,
        backend: &Backend,
        weight: u32,
        chance: u32,
        rng: &mut fastrand::Rng,
    ) {
        let cost = Cost { load: backend.live.in_flight() + 1, weight };
        if cost.load == 1 {
            self.idle.offer(i, chance, rng);
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
            self.busy.offer(i, chance, rng);
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
        // It wins every pair that it is in, as the first or the second: 20 of 29.
        assert!(shares[0].abs_diff(34_483) < 500, "{shares:?}");
    }

    /// With draws that are blind to weights, no share was above 2/n.
    #[test]
    fn idle_backends_of_a_large_set_share_by_weight() {
        for heavy in [1, 5, 11, 44] {
            let mut weights = [1; 12];
            weights[3] = heavy;
            let backends = fixture::backends(&weights);
            let shares = fixture::shares(&LeastConnections::new(&backends), &backends, 60_000, 5);
            for (share, weight) in shares.iter().zip(weights) {
                let expected = 60_000 * weight as usize / (11 + heavy as usize);
                assert!(share.abs_diff(expected) < 600, "{heavy}: {shares:?}");
            }
        }
    }

    /// Requests that take a while, more of them than there are backends.
    #[test]
    fn busy_backends_of_a_large_set_are_loaded_by_weight() {
        let weights: Vec<u32> = (0..20).map(|i| if i < 4 { 6 } else { 1 }).collect();
        let backends = fixture::backends(&weights);
        let picker = LeastConnections::new(&backends);
        let mut rng = fastrand::Rng::with_seed(6);
        let mut queue = VecDeque::new();
        for _ in 0..4_000 {
            let i = fixture::pick(&picker, &backends, &mut rng).expect("all are open");
            queue.push_back(InFlight::start(&backends[i].live));
            if queue.len() > 400 {
                queue.pop_front();
            }
        }
        // 10 in flight for each unit of weight.
        for (backend, weight) in backends.iter().zip(weights) {
            let load = backend.live.in_flight() as f64 / f64::from(weight);
            assert!((6.0..14.0).contains(&load), "{load} at weight {weight}");
        }
    }

    /// Not exactly, because a pair's points are apart on a line that is partly nobody's.
    #[test]
    fn what_ejected_backends_of_a_large_set_leave_is_shared_by_weight() {
        let backends = fixture::backends(&[1, 1, 2, 3, 1, 1, 2, 3, 1, 1]);
        for out in [2, 3, 4, 5] {
            fixture::eject(&backends[out], 1_000);
        }
        let shares = fixture::shares(&LeastConnections::new(&backends), &backends, 90_000, 7);
        for (i, unit) in [(0, 1), (1, 1), (6, 2), (7, 3), (8, 1), (9, 1)] {
            assert!(shares[i].abs_diff(unit * 10_000) < unit * 2_000, "{shares:?}");
        }
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
