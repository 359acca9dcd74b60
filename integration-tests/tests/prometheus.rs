//! The metrics as a real Prometheus sees them: what is on the pages, what the alert rules and the
//! dashboard ask for, what the documentation promises, and an alert that fires and ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use integration_tests::{
    certs::Ca,
    client::{self, Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app_with},
    metrics::{Family, Metrics},
    nginx::Nginx,
    prometheus::{Prometheus, promtool},
};
use lb_proto::v1::{BackendStatus, Health};
use serde_json::Value;

#[path = "prometheus/expression.rs"]
mod expression;

use expression::Expression;

const CHECK: &str = "health_check = { http = '/health', interval = '100ms', timeout = '1s', \
    healthy_after = 1, unhealthy_after = 1 }";

/// So that there is TLS to count, and TCP.
fn unused(ca: &Path) -> String {
    format!(
        "[[backend_sets]]\nname = 'unused'\ntls = {{ ca = '{}' }}
         [[listeners]]\nname = 'unused'\naddress = '127.0.0.1:0'\nprotocol = 'tcp'
         backend_set = 'unused'",
        ca.display()
    )
}

/// Two proxies that have served something, and their backends.
async fn served(dir: &Path) -> (Fleet, [Nginx; 3]) {
    let backends = [
        Nginx::start(dir, "b1").await,
        Nginx::start(dir, "b2").await,
        Nginx::start(dir, "b3").await,
    ];
    let entries = backends
        .iter()
        .map(|nginx| format!("{{ name = '{}', address = '{}' }}", nginx.name, nginx.address()));
    let entries: Vec<_> = entries.collect();
    let host = "match = { host = 'app.test' }";
    let ca = Ca::new("a test's");
    let certificate = ca.sign(&["app.test"]).entry(dir, "site");
    let check = format!("{CHECK}\n{}", unused(&ca.write(dir)));
    let spec = app_with(host, &check, &entries.join(", "));
    let fleet = Fleet::start(2, &format!("{certificate}{spec}")).await;
    fleet.settled(1).await;
    for proxy in &fleet.proxies {
        let mut client = Client::connect(proxy.web()).await;
        for _ in 0..10 {
            client.get("/").await;
        }
        client.request(&Request::get("/").host("other.test")).await;
    }
    eventually("all backends are healthy", async || {
        let list = fleet.list_backends().await?;
        let healthy = list.iter().all(|backend| backend.last_probe.is_some());
        holds(healthy, || format!("{list:?}"))
    })
    .await;
    (fleet, backends)
}

/// The same, with one that is dead, so that what there is only then is seen, too.
async fn served_by_two_of_three(dir: &Path) -> (Fleet, [Nginx; 3]) {
    let (fleet, mut backends) = served(dir).await;
    backends[2].kill();
    let is_out = |one: &BackendStatus| one.health() == Health::Unhealthy;
    fleet.backend_is(backends[2].address(), "unhealthy", is_out).await;
    (fleet, backends)
}

/// The pages of the controller and of a proxy.
async fn pages(fleet: &Fleet) -> [String; 2] {
    let page = async |address| client::get(address, "/metrics").await.text();
    [page(fleet.controller.admin()).await, page(fleet.proxies[0].admin()).await]
}

fn families([control, proxy]: &[String; 2]) -> BTreeMap<String, Family> {
    let mut families = Metrics::parse(control).families();
    families.extend(Metrics::parse(proxy).families());
    families
}

fn project(file: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_rules_are_valid_and_their_own_tests_pass() {
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["check", "rules", "--lint-fatal", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
}

#[tokio::test]
async fn both_pages_are_as_prometheus_wants_them_and_as_documented() {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let (fleet, _backends) = served_by_two_of_three(dir.path()).await;
    let pages = pages(&fleet).await;
    for page in &pages {
        assert_eq!(promtool(&["check", "metrics"], page), "");
    }

    let families = families(&pages);
    let real: BTreeSet<_> = families
        .iter()
        .map(|(name, family)| {
            assert!(family.samples > 0, "{name} has no samples, so its labels are not known");
            let labels: Vec<_> = family.labels.iter().map(String::as_str).collect();
            format!("{name}, a {}, labels: {}", family.kind, labels.join(" "))
        })
        .collect();
    let documented: BTreeSet<_> =
        project("docs/metrics.md").lines().filter_map(documented).collect();
    let missing: Vec<_> = real.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&real).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "docs/metrics.md lacks {missing:#?} and has {wrong:#?}, which the pages do not have"
    );
}

