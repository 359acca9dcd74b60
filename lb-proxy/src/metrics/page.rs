//! The page of a proxy's metrics. What each of them is for is in `docs/metrics.md`.
//!
//! Labels are bounded by the desired state: routes, backend sets and backends, or by lists in the
//! code. Nothing that a client sends becomes one.

use lb_common::exposition::{self, Page};
use lb_proto::latency;

use super::{BackendMetrics, Counter, Limits, RouteMetrics, Sharded, TcpMetrics};
use crate::{
    control::status::{ControlStatus, LastGoodStatus, Running},
    local::Shared,
    table::{BackendSet, Route, RoutingTable, Service, Target},
};

/// What a page is written from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub shared: &'a Shared,
    pub control: &'a ControlStatus,
    pub is_draining: bool,
    /// As backends' live parts know it.
    pub now: u64,
}

/// The whole page.
pub fn render(facts: &Facts<'_>) -> Page {
    let table = facts.shared.table.load_full();
    let mut page = Page::default();
    exposition::process(&mut page);
    control(facts, &mut page);
    workers(facts, &mut page);
    routes(&table, &mut page);
    tcp(&table, &mut page);
    backends(&table, facts.now, &mut page);
    page
}

/// What runs, and where it comes from.
fn control(facts: &Facts<'_>, page: &mut Page) {
    let ControlStatus { connection, running, last_rejection, last_good, counts, .. } =
        facts.control;
    let is_connected = connection.is_connected();
    let version = running.map(|running| running.id.version).unwrap_or_default();
    // Until something later is applied.
    let is_rejected = last_rejection.as_ref().is_some_and(|last| last.snapshot.version > version);
    let Running { revision, since, .. } = running.unwrap_or_default();
    #[rustfmt::skip]
    let gauges = [
        ("lb_proxy_table_epoch", "Epoch of the snapshot that runs.", version.epoch),
        ("lb_proxy_table_version", "Version of the snapshot that runs.", version.version),
        ("lb_proxy_table_revision", "Accepted change that runs.", revision),
        ("lb_proxy_table_applied_timestamp_seconds", "When it was taken into service, as Unix time; 0 if nothing runs yet.", since.as_secs()),
        ("lb_proxy_controller_connected", "1 while the control stream is open.", is_connected.into()),
        ("lb_proxy_update_rejected", "1 while a later update than the one that runs was refused.", is_rejected.into()),
        ("lb_proxy_draining", "1 once the proxy is shutting down.", facts.is_draining.into()),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help).value(value);
    }
    const STREAMS: &str = "Control streams that were opened.";
    page.counter("lb_proxy_controller_streams_total", STREAMS).value(counts.streams);
    const FAILURES: &str = "Control streams that did not open, or broke.";
    page.counter("lb_proxy_controller_stream_failures_total", FAILURES).value(counts.failures);
    let mut updates = page.counter("lb_proxy_updates_total", "Updates by what became of them.");
    for (result, count) in [("applied", counts.applied), ("rejected", counts.rejected)] {
        updates.sample(&[("result", result)], count);
    }
    const LAST_GOOD: &str = "1 for what the last-known-good file on disk is.";
    let mut states = page.gauge("lb_proxy_last_good", LAST_GOOD);
    let is = match last_good {
        LastGoodStatus::Absent => "absent",
        LastGoodStatus::Loaded { .. } => "loaded",
        LastGoodStatus::Written { .. } => "written",
        LastGoodStatus::Refused { .. } => "refused",
        LastGoodStatus::WriteFailed { .. } => "write_failed",
    };
    for state in ["absent", "loaded", "written", "refused", "write_failed"] {
        states.sample(&[("state", state)], u8::from(state == is));
    }
}

