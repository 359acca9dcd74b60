//! What operators do, over real gRPC.

mod common;

use std::time::Duration;

use common::{Control, app, eventually, request, soon};
use lb_proto::v1::{self, event::Event};
use tonic::Code;

fn lines(changes: &[v1::Change]) -> Vec<String> {
    changes.iter().map(|c| format!("{}: {} -> {}", c.field, c.before, c.after)).collect()
}

#[tokio::test]
async fn a_change_is_seen_by_everyone_after_it_was_accepted() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let applied = fleet.apply(app(1)).await.expect("is valid").into_inner();
    assert_eq!(applied.revision, 1);
    let applied = fleet.apply(app(2)).await.expect("is valid").into_inner();
    assert_eq!(lines(&applied.changes), ["backend_sets[app].backends[one].weight: 1 -> 2"]);
    let got = fleet.get(v1::GetRequest::default()).await.expect("is there").into_inner();
    assert_eq!(got.revision, 2);
    assert_eq!(got.spec.expect("has a spec").backend_sets, app(2).backend_sets);
    let old = fleet.get(v1::GetRequest { revision: Some(1) }).await.expect("is kept").into_inner();
    let weight = old.spec.expect("has a spec").backend_sets[0].backends[0].weight;
    assert_eq!(weight, None, "a default is left out");
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_leaves_no_trace() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let dry = v1::ApplyRequest { dry_run: true, ..app(1) };
    let dry = fleet.apply(dry).await.expect("is valid").into_inner();
    assert_eq!((dry.revision, dry.dry_run), (0, true));
    let got = fleet.get(v1::GetRequest::default()).await.expect("is there").into_inner();
    assert_eq!((got.revision, got.spec), (0, Some(v1::Spec::default())));
    let real = fleet.apply(app(1)).await.expect("is valid").into_inner();
    assert_eq!(real.changes, dry.changes);
}

#[tokio::test]
async fn refusals_have_their_code_and_name_what_is_wrong() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    fleet.apply(app(1)).await.expect("is valid");

    let stale = v1::ApplyRequest { expected_revision: Some(7), ..app(2) };
    let status = fleet.apply(stale).await.expect_err("is stale");
    assert_eq!(status.code(), Code::Aborted);
    let expected = "expected_revision: 7 is not current; the current revision is 1";
    assert_eq!(status.message(), expected);

    let dangling = request(r#"{"routes": [{"name": "r", "backend_set": "nowhere"}]}"#);
    let status = fleet.apply(dangling).await.expect_err("leads nowhere");
    assert_eq!(status.code(), Code::InvalidArgument);
    let expected = "routes[r].backend_set: no backend set is called \"nowhere\"; there are app";
    assert_eq!(status.message(), expected);

    let missing = v1::RollbackRequest { revision: 9, ..<_>::default() };
    let status = fleet.rollback(missing).await.expect_err("is not there");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "there is no revision 9; there are 1 to 1");

    let status = fleet.get(v1::GetRequest { revision: Some(0) }).await.expect_err("was never");
    assert_eq!(status.code(), Code::NotFound);

    let unknown = v1::ListBackendsRequest { backend_set: "nix".into() };
    let status = fleet.list_backends(unknown).await.expect_err("is not there");
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().ends_with("there are app"), "{}", status.message());

    let unknown = v1::DrainBackendRequest {
        backend_set: "app".into(),
        backend: "three".into(),
        ..<_>::default()
    };
    let status = fleet.drain_backend(unknown).await.expect_err("is not there");
    assert_eq!(status.code(), Code::NotFound);
}

