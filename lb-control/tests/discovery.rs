//! What proxies see, over real gRPC.

mod common;

use common::{Control, app, eventually, is_full, request, soon};
use lb_common::spec::BackendState;
use lb_proto::{
    update::{self, Sealed},
    v1::{self, proxy_message::Message, update::Content},
};
use tonic::Code;

async fn listed(control: &Control) -> v1::ListProxiesResponse {
    let mut fleet = control.fleet().await;
    fleet.list_proxies(v1::ListProxiesRequest {}).await.expect("lists").into_inner()
}

fn open(update: &v1::Update) -> Sealed {
    let Some(Content::Full(bytes)) = &update.content else { panic!("not full: {update:?}") };
    let id = update.snapshot.as_ref().map(update::parse_snapshot_id).expect("has an id");
    Sealed::open(id, update.revision, bytes).expect("is valid")
}

#[tokio::test]
async fn a_new_proxy_gets_everything_and_is_in_sync_once_it_applied_it() {
    let control = Control::in_memory();
    control.fleet().await.apply(app(1)).await.expect("is valid");
    let mut proxy = control.proxy("p1", None).await;
    let update = proxy.next().await;
    assert_eq!(open(&update).snapshot.desired.backend_sets.len(), 1);
    let seen = eventually("it is listed", async || listed(&control).await.proxies.pop()).await;
    assert_eq!((seen.id.as_str(), seen.connected, seen.in_sync), ("p1", true, false));
    proxy.applied(update.snapshot).await;
    eventually("it is in sync", async || {
        let listed = listed(&control).await;
        let proxy = &listed.proxies[0];
        (proxy.in_sync && proxy.hash == listed.hash && proxy.applied_at.is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_knows_a_snapshot_gets_what_leads_on_from_it() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let many: Vec<_> = (0..50).map(|i| format!(r#"{{"name": "set-{i}"}}"#)).collect();
    let many = format!(r#"{{"backend_sets": [{}]}}"#, many.join(","));
    fleet.apply(request(&many)).await.expect("is valid");
    let mut proxy = control.proxy("p1", None).await;
    let first = proxy.follow_to(1).await;
    drop(proxy);
    fleet.apply(app(1)).await.expect("is valid");

    let mut proxy = control.proxy("p1", first.snapshot).await;
    let second = proxy.next().await;
    let Some(Content::Delta(delta)) = &second.content else { panic!("not a delta: {second:?}") };
    let id = second.snapshot.as_ref().map(update::parse_snapshot_id).expect("has an id");
    let reached = open(&first).follow(id, 2, delta).expect("leads there");
    assert_eq!(reached.snapshot.desired.backend_sets.len(), 51);

    let altered = v1::SnapshotId { digest_low: 1, ..first.snapshot.expect("has an id") };
    let mut proxy = control.proxy("p2", Some(altered)).await;
    assert!(is_full(&proxy.next().await), "what it runs was never published");
}

#[tokio::test]
async fn a_proxy_that_runs_the_current_snapshot_is_sent_nothing_and_is_in_sync() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    fleet.apply(app(1)).await.expect("is valid");
    let mut proxy = control.proxy("p1", None).await;
    let current = proxy.follow_to(1).await.snapshot;
    drop(proxy);
    let mut proxy = control.proxy("p1", current).await;
    eventually("it is in sync", async || {
        let proxy = listed(&control).await.proxies.pop()?;
        (proxy.connected && proxy.in_sync).then_some(())
    })
    .await;
    fleet.apply(app(2)).await.expect("is valid");
    assert_eq!(proxy.next().await.revision, 2, "the first that it gets");
}

/// As after a backup was restored: what this controller begins with is older than what proxies run.
#[tokio::test]
async fn a_proxy_that_is_ahead_needs_no_help_and_others_get_nothing_that_they_have() {
    let directory = tempfile::tempdir().expect("a directory");
    let control = Control::stored_in(directory.path());
    control.fleet().await.apply(app(1)).await.expect("is valid");
    let mut other = control.proxy("other", None).await;
    let first = open(&other.follow_to(1).await);
    let epoch = first.snapshot.id.version.epoch + 1_000;
    let ahead = v1::SnapshotId { epoch, version: 70, digest_low: 1, digest_high: 1 };
    let mut proxy = control.proxy("ahead", Some(ahead)).await;
    let later = loop {
        let update = proxy.next().await;
        let snapshot = update.snapshot.expect("has an id");
        if snapshot.epoch > epoch {
            break snapshot;
        }
        proxy.rejected(update.snapshot, "is stale").await;
    };
    assert_eq!((later.epoch, later.version), (epoch + 1, 1));
    let update = other.next().await;
    assert_eq!(update.snapshot, Some(later));
    let Some(Content::Delta(delta)) = &update.content else { panic!("not a delta: {update:?}") };
    let id = update::parse_snapshot_id(&later);
    let reached = first.follow(id, update.revision, delta).expect("leads there");
    assert_eq!(reached.snapshot.desired, first.snapshot.desired);
    assert!(delta.len() < 100, "it is the same: {} bytes", delta.len());
    control.fleet().await.apply(app(2)).await.expect("changes go on");

    control.stop().await.expect("ends in order");
    let control = Control::stored_in(directory.path());
    let again = control.proxy("other", None).await.follow_to(2).await.snapshot.expect("has an id");
    assert!(again.epoch > later.epoch, "it is stored: {again:?}");
}

/// Bodies are larger than what the transport buffers, so an update that is not read stays.
#[tokio::test]
async fn a_proxy_that_does_not_read_delays_nobody_and_skips_to_the_latest() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let answer = |i: usize| {
        let body = i.to_string().repeat(3_000_000);
        let answer = Some(v1::Answer { status: 200, body, ..<_>::default() });
        let route = v1::Route { name: "r".into(), answer, ..<_>::default() };
        v1::ApplyRequest { routes: vec![route], ..<_>::default() }
    };
    fleet.apply(answer(0)).await.expect("is valid");
    let mut slow = control.proxy("slow", None).await;
    eventually("it is connected", async || listed(&control).await.proxies.pop()).await;
    let mut fast = control.proxy("fast", None).await;
    for i in 1..=8 {
        fleet.apply(answer(i)).await.expect("is accepted");
        fast.follow_to(i as u64 + 1).await;
    }
    let mut revisions = Vec::new();
    while revisions.last() != Some(&9) {
        let update = slow.next().await;
        slow.applied(update.snapshot).await;
        revisions.push(update.revision);
    }
    // One was on its way, one more if that took too long to be answered, and then the latest.
    assert!(revisions.len() <= 3, "{revisions:?}");
}

#[tokio::test]
async fn a_proxy_that_refuses_a_revision_gets_drains_on_the_one_that_it_runs_and_then_the_next() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let many: Vec<_> = (0..50).map(|i| format!(r#"{{"name": "set-{i}"}}"#)).collect();
    let many = format!(r#"{{"backend_sets": [{}]}}"#, many.join(","));
    fleet.apply(app(1)).await.expect("is valid");
    let mut proxy = control.proxy("p1", None).await;
    let first = open(&proxy.follow_to(1).await);
    fleet.apply(request(&many)).await.expect("is valid");
    let delta = proxy.next().await;
    assert!(!is_full(&delta));
    proxy.rejected(delta.snapshot, "a delta, of all things").await;
    let full = proxy.next().await;
    assert_eq!((full.snapshot, is_full(&full)), (delta.snapshot, true), "at once");
    proxy.rejected(full.snapshot, "that neither").await;
    eventually("it is listed", async || {
        (listed(&control).await.proxies[0].rejection == "that neither").then_some(())
    })
    .await;
    // It begins with what it has, at a version of its own.
    let kept = proxy.next().await;
    let track = open(&kept).snapshot;
    assert_eq!((kept.revision, track.id.digest), (1, first.snapshot.id.digest));
    proxy.applied(kept.snapshot).await;

    let drain = v1::DrainBackendRequest {
        backend_set: "app".into(),
        backend: "one".into(),
        ..v1::DrainBackendRequest::default()
    };
    let mut drained = fleet.drain_backend(drain).await.expect("is there").into_inner();
    let update = proxy.next().await;
    // What has one set takes less than what leads there.
    let reached = open(&update).snapshot;
    assert_eq!((update.revision, reached.desired.backend_sets.len()), (1, 1));
    assert_eq!(reached.members["app"][0].state, BackendState::Draining);
    proxy.applied(update.snapshot).await;
    proxy.report(update.snapshot, 0).await;
    eventually("it is empty", async || {
        drained.message().await.expect("goes on").filter(|progress| progress.drained)
    })
    .await;
    let listed_proxy = listed(&control).await.proxies.remove(0);
    assert_eq!((listed_proxy.revision, listed_proxy.rejection.as_str()), (1, "that neither"));

    fleet.apply(app(2)).await.expect("is valid");
    let next = proxy.next().await;
    assert_eq!(next.revision, 4, "and not what it refused");
    proxy.applied(next.snapshot).await;
    eventually("it is in sync", async || listed(&control).await.proxies[0].in_sync.then_some(()))
        .await;
    assert_eq!(listed(&control).await.proxies[0].rejection, "");
}

#[tokio::test]
async fn the_newer_of_two_proxies_with_one_id_stays() {
    let control = Control::in_memory();
    let mut older = control.proxy("twin", None).await;
    older.next().await;
    let mut newer = control.proxy("twin", None).await;
    let status = eventually("it is ended", async || older.try_next().await.err()).await;
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("replaced by a newer connection"), "{status}");
    let update = newer.next().await;
    newer.applied(update.snapshot).await;
    eventually("it is in sync", async || {
        let proxies = listed(&control).await.proxies;
        (proxies.len() == 1 && proxies[0].connected && proxies[0].in_sync).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_proxy_without_a_proper_hello_is_told_why_it_is_refused() {
    let control = Control::in_memory();
    let mut nameless = control.proxy("not a name", None).await;
    let status = nameless.try_next().await.expect_err("is refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("hello.proxy_id: \"not a name\""), "{status}");

    let mut client = v1::discovery_client::DiscoveryClient::new(control.channel().await);
    let message = Message::Applied(v1::Applied::default());
    let hasty = tokio_stream::once(v1::ProxyMessage { message: Some(message) });
    let mut updates = client.subscribe(hasty).await.expect("is answered").into_inner();
    let status = soon("is refused", updates.message()).await.expect_err("is refused");
    assert_eq!(status.code(), Code::InvalidArgument);
}
