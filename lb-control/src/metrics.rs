//! Numbers for Prometheus. What each of them is for is in `docs/metrics.md`.
//!
//! The owner of the state counts, as plain integers, and a page is written from its view when
//! somebody asks: there is no registry that could disagree with the state.
//!
//! Labels are bounded by the desired state and by the number of proxies.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{exposition::Page, id::BackendSetName};
use lb_proto::{
    latency::{self, BUCKETS},
    v1,
};

/// How a change that was asked for may end.
pub const APPLY_RESULTS: [&str; 8] =
    ["accepted", "busy", "dry_run", "invalid", "not_found", "stale", "store_failed", "unchanged"];

/// What is counted where it happens.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes that were asked for, by how it ended, one of [`APPLY_RESULTS`].
    applies: BTreeMap<&'static str, u64>,
    pub commits: Histogram,
    pub publications: u64,
    /// How long after they were due probes were begun.
    pub probe_lateness: Histogram,
    /// How long probes took, of all sets: one histogram a set would be most of the page.
    pub probes_took: Histogram,
    /// From a snapshot's publication to a proxy's word that it runs it.
    pub pushes: Histogram,
    pub proxy_rejections: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// As in [`latency`].
    buckets: [u64; BUCKETS],
    sum: Duration,
}

/// What was counted of a set's probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    pub passed: u64,
    pub failed: u64,
    /// This process was short of something.
    pub not_made: u64,
    /// Outcomes that changed what is known about a backend.
    pub decisions: u64,
}

/// What is read off the state.
#[derive(Debug)]
pub struct Facts<'a> {
    pub counters: &'a Counters,
    pub revision: u64,
    pub epoch: u64,
    pub version: u64,
    pub snapshot_bytes: usize,
    pub waiting_changes: usize,
    pub probes_in_flight: usize,
    /// Every check fails.
    pub is_cut_off: bool,
    /// What is in the configuration file is not in force.
    pub has_file_problem: bool,
    pub is_store_failing: bool,
    pub probe_counts: BTreeMap<&'a BackendSetName, &'a ProbeCounts>,
    /// In the order of their names.
    pub backend_sets: Vec<BackendSet<'a>>,
    pub certificates: Vec<Certificate<'a>>,
    /// Paths, and whether what is there cannot be used.
    pub ca_files: Vec<(&'a str, bool)>,
    pub orders: Orders,
    /// All that are known.
    pub proxies: Vec<Proxy>,
}

/// Orders of certificates that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub issued: u64,
    pub failed: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    pub name: &'a str,
    /// Since the Unix epoch, if there is one in force.
    pub begins: Option<Duration>,
    pub expires: Option<Duration>,
    /// What was found for it cannot be used.
    pub has_problem: bool,
}

#[derive(Debug)]
pub struct BackendSet<'a> {
    pub name: &'a str,
    /// How many of its backends get traffic.
    pub usable: usize,
    /// How many fail their checks and are used all the same.
    pub held: usize,
    pub backends: Vec<Backend<'a>>,
}

#[derive(Debug)]
pub struct Backend<'a> {
    pub name: &'a str,
    pub health: v1::Health,
    /// Nothing speaks against it: it was not found unhealthy, and has proven itself if it must.
    pub is_healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub id: String,
    pub is_connected: bool,
    pub is_in_sync: bool,
    /// It refused the latest update that it was sent, or part of what it runs does not work there.
    pub is_rejecting: bool,
    /// For how long it could have run what is published, and does not.
    pub lag: Duration,
}

/// The page, but for what every process has.
pub fn render(facts: &Facts<'_>) -> Page {
    let mut page = Page::default();
    state(facts, &mut page);
    backends(facts, &mut page);
    certificates(facts, &mut page);
    proxies(facts, &mut page);
    page
}