/// They travel in a header, and a client that gets too large a header sees only a broken stream.
#[tokio::test]
async fn very_many_problems_are_cut_to_what_a_client_takes() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let routes = (0..5_000).map(|i| v1::Route { name: format!("route-{i}"), ..<_>::default() });
    let request = v1::ApplyRequest { routes: routes.collect(), ..<_>::default() };
    let status = fleet.apply(request).await.expect_err("all of them are wrong");
    assert_eq!(status.code(), Code::InvalidArgument);
    let message = status.message();
    assert!(message.starts_with("routes[route-0]: needs exactly one of"), "{message}");
    let told = message.lines().count() - 1;
    assert!(message.ends_with(&format!("... and {} more", 5_000 - told)), "{message}");
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_the_identical_state() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let hash = async || {
        let mut fleet = control.fleet().await;
        fleet.list_proxies(v1::ListProxiesRequest {}).await.expect("lists").into_inner().hash
    };
    fleet.apply(app(1)).await.expect("is valid");
    let first = hash().await;
    let deletion = v1::ApplyRequest { replace_all: true, allow_empty: true, ..request("{}") };
    fleet.apply(deletion).await.expect("is valid");
    assert_ne!(hash().await, first);
    let rollback = v1::RollbackRequest { revision: 1, ..<_>::default() };
    let rolled = fleet.rollback(rollback.clone()).await.expect("is kept").into_inner();
    assert_eq!((rolled.revision, hash().await), (3, first));
    let again = fleet.rollback(rollback).await.expect("is kept").into_inner();
    assert_eq!((again.revision, again.changes), (3, vec![]), "it is so already");
}

#[tokio::test]
async fn history_tells_who_changed_what_newest_first_and_in_pages() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    for weight in 1..=4 {
        let comment = format!("weight {weight}");
        fleet.apply(v1::ApplyRequest { comment, ..app(weight) }).await.expect("is valid");
    }
    let mut page = async |limit, before| {
        let page = fleet.history(v1::HistoryRequest { limit, before }).await.expect("reads");
        let revisions = page.into_inner().revisions.into_iter();
        revisions.map(|r| (r.revision, r.comment, lines(&r.changes))).collect::<Vec<_>>()
    };
    let newest = page(2, None).await;
    let weight = |from, to| vec![format!("backend_sets[app].backends[one].weight: {from} -> {to}")];
    let expected = [(4, "weight 4".into(), weight(3, 4)), (3, "weight 3".into(), weight(2, 3))];
    assert_eq!(newest, expected);
    let rest: Vec<_> = page(0, Some(3)).await.into_iter().map(|(number, ..)| number).collect();
    assert_eq!(rest, [2, 1]);
}

#[tokio::test]
async fn watchers_see_changes_and_proxies_as_they_come_and_go() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let mut events = fleet.watch(v1::WatchRequest {}).await.expect("watches").into_inner();
    fleet.apply(app(1)).await.expect("is valid");
    let mut proxy = control.proxy("p1", None).await;
    proxy.follow_to(1).await;
    eventually("it is told", async || {
        match events.message().await.expect("goes on").expect("goes on").event {
            Some(Event::Proxy(change)) => (change.what == "applied").then_some(()),
            Some(Event::Revision(revision)) => {
                assert_eq!((revision.revision, revision.changes.len()), (1, 1));
                None
            }
            other => panic!("unexpected {other:?}"),
        }
    })
    .await;
    drop(proxy);
    let left = soon("it is told", events.message()).await.expect("goes on").expect("goes on");
    let Some(Event::Proxy(left)) = left.event else { panic!("unexpected {left:?}") };
    assert_eq!((left.proxy_id.as_str(), left.what.as_str()), ("p1", "disconnected"));
}

