//! What the fleet's traffic is like right now, from what proxies count.
//!
//! A proxy tells about once a second what it counted since the time before. That is spread over
//! the time between, into slots of a ring, and what is said is the sum of a few seconds of slots.
//! The window ends a little in the past, where all proxies have told already; so traffic that is
//! steady shows as steady, however the reports of many proxies fall.
//!
//! Pure: time comes in as an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use lb_common::id::{BackendName, BackendSetName};
use lb_proto::{
    duration,
    latency::{self, BUCKETS},
    v1,
};

type Backend = (BackendSetName, BackendName);

/// Over so long is measured.
const WINDOW: Duration = Duration::from_secs(3);
/// So long ago the window ends: in a little more than a second, each proxy has told.
const LAG: Duration = Duration::from_millis(1_250);
const SLOT: Duration = Duration::from_millis(500);
/// Enough for [`WINDOW`] and [`LAG`], wherever in a slot they begin.
const SLOTS: usize = 10;
const RING: Duration = Duration::from_secs(5);
/// After a report without anything new a proxy is silent until there is something, which it then
/// tells within so long.
const FIRST_SPAN: Duration = Duration::from_secs(1);

/// What one proxy counted since it told last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Increase {
    pub own: v1::Totals,
    pub backends: Vec<(Backend, v1::Totals)>,
}

/// The traffic of one connection of a proxy, as far as it told.
#[derive(Debug, Default)]
pub struct ProxyTraffic {
    last: Option<Last>,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    /// It told something new.
    grew: bool,
}

/// The traffic of the fleet.
#[derive(Debug, Default)]
pub struct FleetTraffic {
    /// Slots are counted from here.
    origin: Option<Instant>,
    fleet: Window,
    /// Of those that had some lately.
    backends: HashMap<Backend, Window>,
    /// The slot in which those were last gone through.
    pruned: u64,
}

/// A few seconds of something's traffic.
#[derive(Clone, Debug, Default)]
struct Window([Slot; SLOTS]);

#[derive(Clone, Debug, Default)]
struct Slot {
    number: u64,
    sums: Sums,
}

/// Shares of requests count too, because what was counted is spread over time.
#[derive(Clone, Debug, Default)]
struct Sums {
    requests: f32,
    errors: f32,
    latency: [f32; BUCKETS],
}

/// A time since the origin, in slots.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: f64,
    to: f64,
}

// === impl FleetTraffic ===

impl FleetTraffic {
    /// Takes what a proxy tells over one connection. What it tells first is of no known time.
    pub fn report(&mut self, proxy: &mut ProxyTraffic, counts: &Increase, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let has_some = |totals: &v1::Totals| totals.requests > 0 || totals.errors > 0;
        let grew = has_some(&counts.own) || counts.backends.iter().any(|(_, more)| has_some(more));
        if let Some(last) = proxy.last.replace(Last { at: now, grew }) {
            let longest = if last.grew { RING } else { FIRST_SPAN };
            let from = last.at.max(now.checked_sub(longest).unwrap_or(last.at));
            let span = Span { from: slots(from, origin), to: slots(now, origin) };
            proxy.window.add(span, &counts.own);
            self.fleet.add(span, &counts.own);
            for (backend, more) in &counts.backends {
                match self.backends.get_mut(backend) {
                    Some(window) => window.add(span, more),
                    None => {
                        self.backends.entry(backend.clone()).or_default().add(span, more);
                    }
                }
            }
        }
        self.prune(slots(now, origin));
    }

    /// Of all proxies together.
    pub fn fleet(&self, now: Instant) -> v1::Load {
        self.load([&self.fleet], now)
    }

    /// Of one proxy.
    pub fn proxy(&self, proxy: &ProxyTraffic, now: Instant) -> v1::Load {
        self.load([&proxy.window], now)
    }