fn state(facts: &Facts<'_>, page: &mut Page) {
    let Facts { counters, .. } = facts;
    #[rustfmt::skip]
    let gauges = [
        ("lb_control_revision", "The accepted change that is current.", facts.revision),
        ("lb_control_epoch", "Which start of the controller this is, or later.", facts.epoch),
        ("lb_control_snapshot_version", "The snapshot that proxies are to run.", facts.version),
        ("lb_control_snapshot_bytes", "What that takes as a message.", facts.snapshot_bytes as u64),
        ("lb_control_changes_waiting", "Changes that wait for the store.", facts.waiting_changes as u64),
        ("lb_control_checks_cut_off", "1 while every check fails, so that none is acted upon.", u64::from(facts.is_cut_off)),
        ("lb_control_config_file_problem", "1 while what is in the configuration file is not in force.", u64::from(facts.has_file_problem)),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help).value(value);
    }
    const APPLIES: &str = "Changes that were asked for, by how it ended.";
    let mut applies = page.counter("lb_control_applies_total", APPLIES);
    for result in APPLY_RESULTS {
        // From the start: what is born with its first failure never increases.
        let count = counters.applies.get(result).copied().unwrap_or_default();
        applies.sample(&[("result", result)], count);
    }
    const FAILING: &str = "1 while the store fails: nothing is accepted that has to be stored.";
    page.gauge("lb_control_store_failing", FAILING).value(u8::from(facts.is_store_failing));
    const COMMITS: &str = "How long the store took for a change.";
    counters.commits.write("lb_control_store_commit_seconds", COMMITS, page);
    const PUBLICATIONS: &str = "Snapshots that were published.";
    page.counter("lb_control_publications_total", PUBLICATIONS).value(counters.publications);
}

fn backends(facts: &Facts<'_>, page: &mut Page) {
    let sets = &facts.backend_sets;
    let mut by_health = page.gauge("lb_control_backends", "Backends by their health as decided.");
    for set in sets {
        for health in [v1::Health::Healthy, v1::Health::Unhealthy, v1::Health::Unknown] {
            let count = set.backends.iter().filter(|backend| backend.health == health).count();
            let health = health.as_str_name().to_ascii_lowercase();
            by_health.sample(&[("backend_set", set.name), ("health", &health)], count);
        }
    }
    const USABLE: &str = "Backends that get traffic: active, with a weight, and not unhealthy.";
    let mut usable = page.gauge("lb_control_backends_usable", USABLE);
    for set in sets {
        usable.sample(&[("backend_set", set.name)], set.usable);
    }
    const HELD: &str = "Backends that fail their checks and are used all the same.";
    let mut held = page.gauge("lb_control_backends_held", HELD);
    for set in sets {
        held.sample(&[("backend_set", set.name)], set.held);
    }
    const UNHEALTHY: &str = "1 for each backend that proxies are told to leave alone.";
    let mut unhealthy = page.gauge("lb_control_backend_unhealthy", UNHEALTHY);
    for set in sets {
        // The others have no line: there are tens of thousands, as a rule well.
        for backend in set.backends.iter().filter(|backend| !backend.is_healthy) {
            unhealthy.sample(&[("backend_set", set.name), ("backend", backend.name)], 1);
        }
    }
    let mut probes = page.counter("lb_control_probes_total", "Health probes by their result.");
    for (set, counts) in &facts.probe_counts {
        for (result, count) in
            [("pass", counts.passed), ("fail", counts.failed), ("not_made", counts.not_made)]
        {
            probes.sample(&[("backend_set", set.as_str()), ("result", result)], count);
        }
    }
    facts.counters.probes_took.write(
        "lb_control_probe_seconds",
        "How long health probes took.",
        page,
    );
    const LATENESS: &str = "How long after they were due health probes were begun.";
    let lateness = &facts.counters.probe_lateness;
    lateness.write("lb_control_probe_lateness_seconds", LATENESS, page);
    const IN_FLIGHT: &str = "Health probes under way.";
    page.gauge("lb_control_probes_in_flight", IN_FLIGHT).value(facts.probes_in_flight);
    const CHANGES: &str = "Decisions that changed a backend's health.";
    let mut changes = page.counter("lb_control_health_changes_total", CHANGES);
    for (set, counts) in &facts.probe_counts {
        changes.sample(&[("backend_set", set.as_str())], counts.decisions);
    }
}

