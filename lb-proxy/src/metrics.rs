//! What a proxy counts.
//!
//! Instruments are resolved when a table is built and only incremented on the hot path. Each
//! worker has a shard of its own, so no two cores write the same cache line; reading adds up.
//!
//! # Invariant
//!
//! A shard is written by one thread only, its worker's. So counting is a load and a store, a
//! nanosecond, and not an atomic addition, which costs several.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use lb_proto::{
    latency::{self, BUCKETS},
    v1,
};

pub mod page;

/// One `T` a worker, each on cache lines of its own. Clones are the same.
#[derive(Debug)]
pub struct Sharded<T>(Arc<[Padded<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// How many took how long, by the buckets of [`latency`].
#[derive(Debug, Default)]
pub struct Latencies([Counter; BUCKETS]);

/// The same, with their sum.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    sum_micros: Counter,
    buckets: Latencies,
}

/// Of one route. What each request counts is in one cache line, and a bucket in another: of many routes,
/// none is in the cache.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RouteMetrics {
    /// By the first digit of the status.
    responses: [Counter; 5],
    /// From and to clients, on their connections: heads, bodies and their framing.
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    /// From the request's head to the response's head.
    pub duration: Histogram,
    /// Cut off: by their clients, before the answer or within it, or at the end of a drain.
    pub aborted: Counter,
    pub retries: Counter,
    pub budget_exhausted: Counter,
}

/// Of the connections of one tcp listener that went to one backend set.
#[derive(Debug, Default)]
pub struct TcpMetrics {
    pub opened: Counter,
    pub closed: Counter,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    /// From a connection's begin to its end.
    pub duration: Histogram,
}

/// Of one backend set, whatever backends it has had.
#[derive(Debug, Default)]
pub struct SetMetrics {
    /// As [`BackendMetrics::latency`].
    pub attempts: Histogram,
    /// TLS with its backends.
    pub handshakes_full: Counter,
    pub handshakes_resumed: Counter,
    pub handshakes_failed: Counter,
}

/// Of one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    pub attempts: Counter,
    pub connects: Counter,
    /// Attempts that went out on a connection that had idled.
    pub reuses: Counter,
    pub connect_failures: Counter,
    pub resets: Counter,
    pub timeouts: Counter,
    pub responses_5xx: Counter,
    pub ejections: Counter,
    /// From an attempt's start to the response's head, or until it was given up.
    pub latency: Latencies,
    /// A gauge: connections that idle, as of the worker's last sweep.
    pub idle: Counter,
}

/// Of one worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    pub connections_accepted: Counter,
    pub connections_closed: Counter,
    /// Requests that no route took, or that were no proper requests.
    pub unrouted: Counter,
    pub accept_errors: Counter,
    /// Connections that switched protocols.
    pub tunnels_opened: Counter,
    pub tunnels_closed: Counter,
    /// TLS with clients, from the first byte on.
    pub handshakes_full: Counter,
    pub handshakes_resumed: Counter,
    /// That did not come to their end.
    pub handshakes_failed: Counter,
    /// Answers to CAs that look whether a domain is ours.
    pub http_01: Counter,
    pub tls_alpn_01: Counter,
    pub proxy_headers: ProxyHeaders,
    pub client_hellos: ClientHellos,
    /// TCP connections that no route took.
    pub tcp_unrouted: Counter,
    /// Answers that the proxy gave instead of a backend's, by [`REASONS`].
    refusals: [Counter; REASONS.len() + 1],
    pub limits: Limits,
}

/// By which balancers in front say whose connection they pass on.
#[derive(Debug, Default)]
pub struct ProxyHeaders {
    pub read: Counter,
    pub malformed: Counter,
    /// One was required.
    pub absent: Counter,
    /// One was required, and the peer is not trusted to send any.
    pub untrusted: Counter,
}

/// That tcp listeners look at, and do not answer.
#[derive(Debug, Default)]
pub struct ClientHellos {
    pub read: Counter,
    /// The client speaks something else.
    pub no_tls: Counter,
    pub malformed: Counter,
}