    /// Of some backends together, over the whole fleet.
    pub fn backends<'a>(
        &self,
        backends: impl IntoIterator<Item = &'a Backend>,
        now: Instant,
    ) -> v1::Load {
        self.load(backends.into_iter().filter_map(|backend| self.backends.get(backend)), now)
    }

    fn load<'a>(&self, windows: impl IntoIterator<Item = &'a Window>, now: Instant) -> v1::Load {
        let mut sum = Sums::default();
        if let Some(origin) = self.origin {
            let now = slots(now, origin);
            let to = now - in_slots(LAG);
            let span = Span { from: to - in_slots(WINDOW), to };
            for window in windows {
                window.sum(span, &mut sum);
            }
        }
        sum.load()
    }

    /// Forgets what is silent, once a slot at most. So there are never more than were told of
    /// within the last few seconds, whatever proxies tell.
    fn prune(&mut self, now: f64) {
        let slot = now as u64;
        if self.pruned != slot {
            self.pruned = slot;
            let oldest = slot.saturating_sub(SLOTS as u64);
            self.backends.retain(|_, window| window.newest() > oldest);
        }
    }
}

// === impl Window ===

impl Window {
    /// Adds what was counted in that time, evenly.
    fn add(&mut self, span: Span, more: &v1::Totals) {
        let last = span.to as u64;
        let first = (span.from.max(0.0) as u64).max((last + 1).saturating_sub(SLOTS as u64));
        let length = span.to - span.from;
        for number in first..=last {
            let share = match length > 0.0 {
                true => span.overlap(number) / length,
                false => 1.0,
            };
            if share > 0.0 {
                let slot = &mut self.0[number as usize % SLOTS];
                if slot.number != number {
                    *slot = Slot { number, sums: Sums::default() };
                }
                slot.sums.add(more, share as f32);
            }
        }
    }

    fn sum(&self, span: Span, sum: &mut Sums) {
        for slot in &self.0 {
            let share = span.overlap(slot.number) as f32;
            if share > 0.0 {
                sum.merge(&slot.sums, share);
            }
        }
    }

    fn newest(&self) -> u64 {
        self.0.iter().map(|slot| slot.number).max().unwrap_or_default()
    }
}

impl Span {
    /// How much of a slot it covers.
    fn overlap(self, slot: u64) -> f64 {
        let start = slot as f64;
        (self.to.min(start + 1.0) - self.from.max(start)).max(0.0)
    }
}

fn slots(at: Instant, origin: Instant) -> f64 {
    in_slots(at.saturating_duration_since(origin))
}

fn in_slots(duration: Duration) -> f64 {
    duration.as_secs_f64() / SLOT.as_secs_f64()
}

// === impl Sums ===

impl Sums {
    fn add(&mut self, more: &v1::Totals, share: f32) {
        self.requests += more.requests as f32 * share;
        self.errors += more.errors as f32 * share;
        for (sum, more) in self.latency.iter_mut().zip(&more.latency) {
            *sum += *more as f32 * share;
        }
    }

    fn merge(&mut self, other: &Self, share: f32) {
        self.requests += other.requests * share;
        self.errors += other.errors * share;
        for (sum, more) in self.latency.iter_mut().zip(&other.latency) {
            *sum += more * share;
        }
    }

