//! Numbers for Prometheus, in its text format.
//!
//! The owner of the state counts, as plain integers, and a page is written from its view when
//! somebody asks: there is no registry that could disagree with the state.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use lb_common::id::BackendSetName;
use lb_proto::v1;

use crate::health::monitor::Tally;

/// Upper bounds of the buckets, in seconds.
const COMMIT_BUCKETS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// What is counted where it happens.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes that were asked for, by how it ended.
    pub applies: BTreeMap<&'static str, u64>,
    pub commits: Histogram,
    pub proxy_rejections: u64,
}

#[derive(Debug, Default)]
pub struct Histogram {
    /// By the first bucket that it fits in; the last one has no bound.
    buckets: [u64; COMMIT_BUCKETS.len() + 1],
    sum: Duration,
}

/// What is read off the state.
#[derive(Debug)]
pub struct Facts<'a> {
    pub counters: &'a Counters,
    pub revision: u64,
    pub epoch: u64,
    pub version: u64,
    pub connected: usize,
    pub in_sync: usize,
    pub waiting_changes: usize,
    pub tallies: &'a BTreeMap<BackendSetName, Tally>,
    pub backends: BTreeMap<(&'a str, v1::Health), u64>,
}

struct Page(String);

/// The whole page.
pub fn render(facts: &Facts<'_>) -> String {
    let mut page = Page(String::with_capacity(4096));
    let Facts { counters, .. } = facts;
    let gauges = [
        ("revision", "The accepted change that is current.", facts.revision),
        ("epoch", "Which start of the controller this is.", facts.epoch),
        ("snapshot_version", "The snapshot that proxies are to run.", facts.version),
        ("proxies_connected", "Proxies that are connected.", facts.connected as u64),
        ("proxies_in_sync", "Connected proxies that run what they should.", facts.in_sync as u64),
        ("changes_waiting", "Changes that wait for the store.", facts.waiting_changes as u64),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], value);
    }

    page.family("backends", "gauge", "Backends by their health as decided.");
    for ((set, health), count) in &facts.backends {
        let health = health.as_str_name().to_ascii_lowercase();
        page.sample("backends", &[("backend_set", set), ("health", &health)], *count);
    }
    page.family("probes_total", "counter", "Health probes by their result.");
    for (set, tally) in facts.tallies {
        for (result, count) in [("pass", tally.passed), ("fail", tally.failed)] {
            let labels = [("backend_set", set.as_str()), ("result", result)];
            page.sample("probes_total", &labels, count);
        }
    }
    page.family("health_changes_total", "counter", "Decisions that changed a backend's health.");
    for (set, tally) in facts.tallies {
        page.sample("health_changes_total", &[("backend_set", set.as_str())], tally.decisions);
    }
    page.family("applies_total", "counter", "Changes that were asked for, by how it ended.");
    for (result, count) in &counters.applies {
        page.sample("applies_total", &[("result", result)], *count);
    }
    page.family("proxy_rejections_total", "counter", "Updates that a proxy refused.");
    page.sample("proxy_rejections_total", &[], counters.proxy_rejections);
    page.family("store_commit_seconds", "histogram", "How long the store took for a change.");
    page.histogram("store_commit_seconds", &counters.commits);
    page.0
}

// === impl Counters, Histogram ===

impl Counters {
    pub fn count_apply(&mut self, result: &'static str) {
        *self.applies.entry(result).or_default() += 1;
    }
}

impl Histogram {
    pub fn observe(&mut self, value: Duration) {
        let fits = COMMIT_BUCKETS.iter().position(|bound| value.as_secs_f64() <= *bound);
        self.buckets[fits.unwrap_or(COMMIT_BUCKETS.len())] += 1;
        self.sum += value;
    }
}

// === impl Page ===

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP lb_control_{name} {help}\n# TYPE lb_control_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        if labels.is_empty() {
            self.line(format_args!("lb_control_{name} {value}"));
        } else {
            self.line(format_args!("lb_control_{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        let bounds = COMMIT_BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut total = 0;
        for (bound, count) in bounds.zip(histogram.buckets) {
            total += count;
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], total);
        }
        self.line(format_args!("lb_control_{name}_sum {}", histogram.sum.as_secs_f64()));
        self.sample(&format!("{name}_count"), &[], total);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_family_with_its_samples() {
        let mut counters = Counters::default();
        counters.count_apply("accepted");
        counters.count_apply("accepted");
        for millis in [1, 3, 9_000] {
            counters.commits.observe(Duration::from_millis(millis));
        }
        let name = BackendSetName::new("app").expect("a valid name");
        let tallies = [(name, Tally { passed: 5, failed: 2, decisions: 1 })].into();
        let facts = Facts {
            counters: &counters,
            revision: 4,
            epoch: 2,
            version: 9,
            connected: 3,
            in_sync: 1,
            waiting_changes: 0,
            tallies: &tallies,
            backends: [(("app", v1::Health::Unhealthy), 2)].into(),
        };
        let page = render(&facts);
        for line in [
            "# TYPE lb_control_revision gauge",
            "lb_control_revision 4",
            "lb_control_epoch 2",
            "lb_control_snapshot_version 9",
            "lb_control_proxies_connected 3",
            "lb_control_proxies_in_sync 1",
            "lb_control_backends{backend_set=\"app\",health=\"unhealthy\"} 2",
            "lb_control_probes_total{backend_set=\"app\",result=\"fail\"} 2",
            "lb_control_health_changes_total{backend_set=\"app\"} 1",
            "lb_control_applies_total{result=\"accepted\"} 2",
            "lb_control_store_commit_seconds_bucket{le=\"0.001\"} 1",
            "lb_control_store_commit_seconds_bucket{le=\"0.005\"} 2",
            "lb_control_store_commit_seconds_bucket{le=\"2.5\"} 2",
            "lb_control_store_commit_seconds_bucket{le=\"+Inf\"} 3",
            "lb_control_store_commit_seconds_sum 9.004",
            "lb_control_store_commit_seconds_count 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
