//! A controller that does not reach the backends, though the proxies do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use integration_tests::{
    backend::{Backend, Reply},
    client,
    eventually::{eventually, holds},
    fleet::Fleet,
    setting,
    wrk::Wrk,
};
use lb_common::clock;
use lb_proto::v1::Health;

/// One attempt each, so that a backend that is avoided is avoided by choice.
const ROUTES: &str = "
    listeners = [{ name = 'web', address = '127.0.0.1:0' }]
    routes = [
      { name = 'near', match = { path_prefix = '/near' }, backend_set = 'near', retry = { attempts = 1 } },
      { name = 'far', match = { path_prefix = '/far' }, backend_set = 'far', retry = { attempts = 1 } },
    ]";

const BACKENDS: usize = 4;

#[tokio::test]
async fn a_controller_that_reaches_no_backend_costs_no_request() {
    let nothing_is_reached = |held: &str| held.starts_with("every check of every set fails");
    check(true, BACKENDS as u32, nothing_is_reached).await;
}

#[tokio::test]
async fn a_controller_that_reaches_half_of_the_backends_costs_no_request() {
    let half_is_out = |held: &str| held.starts_with("2 of 4 are out already");
    check(false, 2, half_is_out).await;
}

/// It does not reach the far ones, and the near ones neither if `all` are meant. `held` of each set are.
async fn check(all: bool, held: u32, is_why: impl Fn(&str) -> bool) {
    let least = Duration::from_secs(setting("LB_TEST_SECONDS", 10));
    let is_cut_off = Arc::new(AtomicBool::new(false));
    let near = start(is_cut_off.clone(), all).await;
    let mut far = start(is_cut_off.clone(), true).await;
    let text = format!("{ROUTES}\nbackend_sets = [{}, {}]", set("near", &near), set("far", &far));
    let fleet = Fleet::start(2, &text).await;
    for backend in near.iter().chain(&far) {
        fleet.backend_is(backend.address(), "well", |one| one.health() == Health::Healthy).await;
    }

    let web = fleet.proxies.iter().map(|proxy| proxy.web());
    let paths = web.flat_map(|address| ["/near", "/far"].map(|path| (address, path)));
    let load = |(address, path)| Wrk { path, ..Wrk::new(address) }.start(fleet.dir());
    let loads: Vec<_> = paths.map(load).collect();
    let started = clock::now();
    is_cut_off.store(true, SeqCst);
    let expected = [("far", held), ("near", if all { held } else { 0 })];
    eventually("what fails is held", async || {
        let sets = fleet.backend_sets().await;
        let is: Vec<_> = sets.iter().map(|set| (set.name.as_str(), set.held)).collect();
        holds(is == expected, || format!("{is:?}"))
    })
    .await;
    println!("held after {:?}", clock::now() - started);
    let listed = fleet.list_backends().await.expect("it lists");
    let told = listed.iter().filter(|one| !one.held.is_empty());
    assert!(told.clone().all(|one| is_why(&one.held)), "{listed:?}");
    assert_eq!(told.count() as u32, expected.iter().map(|(_, held)| held).sum::<u32>());
    tokio::time::sleep_until((started + least).into()).await;
    for load in loads {
        let report = load.stop().await;
        println!("{} requests in {least:?}", report.requests);
        report.assert_flawless();
    }

    // It was held, as a rule, and nobody but the proxies can tell now that it is dead.
    let dead = far.pop().expect("there are four");
    drop(dead.stop().await);
    for proxy in &fleet.proxies {
        eventually(&format!("{} avoids it", proxy.id), async || {
            for _ in 0..2 * BACKENDS {
                let status = client::get(proxy.web(), "/far").await.status();
                holds(status == 200, || format!("{status}"))?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    is_cut_off.store(false, SeqCst);
    for backend in near.iter().chain(&far) {
        let is_well = fleet.backend_is(backend.address(), "well again", |one| {
            one.health() == Health::Healthy && one.held.is_empty()
        });
        is_well.await;
    }
}

async fn start(is_cut_off: Arc<AtomicBool>, is_meant: bool) -> Vec<Backend> {
    let mut backends = Vec::new();
    for _ in 0..BACKENDS {
        let is_cut_off = is_cut_off.clone();
        let reply = move |seen: &integration_tests::backend::Seen| match seen.head.target() {
            "/health" if is_meant && is_cut_off.load(SeqCst) => Reply::Hang,
            _ => Reply::ok("served"),
        };
        backends.push(Backend::start(reply).await);
    }
    backends
}

fn set(name: &str, backends: &[Backend]) -> String {
    let backends = backends.iter().map(|one| format!("{{ address = '{}' }}", one.address()));
    let backends = Vec::from_iter(backends).join(", ");
    format!("{{ name = '{name}', backends = [{backends}], health_check = {{}} }}")
}