/// What belongs to no route.
fn workers(facts: &Facts<'_>, page: &mut Page) {
    let metrics = &facts.shared.metrics;
    let accepted = metrics.sum(|shard| &shard.connections_accepted);
    let closed = metrics.sum(|shard| &shard.connections_closed);
    const ACCEPTED: &str = "Client connections that were accepted.";
    page.counter("lb_proxy_connections_accepted_total", ACCEPTED).value(accepted);
    page.gauge("lb_proxy_connections_open", "Client connections that are open.")
        .value(accepted.saturating_sub(closed));
    const ACCEPT_ERRORS: &str = "Connections that could not be accepted.";
    page.counter("lb_proxy_accept_errors_total", ACCEPT_ERRORS)
        .value(metrics.sum(|shard| &shard.accept_errors));
    let opened = metrics.sum(|shard| &shard.tunnels_opened);
    const TUNNELS: &str = "Connections that switched protocols.";
    page.counter("lb_proxy_tunnels_total", TUNNELS).value(opened);
    page.gauge("lb_proxy_tunnels_open", "Tunnels that are open.")
        .value(opened.saturating_sub(metrics.sum(|shard| &shard.tunnels_closed)));
    const HANDSHAKES: &str = "TLS handshakes with clients by what became of them.";
    let mut handshakes = page.counter("lb_proxy_tls_handshakes_total", HANDSHAKES);
    let counts = [
        ("full", metrics.sum(|shard| &shard.handshakes_full)),
        ("resumed", metrics.sum(|shard| &shard.handshakes_resumed)),
        ("failed", metrics.sum(|shard| &shard.handshakes_failed)),
    ];
    for (result, count) in counts {
        handshakes.sample(&[("result", result)], count);
    }
    const CHALLENGES: &str = "Answers to CAs that look whether a domain is ours.";
    let mut challenges = page.counter("lb_proxy_acme_answers_total", CHALLENGES);
    let counts = [
        ("http-01", metrics.sum(|shard| &shard.http_01)),
        ("tls-alpn-01", metrics.sum(|shard| &shard.tls_alpn_01)),
    ];
    for (challenge, count) in counts {
        challenges.sample(&[("challenge", challenge)], count);
    }
    const HEADERS: &str = "PROXY protocol headers of clients' connections by what became of them.";
    let mut headers = page.counter("lb_proxy_proxy_headers_total", HEADERS);
    let counts = [
        ("read", metrics.sum(|shard| &shard.proxy_headers.read)),
        ("malformed", metrics.sum(|shard| &shard.proxy_headers.malformed)),
        ("absent", metrics.sum(|shard| &shard.proxy_headers.absent)),
        ("untrusted", metrics.sum(|shard| &shard.proxy_headers.untrusted)),
    ];
    for (result, count) in counts {
        headers.sample(&[("result", result)], count);
    }
    const HELLOS: &str = "What clients of tcp listeners that go by their hello said first.";
    let mut hellos = page.counter("lb_proxy_client_hellos_total", HELLOS);
    let counts = [
        ("read", metrics.sum(|shard| &shard.client_hellos.read)),
        ("no_tls", metrics.sum(|shard| &shard.client_hellos.no_tls)),
        ("malformed", metrics.sum(|shard| &shard.client_hellos.malformed)),
    ];
    for (result, count) in counts {
        hellos.sample(&[("result", result)], count);
    }
    const TCP_UNROUTED: &str = "TCP connections that no route took.";
    page.counter("lb_proxy_tcp_unrouted_total", TCP_UNROUTED)
        .value(metrics.sum(|shard| &shard.tcp_unrouted));
    page.counter(
        "lb_proxy_unrouted_total",
        "Requests that no route took, or that were no proper or no whole requests.",
    )
    .value(metrics.sum(|shard| &shard.unrouted));
    const REFUSALS: &str = "Answers that the proxy gave instead of a backend's, by Proxy-Status.";
    let mut refusals = page.counter("lb_proxy_request_errors_total", REFUSALS);
    for (reason, count) in metrics.refusals() {
        refusals.sample(&[("error", reason)], count);
    }
    let (written, dropped) = facts.shared.access_log.read();
    const LINES: &str = "Lines of the access log that were written.";
    page.counter("lb_proxy_access_log_lines_total", LINES).value(written);
    const DROPPED: &str = "Lines of the access log that its sink was too slow for, or refused.";
    page.counter("lb_proxy_access_log_dropped_total", DROPPED).value(dropped);
    const LIMITS: &str = "Times that a limit was reached.";
    let mut limits = page.counter("lb_proxy_limits_hit_total", LIMITS);
    type Read = fn(&Limits) -> &Counter;
    let read: [(&str, Read); 18] = [
        ("body_timeout", |limits| &limits.body_timeout),
        ("descriptors", |limits| &limits.descriptors),
        ("handshake_timeout", |limits| &limits.handshake_timeout),
        ("header_timeout", |limits| &limits.header_timeout),
        ("idle_timeout", |limits| &limits.idle_timeout),
        ("max_buffer_bytes", |limits| &limits.max_buffer_bytes),
        ("max_connections", |limits| &limits.max_connections),
        ("max_connections_per_client", |limits| &limits.max_connections_per_client),
        ("max_handshakes", |limits| &limits.max_handshakes),
        ("max_header_bytes", |limits| &limits.max_header_bytes),
        ("max_preludes", |limits| &limits.max_preludes),
        ("max_request_bytes", |limits| &limits.max_request_bytes),
        ("max_requests_per_connection", |limits| &limits.max_requests_per_connection),
        ("max_target_bytes", |limits| &limits.max_target_bytes),
        ("pool_max_idle", |limits| &limits.pool_idle),
        ("stream_idle_timeout", |limits| &limits.stream_idle_timeout),
        ("tunnel_idle_timeout", |limits| &limits.tunnel_idle_timeout),
        ("write_timeout", |limits| &limits.write_timeout),
    ];
    for (limit, read) in read {
        limits.sample(&[("limit", limit)], metrics.sum(|shard| read(&shard.limits)));
    }
}

