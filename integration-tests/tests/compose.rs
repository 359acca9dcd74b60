//! The fleet in containers, by the one command of the README.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use integration_tests::{
    client,
    compose::{Compose, Container, PATIENCE, docker, network},
    eventually::{eventually_within, holds},
    tools::tool,
    wrk::{Load, Wrk},
};
use lb_proto::v1::{Answer, ApplyRequest, Health, Route, RouteMatch};
use tempfile::TempDir;

/// Load through each of some proxies, over connections that stay and over new ones.
struct Loads {
    loads: Vec<Load>,
    _dir: TempDir,
}

/// So many more requests through each proxy are a state that traffic was seen in.
const ENOUGH: f64 = 300.0;

impl Loads {
    fn start(proxies: &[Container]) -> Self {
        let dir = tempfile::tempdir().expect("the system has a place for temporary files");
        let load = |proxy: &Container, reconnect| {
            let wrk = Wrk { connections: 4, reconnect, ..Wrk::new(proxy.web()) };
            wrk.start(dir.path())
        };
        let loads = proxies.iter().flat_map(|proxy| [load(proxy, false), load(proxy, true)]);
        Self { loads: loads.collect(), _dir: dir }
    }

    async fn assert_flawless(self) {
        for load in self.loads {
            load.stop().await.assert_flawless();
        }
    }
}

async fn responses(proxy: &Container) -> f64 {
    proxy.metrics().await.sum("lb_proxy_responses_total", &[])
}

/// Waits until each of them has answered more.
async fn traffic_flows(proxies: &[Container]) {
    for proxy in proxies {
        let before = responses(proxy).await;
        eventually_within(PATIENCE, "traffic flows", async || {
            let now = responses(proxy).await;
            holds(now > before + ENOUGH, || format!("{before} before, {now} now"))
        })
        .await;
    }
}

/// Waits until requests through this proxy have come to all of these backends.
async fn reaches(proxy: &Container, backends: &[&str]) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let what = format!("requests through {} come to {backends:?}", proxy.host_name());
    eventually_within(PATIENCE, &what, async || {
        let answer = client::get(proxy.web(), "/").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let text = answer.text();
        seen.extend(backends.iter().filter(|name| text.contains(**name)));
        holds(seen.len() == backends.len(), || format!("{seen:?}"))
    })
    .await;
}

const BACKENDS: [&str; 3] = ["backend-1", "backend-2", "backend-3"];

#[tokio::test]
async fn one_command_brings_up_a_fleet_that_does_without_each_of_its_parts() {
    let compose = Compose::new();
    compose.run(&["up", "--detach", "--build"]).await;
    compose.settled(3).await;
    for container in compose.containers().await {
        is_confined(&container).await;
    }
    let proxies = compose.service("proxy").await;
    assert_eq!(proxies.len(), 3);
    for proxy in &proxies {
        reaches(proxy, &BACKENDS).await;
    }

    without_the_controller(&compose, &proxies).await;
    without_a_proxy(&compose, &proxies).await;
    without_a_backend(&compose, &proxies).await;
    cut_off_from_the_controller(&compose, &proxies).await;
    with_two_more_proxies(&compose, &proxies).await;
}

