//! What was acknowledged is there, whenever the controller dies.

use std::{collections::BTreeMap, time::Duration};

use integration_tests::{
    fleet::{Api, Fleet, app},
    setting,
};
use lb_common::clock;
use lb_proto::v1::{ApplyRequest, Backend, BackendChange, GetRequest, HistoryRequest};
use tokio::sync::watch;

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
