//! What was acknowledged is there, whenever the controller dies.

use std::{collections::BTreeMap, time::Duration};

use integration_tests::{
    binaries::binary,
    client,
    eventually::{eventually, holds},
    fleet::{Api, Fleet, app},
    metrics::Metrics,
    setting,
    tools::tool,
};
use lb_common::clock;
use lb_proto::v1::{ApplyRequest, Backend, BackendChange, BackendSet, GetRequest, HistoryRequest};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::sync::watch;
use tonic::Code;

/// The longest that a controller runs under changes before it is killed.
const LONGEST_MILLIS: u64 = 60;

/// What its backend's weight is at the revision that change `n` made.
fn weight(n: u64) -> u32 {
    u32::try_from(n % 60_000).expect("it is small") + 1
}

/// Applies one change after the other until one fails, and tells how many were acknowledged.
async fn apply_changes(mut api: Api, next: u64, acknowledged: watch::Sender<u64>) -> u64 {
    let mut n = next;
    loop {
        let backend = Backend {
            address: "127.0.0.1:1".into(),
            weight: Some(weight(n)),
            ..Backend::default()
        };
        let request = ApplyRequest {
            backends: vec![BackendChange { backend_set: "app".into(), backend: Some(backend) }],
            expected_revision: Some(n - 1),
            comment: format!("change {n}"),
            ..ApplyRequest::default()
        };
        match api.apply(request).await {
            Ok(response) => assert_eq!(response.into_inner().revision, n),
            Err(_) => return n,
        }
        acknowledged.send_replace(n);
        n += 1;
    }
}

async fn weight_at(api: &mut Api, revision: Option<u64>) -> (u64, u32) {
    let got = api.get(GetRequest { revision }).await.expect("the revision is kept").into_inner();
    let spec = got.spec.expect("there is a state");
    (got.revision, spec.backend_sets[0].backends[0].weight.unwrap_or(1))
}

#[tokio::test]
async fn no_acknowledged_change_is_lost_when_the_controller_is_killed() {
    let kills = setting("LB_TEST_KILLS", 20);
    let seed = setting("LB_TEST_SEED", fastrand::u64(..));
    println!("LB_TEST_SEED={seed} kills at the same moments again, as far as that goes");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut fleet = Fleet::start(1, &app("", "", &["127.0.0.1:1".parse().expect("valid")])).await;
    let mut known = 1;
    let mut epoch = fleet.settled(1).await.epoch;
    let (mut unacknowledged, mut slowest) = (0, Duration::ZERO);
    for kill in 1..=kills {
        let (sender, mut acknowledged) = watch::channel(known);
        let changes = tokio::spawn(apply_changes(fleet.api().await, known + 1, sender));
        // The controller is at work, and then some random time goes by.
        acknowledged.wait_for(|n| *n > known).await.expect("changes are acknowledged");
        tokio::time::sleep(Duration::from_micros(rng.u64(..LONGEST_MILLIS * 1_000))).await;
        fleet.controller.kill();
        let attempted = changes.await.expect("nothing is wrong with the changes");
        let safe = *acknowledged.borrow();

        let started = clock::now();
        fleet.controller.start_again().await;
        slowest = slowest.max(clock::now() - started);
        let mut api = fleet.api().await;
        let (current, value) = weight_at(&mut api, None).await;
        assert!(
            (safe..=attempted).contains(&current),
            "kill {kill}: {safe} was acknowledged, {attempted} was tried, and {current} is there"
        );
        assert_eq!(value, weight(current), "kill {kill}: the state is that of its revision");
        unacknowledged += u64::from(current > safe);

        let history = HistoryRequest { limit: 1_000, before: None };
        let history = api.history(history).await.expect("it is readable").into_inner();
        let comments: BTreeMap<_, _> =
            history.revisions.iter().map(|entry| (entry.revision, &*entry.comment)).collect();
        for n in known.max(current.saturating_sub(900)) + 1..=current {
            let expected = format!("change {n}");
            assert_eq!(comments.get(&n), Some(&&*expected), "kill {kill}");
        }
        assert_eq!(weight_at(&mut api, Some(safe)).await, (safe, weight(safe)), "kill {kill}");
        let list = fleet.list_proxies().await.expect("it answers");
        assert!(list.epoch > epoch, "kill {kill}: each start has an epoch of its own");
        (known, epoch) = (current, list.epoch);
    }
    println!(
        "{kills} kills, {known} revisions, {unacknowledged} times the last one was kept without \
         an answer, slowest start {slowest:?}"
    );
    fleet.settled(known).await;
}

/// Lets the controller write no file beyond so many bytes, as if the disk were full, or any.
fn disk_has(fleet: &Fleet, bytes: Option<u64>) {
    let id = i32::try_from(fleet.controller.process.id()).expect("it is small");
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Pid::from_raw(id), Resource::Fsize, limit).expect("it is ours");
}

async fn readiness(fleet: &Fleet) -> (u16, String) {
    let answer = client::get(fleet.controller.admin(), "/readyz").await;
    (answer.status(), answer.text())
}

async fn failing(fleet: &Fleet) -> f64 {
    let page = client::get(fleet.controller.admin(), "/metrics").await.text();
    Metrics::parse(&page).sum("lb_control_store_failing", &[])
}

/// With more flags for the controller.
async fn fleet_whose_disk_may_be_full(flags: &[String]) -> Fleet {
    // Without that, the signal ends whoever writes more than it may.
    let ignoring = vec!["--ignore-signal=XFSZ".into(), binary("lb-control").display().to_string()];
    Fleet::empty_as(tool("env"), ignoring, flags).await
}