    /// What is in flight is for others to fill in.
    fn load(&self) -> v1::Load {
        // Thousandths, which is finer than anybody reads and coarser than what rounding leaves.
        let rate =
            |count: f32| (f64::from(count) / WINDOW.as_secs_f64() * 1_000.0).round() / 1_000.0;
        let counts = self.latency.map(|count| (f64::from(count) * 1_000.0).round() as u64);
        let quantile = |q| latency::quantile(&counts, q).map(duration::to_wire);
        v1::Load {
            requests_per_second: rate(self.requests),
            errors_per_second: rate(self.errors),
            p50: quantile(0.5),
            p99: quantile(0.99),
            in_flight: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts that grow as a test says, told by proxies at times that it says.
    struct Fixture {
        traffic: FleetTraffic,
        start: Instant,
    }

    /// A proxy that told so many requests in all.
    #[derive(Default)]
    struct Proxy {
        counted: ProxyTraffic,
        told: u64,
    }

    fn backend(name: &str) -> Backend {
        (
            BackendSetName::new("app").expect("a valid name"),
            BackendName::new(name).expect("a valid name"),
        )
    }

    /// So many requests, one in ten of them an error, and each of at most 1 ms.
    fn totals(requests: u64) -> v1::Totals {
        v1::Totals { requests, errors: requests / 10, latency: vec![0, 0, 0, requests] }
    }

    /// All of them sent to one backend.
    fn counts(requests: u64) -> Increase {
        Increase { own: totals(requests), backends: vec![(backend("one"), totals(requests))] }
    }

    impl Fixture {
        fn new() -> Self {
            Self { traffic: FleetTraffic::default(), start: lb_common::clock::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn tell(&mut self, proxy: &mut ProxyTraffic, millis: u64, counts: Increase) {
            let now = self.at(millis);
            self.traffic.report(proxy, &counts, now);
        }

        /// It has counted so many requests in all.
        fn count(&mut self, proxy: &mut Proxy, millis: u64, requests: u64) {
            let more = requests - std::mem::replace(&mut proxy.told, requests);
            self.tell(&mut proxy.counted, millis, counts(more));
        }

        fn fleet(&self, millis: u64) -> f64 {
            self.traffic.fleet(self.at(millis)).requests_per_second
        }

        fn of(&self, name: &str, millis: u64) -> f64 {
            self.traffic.backends([&backend(name)], self.at(millis)).requests_per_second
        }
    }

    /// Floats of which many were added up.
    #[track_caller]
    fn about(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= expected * 0.001, "{actual} is not {expected}");
    }

    #[test]
    fn steady_traffic_is_steady_at_any_moment_however_reports_fall() {
        let mut f = Fixture::new();
        let mut proxies: [Proxy; 7] = Default::default();
        for millis in 0..20_000u64 {
            for (i, proxy) in (0..).zip(&mut proxies) {
                // About once a second, never at the same time, and 100 a second each.
                if (millis + 131 * i) % (900 + 40 * i) == 0 {
                    f.count(proxy, millis, millis / 10);
                }
            }
            if millis > 7_000 {
                about_within(f.fleet(millis), 700.0, 0.01);
                about_within(f.of("one", millis), 700.0, 0.01);
            }
        }
        let load = f.traffic.proxy(&proxies[3].counted, f.at(20_000));
        about_within(load.requests_per_second, 100.0, 0.02);
        about_within(load.errors_per_second, 10.0, 0.05);
        assert_eq!(load.p50.map(|p50| p50.nanos), Some(750_000), "between 0.5 and 1 ms");
    }

    #[track_caller]
    fn about_within(actual: f64, expected: f64, part: f64) {
        assert!((actual - expected).abs() <= expected * part, "{actual} is not {expected}");
    }

    #[test]
    fn what_came_before_the_first_report_is_not_counted() {
        let (mut f, mut proxy) = (Fixture::new(), ProxyTraffic::default());
        f.tell(&mut proxy, 0, counts(1_000_000));
        f.tell(&mut proxy, 1_000, counts(30));
        about(f.fleet(2_250), 10.0);
    }

    #[test]
    fn traffic_that_has_stopped_decays_to_nothing() {
        let (mut f, mut proxy) = (Fixture::new(), ProxyTraffic::default());
        for second in 0..10 {
            f.tell(&mut proxy, second * 1_000, counts(50));
        }
        about(f.fleet(9_000), 50.0);
        f.tell(&mut proxy, 10_000, counts(0));
        assert_eq!(f.fleet(13_250), 0.0);
        let idle = f.traffic.proxy(&proxy, f.at(13_250));
        assert_eq!(idle, v1::Load::default());
        assert_eq!(f.fleet(1_000_000), 0.0);
    }

    #[test]
    fn a_report_that_comes_late_costs_resolution_and_no_counts() {
        let (mut f, mut proxy) = (Fixture::new(), Proxy::default());
        for second in [0, 1, 2, 3, 6, 7, 8] {
            f.count(&mut proxy, second * 1_000, second * 50);
        }
        about(f.fleet(8_000), 50.0);
    }

    #[test]
    fn what_follows_a_pause_belongs_to_its_end() {
        let (mut f, mut proxy) = (Fixture::new(), ProxyTraffic::default());
        f.tell(&mut proxy, 0, counts(0));
        f.tell(&mut proxy, 60_000, counts(30));
        about(f.fleet(61_250), 10.0);
        let mut held_up = ProxyTraffic::default();
        f.tell(&mut held_up, 100_000, counts(0));
        f.tell(&mut held_up, 101_000, counts(10));
        f.tell(&mut held_up, 109_000, counts(500));
        // 500 in as much as the ring holds of eight seconds, and not in the last one.
        about(f.fleet(109_000), 100.0);
    }

    #[test]
    fn backends_are_told_apart_and_added_up() {
        let (mut f, mut a, mut b) =
            (Fixture::new(), ProxyTraffic::default(), ProxyTraffic::default());
        let of = |one, two| Increase {
            own: totals(one + two),
            backends: vec![(backend("one"), totals(one)), (backend("two"), totals(two))],
        };
        for proxy in [&mut a, &mut b] {
            f.tell(proxy, 0, Increase::default());
        }
        f.tell(&mut a, 1_000, of(30, 60));
        f.tell(&mut b, 1_000, of(3, 0));
        let now = 2_250;
        about(f.of("one", now), 11.0);
        about(f.of("two", now), 20.0);
        let (one, two) = (backend("one"), backend("two"));
        about(f.traffic.backends([&one, &two], f.at(now)).requests_per_second, 31.0);
        about(f.fleet(now), 31.0);
        assert_eq!(f.of("three", now), 0.0);
    }

    #[test]
    fn quantiles_come_from_all_proxies_together() {
        let (mut f, mut a, mut b) =
            (Fixture::new(), ProxyTraffic::default(), ProxyTraffic::default());
        let of = |bucket: usize, requests| {
            let mut latency = vec![0; bucket + 1];
            latency[bucket] = requests;
            let own = v1::Totals { requests, errors: 0, latency };
            Increase { own, ..Increase::default() }
        };
        for proxy in [&mut a, &mut b] {
            f.tell(proxy, 0, Increase::default());
        }
        f.tell(&mut a, 1_000, of(3, 900)); // up to 1 ms
        f.tell(&mut b, 1_000, of(12, 100)); // 50 to 100 ms
        let load = f.traffic.fleet(f.at(2_250));
        let millis = |wire: Option<prost_types::Duration>| wire.map(|d| d.nanos / 1_000_000);
        assert_eq!((millis(load.p50), millis(load.p99)), (Some(0), Some(95)));
    }

    #[test]
    fn names_that_are_told_no_more_are_forgotten() {
        let (mut f, mut proxy) = (Fixture::new(), ProxyTraffic::default());
        f.tell(&mut proxy, 0, Increase::default());
        for second in 1..100u64 {
            let name = backend(&format!("b{second}"));
            let told = Increase { own: totals(0), backends: vec![(name, totals(1))] };
            f.tell(&mut proxy, second * 1_000, told);
        }
        assert!(f.traffic.backends.len() <= SLOTS, "{}", f.traffic.backends.len());
    }

    #[test]
    fn odd_totals_do_no_harm() {
        let (mut f, mut proxy) = (Fixture::new(), ProxyTraffic::default());
        f.tell(&mut proxy, 0, Increase::default());
        let own = v1::Totals { requests: u64::MAX, errors: u64::MAX, latency: vec![u64::MAX; 99] };
        f.tell(&mut proxy, 0, Increase { own: own.clone(), ..Increase::default() });
        f.tell(&mut proxy, 1_000, Increase { own, ..Increase::default() });
        assert!(f.fleet(1_250).is_finite());
    }
}