fn certificates(facts: &Facts<'_>, page: &mut Page) {
    const EXPIRES: &str = "When a certificate that is in force expires, as Unix time.";
    let mut expires = page.gauge("lb_control_certificate_expiry_timestamp_seconds", EXPIRES);
    for certificate in &facts.certificates {
        if let Some(time) = certificate.expires {
            expires.sample(&[("certificate", certificate.name)], time.as_secs());
        }
    }
    const BEGINS: &str = "Since when a certificate that is in force is good, as Unix time.";
    let mut begins = page.gauge("lb_control_certificate_not_before_timestamp_seconds", BEGINS);
    for certificate in &facts.certificates {
        if let Some(time) = certificate.begins {
            begins.sample(&[("certificate", certificate.name)], time.as_secs());
        }
    }
    const PROBLEM: &str =
        "1 while what is in a certificate's files cannot be used, or it cannot be ordered.";
    let mut problem = page.gauge("lb_control_certificate_problem", PROBLEM);
    for certificate in &facts.certificates {
        problem.sample(&[("certificate", certificate.name)], u8::from(certificate.has_problem));
    }
    const BROKEN: &str = "1 while what is in a file with CAs cannot be used.";
    let mut broken = page.gauge("lb_control_ca_file_problem", BROKEN);
    for (path, is_broken) in &facts.ca_files {
        broken.sample(&[("file", path)], u8::from(*is_broken));
    }
    const ORDERS: &str = "Orders of certificates that have ended, by how.";
    let mut orders = page.counter("lb_control_acme_orders_total", ORDERS);
    for (result, count) in [("issued", facts.orders.issued), ("failed", facts.orders.failed)] {
        orders.sample(&[("result", result)], count);
    }
}

fn proxies(facts: &Facts<'_>, page: &mut Page) {
    let Facts { counters, proxies, .. } = facts;
    let connected = || proxies.iter().filter(|proxy| proxy.is_connected);
    page.gauge("lb_control_proxies_connected", "Proxies that are connected.")
        .value(connected().count());
    page.gauge("lb_control_proxies_in_sync", "Connected proxies that run all of what they should.")
        .value(connected().filter(|proxy| proxy.is_in_sync).count());
    const CONNECTED: &str = "1 while a proxy is connected, 0 once it was.";
    let mut family = page.gauge("lb_control_proxy_connected", CONNECTED);
    for proxy in proxies {
        family.sample(&[("proxy", &proxy.id)], u8::from(proxy.is_connected));
    }
    const IN_SYNC: &str = "1 while a connected proxy runs what it should.";
    let mut family = page.gauge("lb_control_proxy_in_sync", IN_SYNC);
    for proxy in connected() {
        family.sample(&[("proxy", &proxy.id)], u8::from(proxy.is_in_sync));
    }
    const LAG: &str = "For how long a connected proxy has not run what it should.";
    let mut family = page.gauge("lb_control_proxy_lag_seconds", LAG);
    for proxy in connected() {
        family.sample(&[("proxy", &proxy.id)], proxy.lag.as_secs_f64());
    }
    const REJECTING: &str =
        "1 while a connected proxy refuses the latest update, or part of it does not work there.";
    let mut family = page.gauge("lb_control_proxy_rejecting", REJECTING);
    for proxy in connected() {
        family.sample(&[("proxy", &proxy.id)], u8::from(proxy.is_rejecting));
    }
    const REJECTIONS: &str = "Updates that a proxy refused.";
    page.counter("lb_control_proxy_rejections_total", REJECTIONS).value(counters.proxy_rejections);
    const PUSHES: &str = "From a snapshot's publication to a proxy's word that it runs it.";
    counters.pushes.write("lb_control_push_seconds", PUSHES, page);
}

// === impl Counters, Histogram ===

impl Counters {
    /// One of [`APPLY_RESULTS`].
    pub fn count_apply(&mut self, result: &'static str) {
        debug_assert!(APPLY_RESULTS.contains(&result), "{result}");
        *self.applies.entry(result).or_default() += 1;
    }
}

impl Histogram {
    pub fn observe(&mut self, value: Duration) {
        self.buckets[latency::bucket(value)] += 1;
        self.sum += value;
    }