fn routes(table: &RoutingTable, page: &mut Page) {
    let routes: Vec<(&str, &Route)> =
        table.routes.iter().map(|(name, route)| (name.as_str(), &**route)).collect();
    // Connections have no responses.
    let http: Vec<_> = routes.iter().copied().filter(|(_, route)| !route.is_tcp).collect();

    const RESPONSES: &str = "Responses by route and class of status.";
    let mut responses = page.counter("lb_proxy_responses_total", RESPONSES);
    for (name, route) in &http {
        for (class, count) in route.metrics.responses() {
            responses.sample(&[("route", name), ("class", class)], count);
        }
    }
    const SECONDS: &str = "From a request's head to its response's head.";
    let mut seconds = page.histogram("lb_proxy_response_seconds", SECONDS);
    for (name, route) in &http {
        let (counts, sum) = route.metrics.histogram(|shard| &shard.duration);
        seconds.buckets(&[("route", name)], latency::bounds(), &counts, sum);
    }
    let any = |_: &Route| true;
    let http = |route: &Route| !route.is_tcp;
    let forwards = |route: &Route| !route.is_tcp && matches!(route.target, Target::Forward(_));
    type Which<'a> = &'a dyn Fn(&Route) -> bool;
    type Read = fn(&RouteMetrics) -> &Counter;
    #[rustfmt::skip]
    let counters: [(&str, &str, Which<'_>, Read); 5] = [
        ("lb_proxy_aborted_total", "Requests that were cut off: by their clients, before the answer or within it, or at the end of a drain.", &http, |m| &m.aborted),
        ("lb_proxy_received_bytes_total", "Bytes from clients, requests' heads included.", &any, |m| &m.received_bytes),
        ("lb_proxy_sent_bytes_total", "Bytes to clients, responses' heads included.", &any, |m| &m.sent_bytes),
        ("lb_proxy_retries_total", "Attempts after the first.", &forwards, |m| &m.retries),
        ("lb_proxy_retry_budget_exhausted_total", "Retries that the budget did not pay for.", &forwards, |m| &m.budget_exhausted),
    ];
    for (metric, help, has, read) in counters {
        let mut family = page.counter(metric, help);
        for (name, route) in routes.iter().filter(|(_, route)| has(route)) {
            family.sample(&[("route", name)], route.metrics.sum(read));
        }
    }
}

/// Of connections that are no requests, by listener and backend set.
fn tcp(table: &RoutingTable, page: &mut Page) {
    let mut pairs: Vec<(&str, &str, &Sharded<TcpMetrics>)> = table
        .listeners()
        .filter_map(|listener| match &listener.service {
            Service::Tcp(tcp) => Some((listener.spec.name.as_str(), tcp)),
            Service::Http(_) => None,
        })
        .flat_map(|(name, tcp)| tcp.counted().map(move |(set, counted)| (name, set, counted)))
        .collect();
    pairs.sort_by_key(|(listener, set, _)| (*listener, *set));
    fn labels<'a>(listener: &'a str, set: &'a str) -> [(&'static str, &'a str); 2] {
        [("listener", listener), ("backend_set", set)]
    }

    const SECONDS: &str = "From a TCP connection's begin to its end.";
    let mut seconds = page.histogram("lb_proxy_tcp_connection_seconds", SECONDS);
    for (listener, set, counted) in &pairs {
        let (counts, sum) = counted.histogram(|shard| &shard.duration);
        seconds.buckets(&labels(listener, set), latency::bounds(), &counts, sum);
    }
    type Read = fn(&TcpMetrics) -> &Counter;
    #[rustfmt::skip]
    let counters: [(&str, &str, Read); 3] = [
        ("lb_proxy_tcp_connections_total", "TCP connections that were to go to a backend set.", |m| &m.opened),
        ("lb_proxy_tcp_received_bytes_total", "Bytes from clients of TCP connections.", |m| &m.received_bytes),
        ("lb_proxy_tcp_sent_bytes_total", "Bytes to clients of TCP connections.", |m| &m.sent_bytes),
    ];
    for (metric, help, read) in counters {
        let mut family = page.counter(metric, help);
        for (listener, set, counted) in &pairs {
            family.sample(&labels(listener, set), counted.sum(read));
        }
    }
    const OPEN: &str = "TCP connections that are open.";
    let mut family = page.gauge("lb_proxy_tcp_connections_open", OPEN);
    for (listener, set, counted) in &pairs {
        let closed = counted.sum(|m| &m.closed);
        let open = counted.sum(|m| &m.opened).saturating_sub(closed);
        family.sample(&labels(listener, set), open);
    }
}

