//! What a proxy counts.
//!
//! Instruments are resolved when a table is built and only incremented on the hot path. Each
//! worker has a shard of its own, so no two cores write the same cache line; reading adds up.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;

/// One `T` a worker, each on cache lines of its own.
#[derive(Debug)]
pub struct Sharded<T>(Box<[Padded<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Upper bounds in microseconds; one more bucket takes the rest.
const BOUNDS: [u64; 13] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    sum_micros: Counter,
}

/// Of one route.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    /// By the first digit of the status.
    responses: [Counter; 5],
    /// From the request's head to the response's head.
    pub duration: Histogram,
    pub retries: Counter,
    pub budget_exhausted: Counter,
}

/// Of one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    pub attempts: Counter,
    pub connects: Counter,
    pub connect_failures: Counter,
    pub resets: Counter,
    pub timeouts: Counter,
    pub responses_5xx: Counter,
    pub ejections: Counter,
}

/// Of one worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    pub connections_accepted: Counter,
    pub connections_closed: Counter,
    /// Requests that no route took, or that were no proper requests.
    pub unrouted: Counter,
    pub accept_errors: Counter,
}

/// Text in Prometheus' exposition format.
#[derive(Debug, Default)]
pub struct Exposition(String);

// === impl Sharded, Counter, Histogram ===

impl<T: Default> Sharded<T> {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Padded::default()).collect())
    }

    /// The shard that only this worker writes.
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    pub fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.0.iter().map(|shard| counter(&shard.0).get()).sum()
    }
}

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Histogram {
    pub fn record(&self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].increment();
        self.sum_micros.add(micros);
    }
}

impl RouteMetrics {
    pub fn record(&self, status: StatusCode, duration: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.responses[class].increment();
        self.duration.record(duration);
    }
}

// === impl Exposition ===

impl Exposition {
    /// Begins a metric; its samples follow.
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", text.escape_default());
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    /// `lb_proxy_responses_total` of one route.
    pub fn responses(&mut self, route: &str, metrics: &Sharded<RouteMetrics>) {
        for (i, class) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            let value = metrics.sum(|shard| &shard.responses[i]);
            let labels = [("route", route), ("class", class)];
            self.sample("lb_proxy_responses_total", &labels, value);
        }
    }

    /// `lb_proxy_response_seconds` of one route.
    pub fn durations(&mut self, route: &str, metrics: &Sharded<RouteMetrics>) {
        const NAME: &str = "lb_proxy_response_seconds";
        let mut count = 0;
        for i in 0..=BOUNDS.len() {
            count += metrics.sum(|shard| &shard.duration.buckets[i]);
            let bound = match BOUNDS.get(i) {
                Some(micros) => Duration::from_micros(*micros).as_secs_f64().to_string(),
                None => "+Inf".into(),
            };
            self.sample(&format!("{NAME}_bucket"), &[("route", route), ("le", &bound)], count);
        }
        let sum = Duration::from_micros(metrics.sum(|shard| &shard.duration.sum_micros));
        self.sample(&format!("{NAME}_sum"), &[("route", route)], sum.as_secs_f64());
        self.sample(&format!("{NAME}_count"), &[("route", route)], count);
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_of_all_workers_are_added_up() {
        let metrics = Sharded::<RouteMetrics>::new(2);
        metrics.of(0).record(StatusCode::OK, Duration::from_millis(1));
        metrics.of(1).record(StatusCode::NO_CONTENT, Duration::from_secs(60));
        metrics.of(1).record(StatusCode::BAD_GATEWAY, Duration::ZERO);
        let mut text = Exposition::default();
        text.responses("app", &metrics);
        text.durations("app", &metrics);
        let text = text.into_text();
        for line in [
            "lb_proxy_responses_total{route=\"app\",class=\"2xx\"} 2",
            "lb_proxy_responses_total{route=\"app\",class=\"5xx\"} 1",
            "lb_proxy_response_seconds_bucket{route=\"app\",le=\"0.0005\"} 1",
            "lb_proxy_response_seconds_bucket{route=\"app\",le=\"0.001\"} 2",
            "lb_proxy_response_seconds_bucket{route=\"app\",le=\"10\"} 2",
            "lb_proxy_response_seconds_bucket{route=\"app\",le=\"+Inf\"} 3",
            "lb_proxy_response_seconds_sum{route=\"app\"} 60.001",
            "lb_proxy_response_seconds_count{route=\"app\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