/// Not root, nothing to write to, nothing that it may do.
async fn is_confined(container: &Container) {
    let Container { id, service, inspected } = container;
    let host = &inspected["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true, "{service}");
    assert_eq!(host["CapDrop"][0], "ALL", "{service}");
    assert_eq!(host["SecurityOpt"][0], "no-new-privileges:true", "{service}");
    let tried = "id -u; touch /usr/local/bin/x /x 2>&1 || true; grep CapEff /proc/1/status";
    let said = docker(&["exec", id, "sh", "-c", tried]).await;
    assert!(said.starts_with("10001\n"), "{service}: {said}");
    assert_eq!(said.matches("Read-only file system").count(), 2, "{service}: {said}");
    assert!(said.contains("CapEff:\t0000000000000000"), "{service}: {said}");
}

async fn without_the_controller(compose: &Compose, proxies: &[Container]) {
    let loads = Loads::start(proxies);
    traffic_flows(proxies).await;
    compose.run(&["stop", "controller"]).await;
    assert!(compose.api().await.is_err(), "it is gone");
    traffic_flows(proxies).await;
    compose.run(&["start", "controller"]).await;
    compose.settled(3).await;
    traffic_flows(proxies).await;
    loads.assert_flawless().await;
}

async fn without_a_proxy(compose: &Compose, proxies: &[Container]) {
    let (gone, others) = proxies.split_first().expect("there are three");
    let loads = Loads::start(others);
    traffic_flows(others).await;
    docker(&["stop", "--time=35", &gone.id]).await;
    let stopped = compose.service("proxy").await;
    let stopped = stopped.iter().find(|one| one.id == gone.id).expect("it is only stopped");
    assert_eq!(stopped.inspected["State"]["ExitCode"], 0, "it drained");
    compose
        .proxies_are("one is away", |list| {
            list.proxies.iter().any(|proxy| proxy.id == gone.host_name() && !proxy.connected)
        })
        .await;
    traffic_flows(others).await;
    docker(&["start", &gone.id]).await;
    compose.settled(3).await;
    traffic_flows(others).await;
    loads.assert_flawless().await;
    // Docker may have given it another port of the range.
    for proxy in &compose.service("proxy").await {
        reaches(proxy, &BACKENDS).await;
    }
}

async fn without_a_backend(compose: &Compose, proxies: &[Container]) {
    let proxies = current(compose, proxies).await;
    let health_is = |expected: Health| {
        move |list: &[lb_proto::v1::BackendStatus]| {
            list.iter().any(|one| one.backend == BACKENDS[0] && one.health() == expected)
        }
    };
    let loads = Loads::start(&proxies);
    traffic_flows(&proxies).await;
    compose.run(&["stop", BACKENDS[0]]).await;
    compose.backends_are("one is unhealthy", health_is(Health::Unhealthy)).await;
    traffic_flows(&proxies).await;
    compose.run(&["start", BACKENDS[0]]).await;
    compose.backends_are("it is healthy again", health_is(Health::Healthy)).await;
    for proxy in &proxies {
        reaches(proxy, &BACKENDS).await;
    }
    loads.assert_flawless().await;
}

async fn cut_off_from_the_controller(compose: &Compose, proxies: &[Container]) {
    let proxies = current(compose, proxies).await;
    let (cut, others) = proxies.split_first().expect("there are three");
    let loads = Loads::start(&proxies);
    docker(&["network", "disconnect", &network("control"), &cut.id]).await;
    compose
        .proxies_are("one is away", |list| {
            list.proxies.iter().any(|proxy| proxy.id == cut.host_name() && !proxy.connected)
        })
        .await;
    compose.api().await.expect("it answers").apply(change()).await.expect("it is accepted");
    for proxy in others {
        says(proxy, "changed").await;
    }
    let answer = client::get(cut.web(), CHANGED).await;
    assert!(answer.text().contains("backend-"), "it has not heard of the change: {answer:?}");
    traffic_flows(&proxies).await;

    docker(&["network", "connect", "--alias=proxy", &network("control"), &cut.id]).await;
    says(cut, "changed").await;
    compose.settled(3).await;
    traffic_flows(&proxies).await;
    loads.assert_flawless().await;
}

async fn with_two_more_proxies(compose: &Compose, proxies: &[Container]) {
    let before = current(compose, proxies).await;
    let loads = Loads::start(&before);
    compose.run(&["up", "--detach", "--scale", "proxy=5"]).await;
    compose.settled(5).await;
    let all = compose.service("proxy").await;
    assert_eq!(all.len(), 5);
    for proxy in &all {
        reaches(proxy, &BACKENDS).await;
        says(proxy, "changed").await;
    }
    loads.assert_flawless().await;
    for old in &before {
        assert!(all.iter().any(|one| one.id == old.id), "{} runs on", old.host_name());
    }
}

/// The same ones, as they are now.
async fn current(compose: &Compose, proxies: &[Container]) -> Vec<Container> {
    let mut now = compose.service("proxy").await;
    now.retain(|one| proxies.iter().any(|proxy| proxy.id == one.id));
    assert_eq!(now.len(), proxies.len(), "none was replaced");
    now
}

const CHANGED: &str = "/changed";

/// A route that answers by itself.
fn change() -> ApplyRequest {
    let answer = Answer { status: 200, body: "changed".into(), ..Answer::default() };
    let matches = RouteMatch { path: CHANGED.into(), ..RouteMatch::default() };
    let route = Route {
        name: "changed".into(),
        r#match: Some(matches),
        answer: Some(answer),
        ..Route::default()
    };
    ApplyRequest { routes: vec![route], ..ApplyRequest::default() }
}

/// Waits for what the proxy answers to [`CHANGED`].
async fn says(proxy: &Container, expected: &str) {
    let what = format!("{} says {expected:?}", proxy.host_name());
    eventually_within(PATIENCE, &what, async || {
        let answer = client::get(proxy.web(), CHANGED).await;
        holds(answer.text() == expected, || format!("{answer:?}"))
    })
    .await;
}

#[tokio::test]
async fn the_file_is_valid_with_monitoring_too() {
    let config = Compose::new().run(&["--profile", "monitoring", "config"]).await;
    for service in ["prometheus", "grafana", "controller", "proxy"] {
        assert!(config.contains(&format!("  {service}:\n")), "{service} is not in {config}");
    }
    // Prometheus' own files, as they lie in its container.
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let dir = tempfile::tempdir().expect("the system has a place for temporary files");
    fs::create_dir(dir.path().join("lb")).expect("it is new");
    for (from, to) in
        [("compose/prometheus.yml", "prometheus.yml"), ("prometheus/alerts.yml", "lb/alerts.yml")]
    {
        fs::copy(deploy.join(from), dir.path().join(to)).expect("the file is there");
    }
    let mut promtool = Command::new(tool("promtool"));
    let output = promtool.args(["check", "config"]).arg(dir.path().join("prometheus.yml")).output();
    let output = output.expect("promtool runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