#[tokio::test]
async fn a_drain_is_told_until_every_proxy_has_emptied_the_backend() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    fleet.apply(app(1)).await.expect("is valid");
    let mut proxy = control.proxy("p1", None).await;
    let before = proxy.follow_to(1).await.snapshot;
    proxy.report(before, 2).await;
    eventually("the load is known", async || {
        let listed = fleet.list_backends(v1::ListBackendsRequest::default()).await;
        (listed.expect("lists").into_inner().backends[0].in_flight == 2).then_some(())
    })
    .await;

    let request = v1::DrainBackendRequest {
        backend_set: "app".into(),
        backend: "one".into(),
        ..<_>::default()
    };
    let mut progress = fleet.drain_backend(request).await.expect("drains").into_inner();
    let first = soon("at once", progress.message()).await.expect("goes on").expect("goes on");
    assert_eq!((first.revision, first.in_flight), (2, 2));
    assert_eq!((first.waiting_for, first.drained), (vec!["p1".to_owned()], false));

    let after = proxy.follow_to(2).await.snapshot;
    proxy.report(before, 0).await;
    proxy.report(after, 1).await;
    proxy.report(after, 0).await;
    let last = eventually("it is empty", async || {
        let told = progress.message().await.expect("goes on").expect("goes on");
        told.drained.then_some(told)
    })
    .await;
    assert_eq!((last.in_flight, last.waiting_for, last.deadline_passed), (0, vec![], false));
    assert!(soon("ends", progress.message()).await.expect("ends well").is_none());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_or_when_it_is_taken_back() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    fleet.apply(app(1)).await.expect("is valid");
    let mut silent = control.proxy("p1", None).await;
    silent.follow_to(1).await;
    eventually("it is connected", async || {
        let listed = fleet.list_proxies(v1::ListProxiesRequest {}).await.expect("lists");
        (listed.into_inner().proxies.len() == 1).then_some(())
    })
    .await;
    let request = |deadline| v1::DrainBackendRequest {
        backend_set: "app".into(),
        backend: "one".into(),
        deadline: Some(prost_types::Duration { seconds: 0, nanos: deadline }),
        ..<_>::default()
    };
    let mut progress = fleet.drain_backend(request(50_000_000)).await.expect("drains").into_inner();
    let last = eventually("it ends", async || {
        let told = progress.message().await.expect("goes on").expect("goes on");
        told.deadline_passed.then_some(told)
    })
    .await;
    assert!(!last.drained);
    assert!(soon("ends", progress.message()).await.expect("ends well").is_none());

    let long = v1::DrainBackendRequest { deadline: None, ..request(0) };
    let mut progress = fleet.drain_backend(long).await.expect("drains").into_inner();
    fleet.apply(app(2)).await.expect("is valid");
    let undrain = v1::UndrainBackendRequest {
        backend_set: "app".into(),
        backend: "one".into(),
        ..<_>::default()
    };
    fleet.undrain_backend(undrain).await.expect("it drains still");
    let status = eventually("it ends", async || progress.message().await.err()).await;
    assert_eq!(status.code(), Code::Aborted);
}

#[tokio::test]
async fn everything_but_the_epoch_is_as_it_was_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let control = Control::stored_in(directory.path());
    let mut fleet = control.fleet().await;
    fleet.apply(app(1)).await.expect("is valid");
    fleet.apply(app(2)).await.expect("is valid");
    let before = fleet.list_proxies(v1::ListProxiesRequest {}).await.expect("lists").into_inner();
    control.stop().await.expect("ends well");

    let control = Control::stored_in(directory.path());
    let mut fleet = control.fleet().await;
    let after = fleet.list_proxies(v1::ListProxiesRequest {}).await.expect("lists").into_inner();
    assert!(after.epoch > before.epoch, "{} after {}", after.epoch, before.epoch);
    assert_eq!(after.version, 1);
    assert_eq!((after.revision, after.hash), (before.revision, before.hash));
    let old = v1::RollbackRequest { revision: 1, ..<_>::default() };
    assert_eq!(fleet.rollback(old).await.expect("is kept").into_inner().revision, 3);
}

#[tokio::test]
async fn a_directory_that_is_in_use_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Control::stored_in(directory.path());
    // It answers once it has the store.
    first.fleet().await.get(v1::GetRequest::default()).await.expect("is there");
    let second = Control::stored_in(directory.path());
    let error = second.ended().await.expect_err("the first has it");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    first.stop().await.expect("ends well");
}

#[tokio::test]
async fn streams_end_with_the_controller_and_say_so() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let mut events = fleet.watch(v1::WatchRequest {}).await.expect("watches").into_inner();
    let mut proxy = control.proxy("p1", None).await;
    proxy.next().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(control.channel().await);
    let watch = tonic_health::pb::HealthCheckRequest::default();
    let _health = health.watch(watch).await.expect("watches");
    let started = lb_common::clock::now();
    control.stop().await.expect("ends well");
    let took = lb_common::clock::now() - started;
    assert!(took < Duration::from_secs(4), "nobody had to be cut off: {took:?}");
    assert_eq!(proxy.try_next().await.expect_err("ended").code(), Code::Unavailable);
    let status = eventually("it ends", async || events.message().await.err()).await;
    assert_eq!(status.code(), Code::Unavailable);
}
