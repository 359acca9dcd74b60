//! A fleet managed with grpcurl alone.

use std::net::SocketAddr;

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request},
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app},
    grpcurl::{Grpcurl, Refusal, number},
};
use lb_proto::v1::{self, event::Event};
use serde_json::{Value, json};

/// The request for one listener, one route and one set of backends.
fn state(backends: &[SocketAddr]) -> Value {
    let backends: Vec<_> =
        backends.iter().map(|address| json!({ "address": address.to_string() })).collect();
    json!({
        "listeners": [{ "name": "web", "address": "127.0.0.1:1" }],
        "routes": [{ "name": "app", "backendSet": "app", "timeout": "1.5s" }],
        "backendSets": [{ "name": "app", "backends": backends }],
    })
}

fn with(mut request: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    request.as_object_mut().expect("an object").extend(more);
    request
}

async fn hash(fleet: &Fleet, revision: u64) -> String {
    let list = fleet.settled(revision).await;
    assert!(list.proxies.iter().all(|proxy| proxy.hash == list.hash), "{list:?}");
    list.hash
}

async fn one_proxy() -> (Fleet, Grpcurl) {
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &[]);
    let grpcurl = fleet.grpcurl();
    (fleet, grpcurl)
}

#[track_caller]
fn refused(result: Result<Value, Refusal>, code: &str, parts: &[&str]) {
    let refusal = result.expect_err("it is refused");
    assert_eq!(refusal.code, code, "{}", refusal.message);
    for part in parts {
        assert!(refusal.message.contains(part), "{part:?} is not in {:?}", refusal.message);
    }
}

#[tokio::test]
async fn services_are_listed_and_described() {
    let fleet = Fleet::empty().await;
    let grpcurl = fleet.grpcurl();
    let services = grpcurl.list().await;
    for service in [
        "lb.v1.Fleet",
        "lb.v1.Discovery",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        assert!(services.iter().any(|known| known == service), "{service} is not in {services:?}");
    }
    let fleet_service = grpcurl.describe("lb.v1.Fleet").await;
    for method in ["Apply", "Get", "History", "Rollback", "Watch", "ListProxies", "DrainBackend"] {
        assert!(fleet_service.contains(&format!("rpc {method} (")), "{fleet_service}");
    }
    let request = grpcurl.describe("lb.v1.ApplyRequest").await;
    assert!(request.contains("expected_revision"), "{request}");
    for service in ["", "lb.v1.Fleet", "lb.v1.Discovery"] {
        let check = json!({ "service": service });
        let health = grpcurl.ok("grpc.health.v1.Health/Check", &check).await;
        assert_eq!(health["status"], "SERVING", "{service:?}");
    }
}

#[tokio::test]
async fn what_is_applied_is_served_and_can_be_read_back() {
    let backend = Backend::named("one").await;
    let (fleet, grpcurl) = one_proxy().await;
    let applied = grpcurl.ok("Apply", &state(&[backend.address()])).await;
    let revision = number(&applied["revision"]);
    assert_eq!(revision, 1);
    fleet.settled(revision).await;
    assert_eq!(client::get(fleet.proxies[0].web(), "/").await.text(), "one");

    let got = grpcurl.ok("Get", &json!({})).await;
    assert_eq!(number(&got["revision"]), 1);
    assert_eq!(got["spec"]["routes"][0]["timeout"], "1.500s", "{got}");
    let set = &got["spec"]["backendSets"][0];
    assert_eq!(set["backends"][0]["address"], backend.address().to_string(), "{got}");

    let again = grpcurl.ok("Apply", &state(&[backend.address()])).await;
    assert_eq!(number(&again["revision"]), 1, "what changes nothing is no revision");
    assert_eq!(again["changes"], json!([]));

    let proxies = grpcurl.ok("ListProxies", &json!({})).await;
    let proxy = &proxies["proxies"][0];
    assert_eq!(
        (&proxy["id"], &proxy["connected"], &proxy["inSync"]),
        (&json!("p1"), &json!(true), &json!(true)),
    );
    assert_eq!(proxy["hash"], proxies["hash"]);
    assert!(proxy["connectedSince"].is_string() && proxy["appliedAt"].is_string(), "{proxies}");

    let backends = grpcurl.ok("ListBackends", &json!({ "backendSet": "app" })).await;
    assert_eq!(backends["backends"][0]["state"], "active");
    assert_eq!(backends["backends"][0]["weight"], 1);
}

