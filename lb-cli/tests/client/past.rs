//! What was: history, show, rollback; and events, past and present.

use integration_tests::{
    eventually::{eventually, holds},
    fleet::{Fleet, app_with},
};
use lb_proto::v1;
use serde_json::Value;

use super::{
    file::fleet,
    lb::{Terminal, json, lb, ok, plain},
};

/// Revisions 2 to `last`, each with another weight.
async fn busy(last: u64) -> Fleet {
    let fleet = fleet().await;
    for weight in 2..=last {
        weigh(&fleet, weight).await;
    }
    fleet
}

/// Changes what is asked for, which is what revisions and rollbacks are about.
async fn weigh(fleet: &Fleet, weight: u64) {
    let one = v1::Backend {
        name: "one".into(),
        address: "127.0.0.1:3".into(),
        weight: u32::try_from(weight).ok(),
        ..v1::Backend::default()
    };
    let request = v1::ApplyRequest {
        backends: vec![v1::BackendChange { backend_set: "app".into(), backend: Some(one) }],
        comment: format!("weight {weight} for one of app"),
        ..v1::ApplyRequest::default()
    };
    fleet.api().await.apply(request).await.expect("it is valid");
}

#[tokio::test]
async fn history_is_read_page_by_page() {
    let fleet = busy(6).await;
    let page = ok(lb(&fleet, &["history", "-n", "2"]).await);
    let lines: Vec<_> = page.lines().collect();
    assert!(lines[0].starts_with("REVISION  WHEN"), "{page}");
    assert!(lines[1].contains("weight 6 for one of app"), "{page}");
    assert!(lines[1].contains("backend_sets[app].backends[one].weight: 5 -> 6"), "{page}");
    assert_eq!(*lines.last().expect("there is one"), "older ones: lb history --before 5");

    let mut seen = Vec::new();
    let mut before = Vec::new();
    loop {
        let mut args = vec!["history", "--limit", "2"];
        args.extend(before.iter().map(String::as_str));
        let page = json(&fleet, &args).await;
        let revisions = page["revisions"].as_array().expect("a list");
        let Some(oldest) = revisions.last() else { break };
        before = vec!["--before".into(), oldest["revision"].to_string()];
        seen.extend(revisions.iter().filter_map(|revision| revision["revision"].as_u64()));
    }
    assert_eq!(seen, [6, 5, 4, 3, 2, 1]);
    let last = ok(lb(&fleet, &["history", "--before", "3"]).await);
    assert!(!last.contains("older ones"), "{last}");
}

#[tokio::test]
async fn a_revision_is_shown_with_its_changes() {
    let fleet = busy(3).await;
    let shown = ok(lb(&fleet, &["show", "2"]).await);
    assert!(shown.starts_with("revision 2  20"), "{shown}");
    assert!(shown.contains("\n  weight 2 for one of app\n"), "{shown}");
    assert!(shown.ends_with("  ~ backend_sets[app].backends[one].weight: 0 -> 2\n"), "{shown}");
    assert_eq!(json(&fleet, &["show", "2"]).await["revision"], 2);
    for missing in ["4", "0", "18446744073709551615"] {
        let said = lb(&fleet, &["show", missing]).await;
        assert_eq!(said.code, Some(1));
        let expected = format!(
            "lb: there is no revision {missing}; the newest one is 3, and lb history lists them\n"
        );
        assert_eq!(said.err, expected);
    }
    let then = ok(lb(&fleet, &["get", "backend_set", "app", "--revision", "2"]).await);
    assert!(then.contains("weight = 2"), "{then}");
}

#[tokio::test]
async fn a_rollback_is_shown_asked_for_and_made() {
    let fleet = busy(3).await;
    let change = "  ~ backend_sets[app].backends[one].weight: 3 -> 0\n";
    let dry = ok(lb(&fleet, &["rollback", "1", "--dry-run"]).await);
    assert_eq!(dry, format!("{change}1 change: 1 changed; nothing was changed\n"));
    assert_eq!(lb(&fleet, &["rollback", "1"]).await.code, Some(3), "nobody to ask");

    let mut terminal = Terminal::start(&fleet, 80, "lb rollback 1");
    terminal.shows("Go ahead?").await;
    terminal.types("y\n").await;
    let (code, text) = terminal.ended().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("done: revision 4"), "{text}");
    let same = ok(lb(&fleet, &["rollback", "1", "--yes"]).await);
    assert_eq!(same, "nothing to change: revision 4 has it all already\n");
    let history = json(&fleet, &["history", "-n", "1"]).await;
    assert_eq!(history["revisions"][0]["comment"], "rollback to 1");

    let said = lb(&fleet, &["rollback", "9", "--yes"]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains('9'), "{}", said.err);
}

