//! A fleet under load, while everything around it changes.

use std::time::Duration;

use integration_tests::{
    client,
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    nginx::Nginx,
    setting,
    wrk::Wrk,
};
use lb_common::clock;
use lb_proto::v1::{BackendStatus, Health};
use serde_json::json;

fn healthy(status: &BackendStatus) -> bool {
    status.health() == Health::Healthy
}

fn seconds(time: Option<&prost_types::Timestamp>) -> f64 {
    time.map_or(f64::NAN, |time| time.seconds as f64 + f64::from(time.nanos) * 1e-9)
}

/// Waits until the controller has decided about a backend and both proxies have applied it; prints
/// how long the latter took.
async fn flips(fleet: &Fleet, nginx: &Nginx, to: &str, is: impl Fn(&BackendStatus) -> bool) {
    let status = fleet.backend_is(nginx.address(), to, is).await;
    let list = fleet.settled(0).await;
    for proxy in &list.proxies {
        let after = seconds(proxy.applied_at.as_ref()) - seconds(status.since.as_ref());
        let (name, id) = (&nginx.name, &proxy.id);
        println!("{name} {to} ({}): applied by {id} after {:.1} ms", status.why, after * 1e3);
    }
}

#[tokio::test]
async fn under_load_nothing_that_happens_to_the_fleet_costs_a_request() {
    let least = Duration::from_secs(setting("LB_TEST_SECONDS", 10));
    let mut fleet = Fleet::empty().await;
    for id in ["p1", "p2"] {
        fleet.add_proxy(id, &[]);
    }
    let mut nginx = Vec::new();
    for i in 1..=4 {
        nginx.push(Nginx::start(fleet.dir(), &format!("nginx-{i}")).await);
    }
    let spare = nginx.pop().expect("there are four");
    let addresses: Vec<_> = nginx.iter().map(Nginx::address).collect();
    let retry = "retry = { attempts = 3, on = ['5xx'] }";
    let check = "health_check = { interval = '200ms' }";
    fleet.apply(&app(retry, check, &addresses)).await;
    for nginx in &nginx {
        fleet.backend_is(nginx.address(), "healthy", healthy).await;
    }

    let loads: Vec<_> =
        fleet.proxies.iter().map(|proxy| Wrk::new(proxy.web()).start(fleet.dir())).collect();
    let grpcurl = fleet.grpcurl();
    let started = clock::now();
    let mut rounds = 0;
    while rounds == 0 || clock::now() - started < least {
        let weight = |weight: u64| {
            let backend = json!({ "address": addresses[1].to_string(), "weight": weight });
            json!({ "backends": [{ "backendSet": "app", "backend": backend }] })
        };

        nginx[0].kill();
        flips(&fleet, &nginx[0], "dies", |status| status.health() == Health::Unhealthy).await;
        nginx[0].start_again().await;
        flips(&fleet, &nginx[0], "is back", healthy).await;

        grpcurl.ok("Apply", &weight(5)).await;
        fleet.settled(0).await;
        grpcurl.ok("Apply", &weight(1)).await;

        let name = spare.address().to_string();
        let add = json!({ "backends": [{ "backendSet": "app", "backend": { "address": name } }] });
        grpcurl.ok("Apply", &add).await;
        fleet.settled(0).await;
        for proxy in &fleet.proxies {
            eventually("the new backend serves", async || {
                let response = client::get(proxy.web(), "/").await;
                let by = response.header("x-backend").unwrap_or_default().to_owned();
                holds(by == spare.name, || by.clone())
            })
            .await;
        }
        let remove =
            json!({ "delete": { "backends": [{ "backendSet": "app", "backend": name }] } });
        grpcurl.ok("Apply", &remove).await;
        fleet.settled(0).await;

        fleet.controller.kill();
        for proxy in &fleet.proxies {
            for _ in 0..10 {
                assert_eq!(client::get(proxy.web(), "/").await.status(), 200);
            }
        }
        fleet.controller.start_again().await;
        fleet.settled(0).await;
        rounds += 1;
    }

    let list = fleet.settled(0).await;
    assert_eq!(list.proxies.len(), 2, "{list:?}");
    for proxy in &list.proxies {
        assert!(proxy.in_sync && proxy.hash == list.hash, "{list:?}");
        assert_eq!((proxy.epoch, proxy.version), (list.epoch, list.version), "{list:?}");
    }
    for (proxy, load) in fleet.proxies.iter().zip(loads) {
        let report = load.stop().await;
        println!("{}: {} requests in {rounds} rounds, {:?}", proxy.id, report.requests, least);
        report.assert_flawless();
    }
    fleet.idle().await;
}
