//! Changes to one backend: undrain, weight.

use integration_tests::fleet::Fleet;
use serde_json::{Value, json as value};

use super::{
    file::fleet,
    lb::{json, lb, ok},
};

/// Weight and state of each, as in force.
async fn backends(fleet: &Fleet) -> Value {
    let backends = json(fleet, &["backends", "app"]).await["backends"].clone();
    let short = |backend: &Value| value!([backend["backend"], backend["weight"], backend["state"]]);
    backends.as_array().expect("they are listed").iter().map(short).collect()
}

#[tokio::test]
async fn a_weight_changes_and_nothing_else_does() {
    let fleet = fleet().await;
    let said = ok(lb(&fleet, &["weight", "app/[::1]:4", "3"]).await);
    let expected = "  ~ backend_sets[app].backends[[::1]:4].weight: 1 -> 3\ndone: revision 2\n";
    assert_eq!(said, expected);
    let expected = value!([["one", 0, "active"], ["[::1]:4", 3, "disabled"]]);
    assert_eq!(backends(&fleet).await, expected);

    let again = ok(lb(&fleet, &["weight", "app/[::1]:4", "3"]).await);
    assert_eq!(again, "nothing to change: revision 2 has it all already\n");
    let back = json(&fleet, &["weight", "app/[::1]:4", "1", "-m", "done with it"]).await;
    assert_eq!(back["revision"], 3);
    let history = json(&fleet, &["history"]).await;
    let comments = ["done with it", "weight 3 for [::1]:4 of app"];
    for (i, comment) in comments.iter().enumerate() {
        assert_eq!(history["revisions"][i]["comment"], *comment);
    }
}

#[tokio::test]
async fn what_is_no_backend_or_no_weight_is_told() {
    let fleet = fleet().await;
    #[rustfmt::skip]
    let cases = [
        (&["weight", "app/two", "3"][..], 1, "backend set \"app\" has no backend \"two\"; there are one, [::1]:4"),
        (&["weight", "ap/one", "3"], 1, "no backend set is called \"ap\"; there are app, b/lue"),
        (&["weight", "app", "3"], 2, "app/127.0.0.1:3001"),
        (&["weight", "app/one", "65536"], 2, "65535"),
        (&["weight", "app/one"], 2, "<N>"),
        (&["undrain", "b/lue/x"], 1, "backend set \"b/lue\" has no backend \"x\"; there are 127.0.0.1:5"),
        (&["undrain", "app/[::1]:4"], 1, "[::1]:4 is disabled, not draining"),
        (&["drain", "app/two"], 1, "has no backend \"two\""),
    ];
    for (args, code, part) in cases {
        let said = lb(&fleet, args).await;
        assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
        assert!(said.err.contains(part), "{args:?}: {}", said.err);
    }
}

#[tokio::test]
async fn undrain_ends_a_drain_and_keeps_the_weight() {
    let fleet = fleet().await;
    ok(lb(&fleet, &["drain", "app/one"]).await);
    assert_eq!(backends(&fleet).await[0], value!(["one", 0, "draining"]));
    let said = ok(lb(&fleet, &["undrain", "app/one"]).await);
    let expected =
        "  ~ backend_sets[app].backends[one].state: draining -> active\ndone: revision 3\n";
    assert_eq!(said, expected);
    assert_eq!(backends(&fleet).await[0], value!(["one", 0, "active"]));
    let again = ok(lb(&fleet, &["undrain", "app/one"]).await);
    assert_eq!(again, "nothing to change: revision 3 has it all already\n");
}

#[tokio::test]
async fn changes_at_the_same_time_do_not_undo_each_other() {
    let fleet = fleet().await;
    ok(lb(&fleet, &["drain", "app/one"]).await);
    let (a, b, c) = tokio::join!(
        lb(&fleet, &["undrain", "app/one"]),
        lb(&fleet, &["weight", "app/one", "7"]),
        lb(&fleet, &["weight", "app/[::1]:4", "9"]),
    );
    for said in [a, b, c] {
        ok(said);
    }
    let expected = value!([["one", 7, "active"], ["[::1]:4", 9, "disabled"]]);
    assert_eq!(backends(&fleet).await, expected);
    let history = json(&fleet, &["history"]).await;
    assert_eq!(history["revisions"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn who_waits_for_what_is_there_already_is_told_all_the_same_if_nobody_runs_it() {
    let fleet = fleet().await;
    let file = ok(lb(&fleet, &["get"]).await);
    let path = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&path, &file).expect("it is written");
    let path = path.path().to_str().expect("it has a name");
    let said = lb(&fleet, &["apply", "-f", path, "--wait=10ms"]).await;
    assert_eq!(said.code, Some(6), "{said:?}");
    assert!(said.out.starts_with("nothing to change"), "{said:?}");
    assert!(said.err.contains("no proxy is connected that could run it"), "{said:?}");
    ok(lb(&fleet, &["apply", "-f", path]).await);
}

#[tokio::test]
async fn undrain_reset_leaves_the_state_to_the_file_again() {
    let fleet = fleet().await;
    ok(lb(&fleet, &["drain", "app/one"]).await);
    let said = ok(lb(&fleet, &["undrain", "app/one", "--reset"]).await);
    assert!(said.contains("state: draining -> active"), "{said}");
    assert!(!ok(lb(&fleet, &["get"]).await).contains("by hand"));
}

#[tokio::test]
async fn what_is_set_by_hand_outlives_the_file_and_is_told_until_it_is_reset() {
    let fleet = fleet().await;
    let file = ok(lb(&fleet, &["get"]).await);
    ok(lb(&fleet, &["drain", "app/one"]).await);
    ok(lb(&fleet, &["weight", "app/[::1]:4", "9"]).await);
    let edited = file.replace("round_robin", "random");
    let path = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&path, &edited).expect("it is written");
    let path = path.path().to_str().expect("it has a name");
    ok(lb(&fleet, &["apply", "-f", path, "--yes"]).await);
    let expected = value!([["one", 0, "draining"], ["[::1]:4", 9, "disabled"]]);
    assert_eq!(backends(&fleet).await, expected);

    let got = ok(lb(&fleet, &["get"]).await);
    let told: Vec<_> = got.lines().skip_while(|line| !line.starts_with("# Set by hand")).collect();
    assert_eq!(told[0], "# Set by hand, and in force whatever this file says:");
    assert!(told[1].starts_with("#   app/[::1]:4: weight 9, by "), "{got}");
    assert!(told[1].ends_with(" (lb weight app/[::1]:4 --reset)"), "{got}");
    assert!(told[2].starts_with("#   app/one: draining, by "), "{got}");
    let listed = ok(lb(&fleet, &["backends", "app"]).await);
    assert!(listed.contains("draining, by "), "{listed}");

    let said = ok(lb(&fleet, &["rollback", "1", "--yes"]).await);
    assert!(said.contains("app/one: draining, by "), "{said}");
    ok(lb(&fleet, &["undrain", "app/one"]).await);
    ok(lb(&fleet, &["weight", "app/[::1]:4", "--reset"]).await);
    let expected = value!([["one", 0, "active"], ["[::1]:4", 1, "disabled"]]);
    assert_eq!(backends(&fleet).await, expected);
    assert!(!ok(lb(&fleet, &["get"]).await).contains("by hand"));
}