#[tokio::test]
async fn a_rollback_that_somebody_overtakes_changes_nothing() {
    let fleet = busy(3).await;
    let mut terminal = Terminal::start(&fleet, 80, "lb rollback 2");
    terminal.shows("Go ahead?").await;
    weigh(&fleet, 9).await;
    terminal.types("y\n").await;
    let (code, text) = terminal.ended().await;
    assert_eq!(code, Some(4), "{text}");
    let now = ok(lb(&fleet, &["get", "backend_set", "app"]).await);
    assert!(now.contains("weight = 9"), "{now}");
}

#[tokio::test]
async fn events_of_the_past_are_revisions_and_how_everything_came_to_be() {
    let set = "health_check = { tcp = true, interval = '50ms', unhealthy_after = 1 }";
    let spec = app_with("", set, "{ address = '127.0.0.1:1' }");
    let fleet = Fleet::start(1, &spec).await;
    fleet.backend_is(([127, 0, 0, 1], 1).into(), "unhealthy", |status| status.health == 2).await;
    let told = eventually("all is told", async || {
        let told = ok(lb(&fleet, &["events"]).await);
        holds(told.contains("p1 applied"), || told.clone()).map(|()| told)
    })
    .await;
    for part in
        ["revision  1 ", "health    app/127.0.0.1:1 is unhealthy: ", "proxy     p1 connected\n"]
    {
        assert_eq!(told.matches(part).count(), 1, "{part:?} in {told}");
    }
    let times: Vec<_> = told.lines().map(|line| &line[.."2026-11-22 02:04:38".len()]).collect();
    assert!(times.is_sorted(), "oldest first: {told}");
    assert_eq!(ok(lb(&fleet, &["events", "-n", "1"]).await).lines().count(), 1);
    assert_eq!(ok(lb(&fleet, &["events", "-n", "0"]).await), "");

    let lines = ok(lb(&fleet, &["events", "--json"]).await);
    let events: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let health = events.iter().find_map(|event| event["event"].get("health"));
    assert_eq!(health.expect("there is one")["health"], "unhealthy");
}

#[tokio::test]
async fn events_go_on_across_a_restart_of_the_controller_and_none_comes_twice() {
    let mut fleet = busy(2).await;
    let terminal = Terminal::start(&fleet, 200, "lb events --follow");
    terminal.shows("revision  2 ").await;
    weigh(&fleet, 3).await;
    terminal.shows("revision  3 ").await;

    fleet.controller.kill();
    terminal.shows("waiting for the controller").await;
    fleet.controller.start_again().await;
    weigh(&fleet, 4).await;
    terminal.shows("revision  4 ").await;
    let text = plain(&terminal.text());
    for revision in 1..=4 {
        let part = format!("revision  {revision} ");
        assert_eq!(text.matches(&part).count(), 1, "{part:?} in {text}");
    }
}

#[tokio::test]
async fn following_ends_quietly_when_nobody_reads() {
    let fleet = busy(2).await;
    // The second event comes when head is gone, and ends it.
    let terminal = Terminal::start(&fleet, 80, "lb events -f --json -n 1 | head -n 1; echo end");
    terminal.shows("weight 2 for one of app").await;
    let ended = async {
        for weight in 3.. {
            ok(lb(&fleet, &["weight", "app/one", &weight.to_string()]).await);
            if terminal.text().contains("end\r\n") {
                return;
            }
        }
    };
    integration_tests::eventually::within(
        integration_tests::eventually::PATIENCE,
        "it ends",
        ended,
    )
    .await;
    let (_, text) = terminal.ended().await;
    assert!(!text.contains("lb:") && !text.contains("panic"), "{text}");
}