#[tokio::test]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let (fleet, grpcurl) = one_proxy().await;
    let addresses: Vec<SocketAddr> =
        (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    grpcurl.ok("Apply", &state(&addresses[..2])).await;
    let before = (grpcurl.ok("Get", &json!({})).await, hash(&fleet, 1).await);

    let change = json!({
        "backends": [
            { "backendSet": "app", "backend": { "address": "127.0.0.1:1", "weight": 3 } },
            { "backendSet": "app", "backend": { "address": "127.0.0.1:3" } },
        ],
        "delete": { "backends": [{ "backendSet": "app", "backend": "127.0.0.1:2" }] },
    });
    let dry = grpcurl.ok("Apply", &with(change.clone(), json!({ "dryRun": true }))).await;
    assert_eq!(dry["dryRun"], true);
    assert_eq!((grpcurl.ok("Get", &json!({})).await, hash(&fleet, 1).await), before);

    let real = grpcurl.ok("Apply", &change).await;
    assert_eq!(real["changes"], dry["changes"], "the same difference");
    assert_eq!(number(&real["revision"]), 2);
    let said = real["changes"].to_string();
    for part in [
        "backend_sets[app].backends[127.0.0.1:1].weight",
        "backend_sets[app].backends[127.0.0.1:2]",
        "backend_sets[app].backends[127.0.0.1:3]",
        "ADDED",
        "REMOVED",
        "CHANGED",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_ne!(hash(&fleet, 2).await, before.1);
}

#[tokio::test]
async fn what_is_wrong_is_refused_whole_and_by_name() {
    let (_fleet, grpcurl) = one_proxy().await;
    grpcurl.ok("Apply", &state(&[])).await;
    let before = grpcurl.ok("Get", &json!({})).await;

    let lost = json!({ "routes": [{ "name": "app", "backendSet": "nowhere" }] });
    refused(
        grpcurl.call("Apply", &lost).await,
        "InvalidArgument",
        &["routes[app].backend_set", "nowhere", "there are app"],
    );
    let in_use = json!({ "delete": { "backendSets": ["app"] } });
    refused(
        grpcurl.call("Apply", &in_use).await,
        "InvalidArgument",
        &["routes[app].backend_set", "app"],
    );
    let several = json!({
        "listeners": [{ "name": "good", "address": "127.0.0.1:2" }],
        "backendSets": [{
            "name": "bad",
            "balance": "fair",
            "backends": [{ "address": "localhost" }, { "address": "127.0.0.1:1", "weight": 70000 }],
        }],
    });
    refused(
        grpcurl.call("Apply", &several).await,
        "InvalidArgument",
        &[
            "backend_sets[bad].balance",
            "round_robin",
            "backend_sets[bad].backends[localhost].address",
            "backend_sets[bad].backends[127.0.0.1:1].weight",
            "70000",
        ],
    );
    assert_eq!(grpcurl.ok("Get", &json!({})).await, before, "nothing of it was taken");
}

#[tokio::test]
async fn who_did_not_see_the_last_change_is_aborted() {
    let (_fleet, grpcurl) = one_proxy().await;
    grpcurl.ok("Apply", &with(state(&[]), json!({ "expectedRevision": 0 }))).await;
    let change = json!({
        "backends": [{ "backendSet": "app", "backend": { "address": "127.0.0.1:1" } }],
        "expectedRevision": 0,
    });
    refused(grpcurl.call("Apply", &change).await, "Aborted", &["1"]);
    let rollback = json!({ "revision": 1, "expectedRevision": 7 });
    refused(grpcurl.call("Rollback", &rollback).await, "Aborted", &["1"]);

    let applied = grpcurl.ok("Apply", &with(change, json!({ "expectedRevision": 1 }))).await;
    assert_eq!(number(&applied["revision"]), 2);
}

#[tokio::test]
async fn a_rollback_leads_to_an_identical_state() {
    let (fleet, grpcurl) = one_proxy().await;
    let addresses: Vec<SocketAddr> =
        (1..=2).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let first = with(state(&addresses[..1]), json!({ "comment": "the first" }));
    grpcurl.ok("Apply", &first).await;
    let old = hash(&fleet, 1).await;
    let second = with(state(&addresses), json!({ "comment": "one more" }));
    grpcurl.ok("Apply", &second).await;
    assert_ne!(hash(&fleet, 2).await, old);

    let dry = grpcurl.ok("Rollback", &json!({ "revision": 1, "dryRun": true })).await;
    assert_eq!(number(&dry["revision"]), 2, "nothing has changed yet");
    let rolled = grpcurl.ok("Rollback", &json!({ "revision": 1, "comment": "back" })).await;
    assert_eq!(number(&rolled["revision"]), 3);
    assert_eq!(rolled["changes"], dry["changes"]);
    assert_eq!(hash(&fleet, 3).await, old, "the same hash on the controller and on the proxy");

    let spec = |got: Value| got["spec"].clone();
    let at = |revision: u64| json!({ "revision": revision });
    let then = spec(grpcurl.ok("Get", &at(1)).await);
    assert_eq!(spec(grpcurl.ok("Get", &json!({})).await), then);
    assert_ne!(spec(grpcurl.ok("Get", &at(2)).await), then);

    let history = grpcurl.ok("History", &json!({})).await;
    let history = history["revisions"].as_array().expect("a list").clone();
    let numbers: Vec<_> = history.iter().map(|entry| number(&entry["revision"])).collect();
    assert_eq!(numbers, [3, 2, 1], "newest first");
    let comments: Vec<_> = history.iter().map(|entry| entry["comment"].clone()).collect();
    assert_eq!(comments, [json!("back"), json!("one more"), json!("the first")]);
    assert_eq!(history[0]["changes"], rolled["changes"]);
    let page = grpcurl.ok("History", &json!({ "limit": 1, "before": 3 })).await;
    assert_eq!(page["revisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(number(&page["revisions"][0]["revision"]), 2);

    refused(grpcurl.call("Rollback", &at(9)).await, "NotFound", &["9", "1 to 3"]);
}

#[tokio::test]
async fn a_drain_tells_its_progress_until_the_backend_is_empty() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let leaving = Backend::start(move |_| Reply::ok("leaving").behind(&hold)).await;
    let staying = Backend::named("staying").await;
    let mut fleet = Fleet::empty().await;
    for id in ["p1", "p2"] {
        fleet.add_proxy(id, &[]);
    }
    fleet.apply(&app("timeout = '60s'", "", &[leaving.address(), staying.address()])).await;

    // On each proxy the leaving backend has one request that does not end yet.
    let mut held = Vec::new();
    for proxy in &fleet.proxies {
        for _ in 0..2 {
            let mut client = Client::connect(proxy.web()).await;
            client.send(&Request::get("/")).await;
            held.push(client);
        }
    }
    eventually("both hold a request", async || {
        holds(leaving.waiting() >= 1 && leaving.waiting() + staying.count() == 4, || {
            format!("{} and {}", leaving.waiting(), staying.count())
        })
    })
    .await;
    let busy = leaving.waiting() as u64;
    let is_busy = |status: &v1::BackendStatus| status.in_flight == busy;
    fleet.backend_is(leaving.address(), "busy on both", is_busy).await;

    let name = leaving.address().to_string();
    let request = json!({ "backendSet": "app", "backend": name, "deadline": "25s" });
    let grpcurl = fleet.grpcurl();
    let drain = grpcurl.stream("DrainBackend", &request);
    let meanwhile = async {
        let is_draining = |status: &v1::BackendStatus| status.state == "draining";
        fleet.backend_is(leaving.address(), "draining", is_draining).await;
        fleet.settled(2).await;
        for proxy in &fleet.proxies {
            for _ in 0..4 {
                assert_eq!(client::get(proxy.web(), "/").await.text(), "staying");
            }
        }
        assert_eq!(leaving.waiting() as u64, busy, "what runs is left alone");
        gate.open();
    };
    let (progress, ()) = tokio::join!(drain, meanwhile);
    let progress = progress.expect("it is drained");
    let first = progress.first().expect("there is progress");
    let last = progress.last().expect("there is progress");
    assert_eq!(number(&first["revision"]), 2);
    assert_eq!((&first["drained"], number(&first["inFlight"])), (&json!(false), busy));
    assert_eq!((&last["drained"], number(&last["inFlight"])), (&json!(true), 0));
    assert_eq!((&last["deadlinePassed"], &last["waitingFor"]), (&json!(false), &json!([])));
    for mut client in held {
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test]
async fn a_drain_that_takes_too_long_says_so() {
    let backend = Backend::start(|_| Reply::Hang).await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/")).await;
    fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;

    let name = backend.address().to_string();
    let request = json!({ "backendSet": "app", "backend": name, "deadline": "0.3s" });
    let progress = fleet.grpcurl().stream("DrainBackend", &request).await.expect("it ends");
    let last = progress.last().expect("there is progress");
    assert_eq!((&last["drained"], &last["deadlinePassed"]), (&json!(false), &json!(true)));
    assert_eq!(number(&last["inFlight"]), 1);
    assert_eq!(backend.waiting(), 1, "nothing is cut");

    let wrong = json!({ "backendSet": "app", "backend": "nobody" });
    let refusal = fleet.grpcurl().call("DrainBackend", &wrong).await;
    refused(refusal, "NotFound", &["nobody", &name]);
}

#[tokio::test]
async fn whoever_watches_sees_what_happens() {
    let backend = Backend::named("one").await;
    let (fleet, grpcurl) = one_proxy().await;
    let mut api = fleet.api().await;
    let watched = api.watch(v1::WatchRequest {}).await.expect("it can be watched");
    let mut events = watched.into_inner();
    let check = json!({ "interval": "0.05s", "healthyAfter": 1, "unhealthyAfter": 1 });
    let mut request = with(state(&[backend.address()]), json!({ "comment": "look" }));
    request["backendSets"][0]["healthCheck"] = check;
    grpcurl.ok("Apply", &request).await;
    let (mut revision, mut health, mut applied) = (false, false, false);
    while !(revision && health && applied) {
        let event = within(PATIENCE, "the next event", events.message()).await;
        let event = event.expect("the stream is whole").expect("it goes on");
        match event.event.expect("it says what") {
            Event::Revision(seen) => {
                revision |= (seen.revision, seen.comment) == (1, "look".into())
            }
            Event::Health(seen) => {
                assert_eq!(seen.health(), v1::Health::Healthy, "{seen:?}");
                health |= seen.backend == backend.address().to_string();
            }
            Event::Proxy(seen) => applied |= seen.proxy_id == "p1" && seen.what == "applied",
            Event::Certificate(changed) => panic!("there is no certificate: {changed:?}"),
            Event::Checks(changed) => panic!("all is well: {changed:?}"),
            Event::Missed(missed) => panic!("{missed} events are missing"),
        }
    }
}