/// A row of a table: name, type, labels, meaning.
fn documented(line: &str) -> Option<String> {
    let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
    let [name, kind, labels, meaning, _] = cells[..] else { return None };
    let name = name.strip_prefix('`')?.strip_suffix('`')?;
    assert!(!meaning.is_empty(), "{line}");
    let mut labels: Vec<_> =
        labels.split(',').map(|label| label.trim().trim_matches('`')).collect();
    labels.sort_unstable();
    Some(format!("{name}, a {kind}, labels: {}", labels.join(" ")))
}

#[tokio::test]
async fn a_killed_backend_is_alerted_until_it_is_back_and_so_is_a_killed_proxy() {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let (mut fleet, mut backends) = served(dir.path()).await;
    let prometheus = Prometheus::start(&fleet).await;
    eventually("all are scraped", async || {
        let up = prometheus.query("sum(up)").await;
        holds(up[0]["value"][1] == "3", || up.to_string())
    })
    .await;
    is_firing(&prometheus, "backend", &[]).await;

    backends[1].kill();
    is_firing(&prometheus, "backend", &[("LbBackendUnhealthy", "b2")]).await;
    backends[0].kill();
    // Checks take no more than the half out.
    let held = [("LbBackendUnhealthy", "b2"), ("LbChecksHeld", "")];
    is_firing(&prometheus, "backend", &held).await;
    backends[0].start_again().await;
    backends[1].start_again().await;
    is_firing(&prometheus, "backend", &[]).await;

    let gone = fleet.proxies[1].admin().to_string();
    fleet.proxies[1].kill();
    let control = fleet.controller.admin().to_string();
    let missing = [("LbProxyDown", &*gone), ("LbProxyMissing", &control)];
    is_firing(&prometheus, "instance", &missing).await;
    let left = fleet.proxies[0].admin().to_string();
    fleet.controller.kill();
    let all = [("LbControllerDown", &*control), ("LbProxyCutOff", &left), ("LbProxyDown", &gone)];
    is_firing(&prometheus, "instance", &all).await;
}

/// Waits until exactly these alerts fire.
async fn is_firing(prometheus: &Prometheus, label: &str, expected: &[(&str, &str)]) {
    eventually(&format!("{expected:?} fire"), async || {
        let mut firing = prometheus.firing(label).await;
        firing.sort();
        let same = firing
            .iter()
            .map(|(name, of)| (name.as_str(), of.as_str()))
            .eq(expected.iter().copied());
        holds(same, || format!("{firing:?}"))
    })
    .await;
}

#[tokio::test]
async fn all_that_rules_and_dashboard_ask_for_exists() {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let (fleet, _backends) = served_by_two_of_three(dir.path()).await;
    let families = families(&pages(&fleet).await);
    let prometheus = Prometheus::start(&fleet).await;

    let rules = prometheus.api("rules").await;
    let groups = rules["groups"].as_array().expect("rules are in groups");
    let mut seen = 0;
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().expect("a list")) {
        seen += 1;
        let expression = Expression::parse(text(&rule["query"]));
        expression.check(&families);
        let annotations = &rule["annotations"];
        for text in [text(&annotations["summary"]), text(&annotations["description"])] {
            assert!(!text.is_empty(), "{rule}: a summary and a description");
            expression.check_labels(&expression::labels_in(text, "$labels.", ""), &families);
        }
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning"].contains(&severity), "{rule}: {severity}");
    }
    assert!(seen >= 15, "{seen} rules");

    let dashboard: Value =
        serde_json::from_str(&project("deploy/grafana/lb.json")).expect("is JSON");
    let panels = dashboard["panels"].as_array().expect("has panels");
    let targets: Vec<_> =
        panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()).collect();
    assert!(targets.len() >= 30, "{} targets", targets.len());
    let annotations = dashboard["annotations"]["list"].as_array().expect("a list");
    for target in targets.into_iter().chain(annotations) {
        let query = text(&target["expr"]).replace("$__rate_interval", "1m");
        let query = query.replace("$route", ".*").replace("$backend_set", ".*");
        let expression = Expression::parse(&query);
        expression.check(&families);
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        expression.check_labels(&expression::labels_in(legend, "{{", "}}"), &families);
        // Panics if it is no valid expression.
        prometheus.query(&query).await;
    }
    for variable in dashboard["templating"]["list"].as_array().expect("a list") {
        if let Some(query) = variable["definition"].as_str() {
            let (metric, label) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')')?.split_once(", "))
                .unwrap_or_else(|| panic!("{query}"));
            assert!(families[metric].labels.contains(label), "{query}");
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