    fn write(&self, name: &str, help: &str, page: &mut Page) {
        page.histogram(name, help).buckets(&[], latency::bounds(), &self.buckets, self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_family_with_its_samples() {
        let mut counters = Counters { publications: 8, ..Counters::default() };
        counters.count_apply("accepted");
        counters.count_apply("accepted");
        for millis in [1, 3, 90_000] {
            counters.commits.observe(Duration::from_millis(millis));
        }
        counters.probe_lateness.observe(Duration::from_millis(2));
        let name = BackendSetName::new("app").expect("a valid name");
        let counts = ProbeCounts { passed: 5, failed: 2, decisions: 1, ..ProbeCounts::default() };
        counters.probes_took.observe(Duration::from_millis(30));
        let probe_counts = [(&name, &counts)].into();
        let backend = |name, health, is_healthy| Backend { name, health, is_healthy };
        let set = BackendSet {
            name: "app",
            usable: 1,
            held: 1,
            backends: vec![
                backend("one", v1::Health::Unhealthy, false),
                backend("two", v1::Health::Unknown, true),
            ],
        };
        let proxy = |id: &str, is_connected, is_in_sync, millis| Proxy {
            id: id.into(),
            is_connected,
            is_in_sync,
            is_rejecting: !is_in_sync,
            lag: Duration::from_millis(millis),
        };
        let facts = Facts {
            counters: &counters,
            revision: 4,
            epoch: 2,
            version: 9,
            snapshot_bytes: 77,
            waiting_changes: 0,
            probes_in_flight: 3,
            is_cut_off: false,
            has_file_problem: true,
            is_store_failing: true,
            probe_counts,
            certificates: Vec::new(),
            ca_files: vec![("/ca.pem", true)],
            orders: Orders::default(),
            backend_sets: vec![set],
            proxies: vec![
                proxy("p1", true, true, 0),
                proxy("p2", true, false, 1_500),
                proxy("p3", false, false, 0),
            ],
        };
        let page = render(&facts).into_text();
        for line in [
            "# TYPE lb_control_revision gauge",
            "lb_control_revision 4",
            "lb_control_ca_file_problem{file=\"/ca.pem\"} 1",
            "lb_control_epoch 2",
            "lb_control_snapshot_version 9",
            "lb_control_snapshot_bytes 77",
            "lb_control_store_failing 1",
            "lb_control_publications_total 8",
            "lb_control_backends{backend_set=\"app\",health=\"unhealthy\"} 1",
            "lb_control_backends{backend_set=\"app\",health=\"healthy\"} 0",
            "lb_control_backends_usable{backend_set=\"app\"} 1",
            "lb_control_backends_held{backend_set=\"app\"} 1",
            "lb_control_checks_cut_off 0",
            "lb_control_config_file_problem 1",
            "lb_control_backend_unhealthy{backend_set=\"app\",backend=\"one\"} 1",
            "lb_control_probes_total{backend_set=\"app\",result=\"fail\"} 2",
            "lb_control_probe_seconds_sum 0.03",
            "lb_control_probe_lateness_seconds_bucket{le=\"0.0015\"} 0",
            "lb_control_probe_lateness_seconds_bucket{le=\"0.0025\"} 1",
            "lb_control_probes_in_flight 3",
            "lb_control_health_changes_total{backend_set=\"app\"} 1",
            "lb_control_applies_total{result=\"accepted\"} 2",
            "lb_control_store_commit_seconds_bucket{le=\"0.001\"} 1",
            "lb_control_store_commit_seconds_bucket{le=\"0.004\"} 2",
            "lb_control_store_commit_seconds_bucket{le=\"30\"} 2",
            "lb_control_store_commit_seconds_bucket{le=\"+Inf\"} 3",
            "lb_control_store_commit_seconds_sum 90.004",
            "lb_control_store_commit_seconds_count 3",
            "lb_control_proxies_connected 2",
            "lb_control_proxies_in_sync 1",
            "lb_control_proxy_connected{proxy=\"p3\"} 0",
            "lb_control_proxy_in_sync{proxy=\"p2\"} 0",
            "lb_control_proxy_lag_seconds{proxy=\"p2\"} 1.5",
            "lb_control_proxy_rejecting{proxy=\"p2\"} 1",
            "lb_control_push_seconds_count 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        let gone = "lb_control_proxy_in_sync{proxy=\"p3\"}";
        assert!(!page.contains(gone), "who is not connected is neither in sync nor behind");
        assert!(!page.contains("backend=\"two\""), "nothing is wrong with it");
    }
}