/// What became of the access log's lines so far. Counted a chunk at a time, so threads may share it.
#[derive(Debug, Default)]
pub struct LogCounts {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// How often a limit was reached.
#[derive(Debug, Default)]
pub struct Limits {
    /// A client took too long between requests.
    pub idle_timeout: Counter,
    /// A client took too long for its handshake.
    pub handshake_timeout: Counter,
    /// There were too many handshakes under way.
    pub max_handshakes: Counter,
    /// There were too many connections that had not got to HTTP or TCP yet.
    pub max_preludes: Counter,
    /// A client took too long for a request's head, or for what comes before.
    pub header_timeout: Counter,
    /// A client sent nothing of a body for too long.
    pub body_timeout: Counter,
    /// A client took nothing for too long.
    pub write_timeout: Counter,
    /// A backend was silent for too long within a response.
    pub stream_idle_timeout: Counter,
    /// Nothing went through a tunnel for too long.
    pub tunnel_idle_timeout: Counter,
    /// There were too many connections in all, or of a listener.
    pub max_connections: Counter,
    /// There were too many of one client at a listener.
    pub max_connections_per_client: Counter,
    /// A connection had served as many requests as it may.
    pub max_requests_per_connection: Counter,
    /// A head, a target or a body was too long.
    pub max_header_bytes: Counter,
    pub max_target_bytes: Counter,
    pub max_request_bytes: Counter,
    /// Too much waited in buffers.
    pub max_buffer_bytes: Counter,
    /// A connection to a backend was closed because enough of them idled.
    pub pool_idle: Counter,
    /// There were no more descriptors, and what idled was closed to make room.
    pub descriptors: Counter,
}

/// What `Proxy-Status` calls the errors that the proxy answers.
pub const REASONS: [&str; 16] = [
    "connection_limit_reached",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_write_timeout",
    "destination_ip_unroutable",
    "destination_not_found",
    "destination_unavailable",
    "http_protocol_error",
    "http_request_denied",
    "http_request_error",
    "http_response_timeout",
    "proxy_internal_error",
    "tls_alert_received",
    "tls_certificate_error",
    "tls_protocol_error",
];

// === impl Sharded, Counter, Histogram ===

impl<T: Default> Sharded<T> {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Padded::default()).collect())
    }

    /// The shard that only this worker writes.
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }

    /// Whether there is another clone.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.0.iter().map(|shard| counter(&shard.0).get()).sum()
    }

    /// By bucket.
    pub fn latencies(&self, latencies: impl Fn(&T) -> &Latencies) -> [u64; BUCKETS] {
        let mut counts = [0; BUCKETS];
        for shard in &*self.0 {
            for (count, counter) in counts.iter_mut().zip(&latencies(&shard.0).0) {
                *count += counter.get();
            }
        }
        counts
    }

    /// By bucket, and their sum.
    pub fn histogram(&self, histogram: impl Fn(&T) -> &Histogram) -> ([u64; BUCKETS], Duration) {
        let micros = self.sum(|shard| &histogram(shard).sum_micros);
        (self.latencies(|shard| &histogram(shard).buckets), Duration::from_micros(micros))
    }
}

impl<T> Clone for Sharded<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Relaxed);
    }

    /// For a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Latencies {
    pub fn record(&self, value: Duration) {
        self.0[latency::bucket(value)].increment();
    }
}

impl Histogram {
    pub fn record(&self, value: Duration) {
        self.buckets.record(value);
        self.sum_micros.add(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }
}

impl RouteMetrics {
    pub fn record(&self, status: StatusCode, duration: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.responses[class].increment();
        self.duration.record(duration);
    }
}

impl WorkerMetrics {
    /// Counts an answer that is given instead of a backend's, with what its `Proxy-Status` says.
    pub fn refused(&self, reason: &str) {
        let known = REASONS.iter().position(|known| *known == reason);
        self.refusals[known.unwrap_or(REASONS.len())].increment();
    }
}

impl LogCounts {
    /// Lines that were written, and lines that were not and will not be.
    pub fn read(&self) -> (u64, u64) {
        (self.written.load(Relaxed), self.dropped.load(Relaxed))
    }

    pub fn written(&self, lines: u64) {
        self.written.fetch_add(lines, Relaxed);
    }

    pub fn dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }
}

impl Sharded<WorkerMetrics> {
    /// By reason; the last one is for any that has no name.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = REASONS.into_iter().chain(["other"]);
        names.enumerate().map(|(i, name)| (name, self.sum(|shard| &shard.refusals[i])))
    }
}

impl Sharded<RouteMetrics> {
    /// By class.
    pub fn responses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate();
        classes.map(|(i, class)| (class, self.sum(|shard| &shard.responses[i])))
    }

    /// Of the route's requests.
    pub fn totals(&self) -> v1::Totals {
        v1::Totals {
            requests: self.responses().map(|(_, count)| count).sum(),
            errors: self.sum(|shard| &shard.responses[4]),
            latency: self.latencies(|shard| &shard.duration.buckets).into(),
        }
    }
}

impl Sharded<BackendMetrics> {
    /// Of the attempts at the backend.
    pub fn totals(&self) -> v1::Totals {
        let failures: [fn(&BackendMetrics) -> &Counter; 4] =
            [|m| &m.connect_failures, |m| &m.resets, |m| &m.timeouts, |m| &m.responses_5xx];
        v1::Totals {
            requests: self.sum(|shard| &shard.attempts),
            errors: failures.into_iter().map(|failure| self.sum(failure)).sum(),
            latency: self.latencies(|shard| &shard.latency).into(),
        }
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
        let responses: Vec<_> = metrics.responses().map(|(_, count)| count).collect();
        assert_eq!(responses, [0, 2, 0, 0, 1]);
        let (buckets, sum) = metrics.histogram(|shard| &shard.duration);
        assert_eq!((buckets[0], buckets[3], buckets[BUCKETS - 1]), (1, 1, 1));
        assert_eq!(sum, Duration::from_millis(60_001));
        let totals = metrics.totals();
        assert_eq!((totals.requests, totals.errors), (3, 1));
    }

    #[test]
    fn an_answer_whose_reason_has_no_name_is_counted_as_another() {
        let metrics = Sharded::<WorkerMetrics>::new(1);
        metrics.of(0).refused("destination_unavailable");
        metrics.of(0).refused("never heard of");
        let counted: Vec<_> = metrics.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("destination_unavailable", 1), ("other", 1)]);
    }
}