fn backends(table: &RoutingTable, now: u64, page: &mut Page) {
    let mut sets: Vec<(&str, &BackendSet)> =
        table.backend_sets().map(|(name, set)| (name.as_str(), &**set)).collect();
    sets.sort_by_key(|(name, _)| *name);

    const SECONDS: &str = "From an attempt's start to the response's head, or to its time-out.";
    let mut seconds = page.histogram("lb_proxy_attempt_seconds", SECONDS);
    for (name, set) in &sets {
        let (counts, sum) = set.set_metrics().histogram(|shard| &shard.attempts);
        seconds.buckets(&[("backend_set", name)], latency::bounds(), &counts, sum);
    }
    const HANDSHAKES: &str = "TLS handshakes with backends by what became of them.";
    let mut handshakes = page.counter("lb_proxy_backend_tls_handshakes_total", HANDSHAKES);
    for (name, set) in sets.iter().filter(|(_, set)| set.tls().is_some()) {
        let metrics = set.set_metrics();
        let counts = [
            ("full", metrics.sum(|shard| &shard.handshakes_full)),
            ("resumed", metrics.sum(|shard| &shard.handshakes_resumed)),
            ("failed", metrics.sum(|shard| &shard.handshakes_failed)),
        ];
        for (result, count) in counts {
            handshakes.sample(&[("backend_set", name), ("result", result)], count);
        }
    }
    type Read = fn(&BackendMetrics) -> &Counter;
    #[rustfmt::skip]
    let counters: [(&str, &str, Read); 8] = [
        ("lb_proxy_attempts_total", "Requests sent to a backend, retries included.", |m| &m.attempts),
        ("lb_proxy_connects_total", "Connections opened to a backend.", |m| &m.connects),
        ("lb_proxy_connection_reuses_total", "Attempts on a connection that had idled.", |m| &m.reuses),
        ("lb_proxy_connect_failures_total", "Connections that a backend did not take.", |m| &m.connect_failures),
        ("lb_proxy_resets_total", "Attempts that a backend broke off.", |m| &m.resets),
        ("lb_proxy_attempt_timeouts_total", "Attempts that a backend did not answer in time.", |m| &m.timeouts),
        ("lb_proxy_backend_5xx_total", "Responses of a backend with a 5xx.", |m| &m.responses_5xx),
        ("lb_proxy_ejections_total", "Times that this proxy kept a backend out.", |m| &m.ejections),
    ];
    type Look = fn(&lb_routing::backend::Backend, &Sharded<BackendMetrics>, u64) -> u64;
    #[rustfmt::skip]
    let gauges: [(&str, &str, Look); 4] = [
        ("lb_proxy_in_flight", "Attempts under way.", |b, _, _| b.live.in_flight()),
        ("lb_proxy_idle_connections", "Connections to a backend that idle.", |_, m, _| m.sum(|m| &m.idle)),
        ("lb_proxy_ejected", "1 while this proxy keeps a backend out.", |b, _, now| b.live.outlier.ejection(now).is_some().into()),
        ("lb_proxy_backend_usable", "1 if a request may go there now.", |b, _, now| b.is_open(now).into()),
    ];
    for (metric, help, read) in counters {
        let mut family = page.counter(metric, help);
        for (set, compiled) in &sets {
            for (backend, metrics) in compiled.counted() {
                let labels = [("backend_set", *set), ("backend", backend.name.as_str())];
                family.sample(&labels, metrics.sum(read));
            }
        }
    }
    for (metric, help, look) in gauges {
        let mut family = page.gauge(metric, help);
        for (set, compiled) in &sets {
            for (backend, metrics) in compiled.counted() {
                let labels = [("backend_set", *set), ("backend", backend.name.as_str())];
                family.sample(&labels, look(backend, metrics, now));
            }
        }
    }
}