async fn is_ready(fleet: &Fleet, expected: u16) {
    eventually(&format!("/readyz says {expected}"), async || {
        let answer = readiness(fleet).await;
        holds(answer.0 == expected, || format!("{answer:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_file_that_changes_while_the_disk_is_full_is_in_force_once_there_is_room() {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let file = dir.path().join("lb.toml");
    let write = |name: &str| {
        let text = format!("[[backend_sets]]\nname = '{name}'\n");
        std::fs::write(&file, text).expect("it is our directory");
    };
    write("before");
    let fleet = fleet_whose_disk_may_be_full(&[format!("--config={}", file.display())]).await;
    disk_has(&fleet, Some(0));
    write("after");
    is_ready(&fleet, 503).await;
    let mut api = fleet.api().await;
    let mut sets = async || {
        let got = api.get(GetRequest::default()).await.expect("it answers").into_inner();
        let sets = got.spec.expect("there is a state").backend_sets;
        sets.into_iter().map(|set| set.name).collect::<Vec<_>>()
    };
    assert_eq!(sets().await, ["before"]);
    disk_has(&fleet, None);
    eventually("the file is in force", async || {
        let sets = sets().await;
        holds(sets == ["after"], || format!("{sets:?}"))
    })
    .await;
    is_ready(&fleet, 200).await;
}

#[tokio::test]
async fn a_full_disk_stops_changes_and_nothing_else_and_once_there_is_room_they_go_on() {
    let mut fleet = fleet_whose_disk_may_be_full(&[]).await;
    fleet.add_proxy("p1", &[]);
    let mut revision = fleet.apply(&app("", "", &["127.0.0.1:1".parse().expect("valid")])).await;
    let epoch = fleet.settled(revision).await.epoch;
    let mut api = fleet.api().await;
    let change = |comment: &str| {
        let backend_sets = vec![BackendSet { name: comment.into(), ..BackendSet::default() }];
        let comment = comment.into();
        ApplyRequest { backend_sets, comment, ..ApplyRequest::default() }
    };
    for round in 0..3 {
        // The first page may be written, and so a fault may come at any of what follows.
        disk_has(&fleet, Some(4096 * round));
        let refused = api.apply(change(&format!("full-{round}"))).await.expect_err("it is full");
        assert!([Code::Unavailable, Code::Unknown].contains(&refused.code()), "{refused}");
        let (status, why) = readiness(&fleet).await;
        assert!(status == 503 && why.contains("control.redb"), "{status} {why}");
        assert_eq!(failing(&fleet).await, 1.0);
        // A proxy that comes is told what to run.
        let id = format!("new-{round}");
        fleet.add_proxy(&id, &[]);
        fleet.settled(revision).await;

        disk_has(&fleet, None);
        let room = clock::now();
        is_ready(&fleet, 200).await;
        println!("ready {:?} after there was room", clock::now() - room);
        assert_eq!(failing(&fleet).await, 0.0);
        let (current, _) = weight_at(&mut api, None).await;
        assert!((revision..=revision + 1).contains(&current), "{current} after {revision}");
        let next = api.apply(change(&format!("room-{round}"))).await.expect("there is room");
        revision = next.into_inner().revision;
        assert_eq!(revision, current + 1);
    }
    let log = fleet.controller.process.log();
    assert!(log.contains("the store works again"), "{log}");

    fleet.controller.kill();
    fleet.controller.start_again().await;
    let list = fleet.settled(revision).await;
    assert!(list.revision == revision && list.epoch > epoch, "{list:?}");
    let history = HistoryRequest { limit: 100, before: None };
    let history = fleet.api().await.history(history).await.expect("it is readable").into_inner();
    let numbers: Vec<_> = history.revisions.iter().map(|entry| entry.revision).collect();
    assert_eq!(numbers, (1..=revision).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_controller_that_starts_on_a_full_disk_looks_after_proxies_and_takes_changes_once_it_can()
{
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let limit = dir.path().join("limit");
    // Of so many times 512 bytes its files may be from its next start on.
    let script = format!(
        "ulimit -S -f \"$(cat {} 2>/dev/null || echo unlimited)\"; exec env --ignore-signal=XFSZ {} \"$@\"",
        limit.display(),
        binary("lb-control").display(),
    );
    let shell = vec!["-c".into(), script, "sh".into()];
    let mut fleet = Fleet::empty_as(tool("sh"), shell, &[]).await;
    fleet.add_proxy("p1", &[]);
    let revision = fleet.apply(&app("", "", &["127.0.0.1:1".parse().expect("valid")])).await;
    let epoch = fleet.settled(revision).await.epoch;

    fleet.controller.process.signal(Signal::TERM);
    fleet.controller.process.ended(Duration::from_secs(20)).await;
    // The first page may be written, which says that the file is open.
    std::fs::write(&limit, (4096 / 512).to_string()).expect("it is our directory");
    fleet.controller.start_again().await;
    is_ready(&fleet, 503).await;
    assert!(fleet.settled(revision).await.epoch > epoch, "the proxy takes what it says");
    let change = || {
        let backend_sets = vec![BackendSet { name: "new".into(), ..BackendSet::default() }];
        ApplyRequest { backend_sets, ..ApplyRequest::default() }
    };
    let mut api = fleet.api().await;
    let refused = api.apply(change()).await.expect_err("it is full");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    disk_has(&fleet, None);
    is_ready(&fleet, 200).await;
    let accepted = api.apply(change()).await.expect("there is room").into_inner();
    assert_eq!(accepted.revision, revision + 1);
    fleet.settled(accepted.revision).await;
}
