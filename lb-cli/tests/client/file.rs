//! The desired state as a file: get, apply, diff.

use std::{fs, path::PathBuf};

use integration_tests::fleet::{Fleet, app};
use lb_proto::v1;

use super::lb::{Terminal, json, lb, lb_with, ok};

pub const SPEC: &str = r#"
[[listeners]]
name = "web"
address = "127.0.0.1:1"

[[listeners]]
name = "db"
address = "127.0.0.1:2"
protocol = "tcp"
backend_set = "b/lue"

[[routes]]
name = "app"
match = { host = "example.com", headers = { "x-canary" = "a \"b\" \\ c" } }
forward = [{ backend_set = "app", weight = 9 }, { backend_set = "b/lue", weight = 0 }]
timeout = "1500ms"

[[routes]]
name = "robots"
match = { path = "/robots.txt" }
answer = { status = 200, body = "User-agent: *\nDisallow: '''\"\"\"\n\t🦀\u0000" }

[[backend_sets]]
name = "app"
health_check = { tcp = true, interval = "1h" }
backends = [
  { address = "127.0.0.1:3", name = "one", weight = 0 },
  { address = "[::1]:4", state = "disabled" },
]

[[backend_sets]]
name = "b/lue"
backends = [{ address = "127.0.0.1:5" }]
"#;

pub async fn fleet() -> Fleet {
    let fleet = Fleet::empty().await;
    fleet.apply(SPEC).await;
    fleet
}

fn write(fleet: &Fleet, text: &str) -> PathBuf {
    let path = fleet.dir().join("lb.toml");
    fs::write(&path, text).expect("it is our directory");
    path
}

async fn revision(fleet: &Fleet) -> u64 {
    let request = v1::GetRequest::default();
    let answer = fleet.api().await.get(request).await;
    answer.expect("the controller answers").into_inner().revision
}

#[tokio::test]
async fn apply_takes_back_unchanged_what_get_prints() {
    let fleet = fleet().await;
    let parts: [&[&str]; 10] = [
        &[],
        &["listeners"],
        &["listener", "web"],
        &["routes"],
        &["route", "app"],
        &["backend_sets"],
        &["backend-sets"],
        &["backend_set", "app"],
        &["backend-set", "b/lue"],
        &["--revision", "1"],
    ];
    for part in parts {
        let got = ok(lb(&fleet, &[&["get"], part].concat()).await);
        let applied = ok(lb_with(&fleet, &["apply", "-f", "-", "--yes"], &got).await);
        assert_eq!(
            applied, "nothing to change: revision 1 has it all already\n",
            "{part:?}\n{got}"
        );
    }
    assert_eq!(revision(&fleet).await, 1);
}

#[tokio::test]
async fn applying_a_part_leaves_the_rest_as_it_is() {
    let fleet = fleet().await;
    let part = ok(lb(&fleet, &["get", "backend_sets", "app"]).await);
    assert!(part.starts_with("# revision 1\npartial = true\n"), "{part}");
    let part = part.replace("weight = 0", "weight = 7");
    let applied = ok(lb_with(&fleet, &["apply", "-f", "-", "--yes"], &part).await);
    assert_eq!(applied, "  ~ backend_sets[app].backends[one].weight: 0 -> 7\ndone: revision 2\n",);
    let now = json(&fleet, &["get"]).await;
    let count = |kind: &str| now["spec"][kind].as_array().map(Vec::len);
    assert_eq!(["listeners", "routes", "backend_sets"].map(count), [Some(2); 3]);
}

#[tokio::test]
async fn a_part_that_was_written_by_hand_is_merged_when_asked() {
    let fleet = fleet().await;
    let file = write(&fleet, "[[routes]]\nname = \"new\"\nbackend_set = \"app\"\n");
    let file = file.to_str().expect("it is text");
    let whole = lb(&fleet, &["apply", "-f", file, "--yes"]).await;
    let expected = format!(
        "{file}:3:1: routes[new].backend_set: no backend set is called \"app\"; there are none\n"
    );
    assert_eq!((whole.code, whole.err), (Some(1), expected), "taken for the whole, it is wrong");
    let merged = ok(lb(&fleet, &["apply", "-f", file, "--merge", "--yes"]).await);
    assert_eq!(merged, "  + routes[new]: { backend_set: app, name: new }\ndone: revision 2\n");

    let file = write(&fleet, "[[routes]]\nname = \"new\"\n\nbackend_set = \"apple\"\n");
    let refused = lb(&fleet, &["apply", "-f", file.to_str().expect("text"), "--merge"]).await;
    let expected = format!(
        "lb: the controller refuses it\n{}:4:1: routes[new].backend_set: no backend set is called \
         \"apple\"; there are app, b/lue\n",
        file.display()
    );
    assert_eq!((refused.code, refused.err), (Some(1), expected), "with its place in the file");
}

#[tokio::test]
async fn what_is_not_there_is_told_with_what_is() {
    let fleet = fleet().await;
    let got = lb(&fleet, &["get", "route", "ap"]).await;
    assert_eq!(got.err, "lb: no route is called \"ap\"; there are app, robots\n");
    assert_eq!(got.code, Some(1));
    let got = lb(&fleet, &["get", "--revision", "7"]).await;
    assert!(got.err.starts_with("lb: ") && got.err.contains('7'), "{}", got.err);
    assert_eq!(got.code, Some(1));
    let got = lb(&fleet, &["get", "clusters"]).await;
    assert!(got.err.contains("listeners, routes, backend_sets"), "{}", got.err);
    assert_eq!(got.code, Some(2));
}

#[tokio::test]
async fn a_change_is_shown_and_made_and_a_dry_run_is_only_shown() {
    let fleet = fleet().await;
    let file = write(&fleet, &SPEC.replace("weight = 9", "weight = 8").replace("1500ms", "2s"));
    let file = file.to_str().expect("it is text");
    let lines =
        "  ~ routes[app].forward[app].weight: 9 -> 8\n  ~ routes[app].timeout: 1.5s -> 2s\n";
    let dry = ok(lb(&fleet, &["apply", "-f", file, "--dry-run"]).await);
    assert_eq!(dry, format!("{lines}2 changes: 2 changed; nothing was changed\n"));
    assert_eq!(revision(&fleet).await, 1);

    let wet = ok(lb(&fleet, &["apply", "-f", file, "--yes", "-m", "for a test"]).await);
    assert_eq!(wet, format!("{lines}done: revision 2\n"));
    let history = json(&fleet, &["history", "-n", "1"]).await;
    assert_eq!(history["revisions"][0]["comment"], "for a test");
    let again = json(&fleet, &["apply", "-f", file, "--yes"]).await;
    assert_eq!((&again["revision"], &again["changes"]), (&2.into(), &serde_json::json!([])));
}

#[tokio::test]
async fn nothing_is_changed_where_nobody_can_be_asked() {
    let fleet = fleet().await;
    let file = write(&fleet, "");
    for args in [&["apply", "-f", file.to_str().expect("text")][..], &["apply", "-f", "-"]] {
        for more in [&[][..], &["--json"]] {
            let said = lb(&fleet, &[args, &["--allow-empty"], more].concat()).await;
            assert_eq!(said.code, Some(3), "{said:?}");
            assert!(said.err.contains("6 removed") && said.err.contains("--yes"), "{}", said.err);
        }
    }
    assert_eq!(revision(&fleet).await, 1);
    let mut command = super::lb::command(fleet.controller.grpc(), &["apply", "-f", "-"]);
    let said = super::lb::run(command.env("LB_YES", "1"), SPEC).await;
    assert_eq!(said.code, Some(0), "the environment may say it: {said:?}");
}

#[tokio::test]
async fn on_a_terminal_it_asks() {
    let fleet = fleet().await;
    let file = write(&fleet, &SPEC.replace("1500ms", "2s"));
    let file = file.display();
    for (answer, code, revision_then) in
        [("n\n", 3, 1), ("\n", 3, 1), ("\u{4}", 3, 1), ("y\n", 0, 2)]
    {
        let mut terminal = Terminal::start(&fleet, 80, &format!("lb apply -f {file}"));
        terminal.shows("1 change: 1 changed. Go ahead? [y/N] ").await;
        terminal.types(answer).await;
        let (exit, text) = terminal.ended().await;
        assert_eq!(exit, Some(code), "{answer:?}: {text}");
        assert_eq!(revision(&fleet).await, revision_then, "{answer:?}");
    }
    // Its input is the file, so it asks the terminal itself.
    let mut terminal =
        Terminal::start(&fleet, 80, "lb get --revision 1 | sed s/1.5s/3s/ | lb apply -f -");
    terminal.shows("Go ahead?").await;
    terminal.types("yes\n").await;
    let (exit, text) = terminal.ended().await;
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("routes[app].timeout: 2s -> 3s"), "{text}");
}

#[tokio::test]
async fn what_somebody_else_changes_meanwhile_is_not_lost() {
    let fleet = fleet().await;
    let file = write(&fleet, &SPEC.replace("1500ms", "2s"));
    let mut terminal = Terminal::start(&fleet, 80, &format!("lb apply -f {}", file.display()));
    terminal.shows("Go ahead?").await;
    ok(lb(&fleet, &["weight", "app/one", "5"]).await);
    terminal.types("y\n").await;
    let (exit, text) = terminal.ended().await;
    assert_eq!(exit, Some(4), "{text}");
    assert!(text.contains("somebody else changed the fleet"), "{text}");
    assert_eq!(revision(&fleet).await, 2, "only the weight");

    let stale = ["apply", "-f", file.to_str().expect("text"), "--yes", "--expected-revision", "1"];
    let said = lb(&fleet, &stale).await;
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("1 is not current; the current revision is 2"), "{}", said.err);
}

#[tokio::test]
async fn a_wrong_file_is_told_with_lines_and_reaches_nobody() {
    let fleet = Fleet::empty().await;
    let file =
        write(&fleet, "[[listeners]]\nname = \"web\"\naddress = \"nowhere\"\n\n[[routes]]\n");
    let file = file.to_str().expect("it is text");
    for command in ["apply", "diff"] {
        let said = lb(&fleet, &[command, "-f", file]).await;
        assert_eq!(said.code, Some(1));
        let lines: Vec<_> = said.err.lines().collect();
        assert!(lines[0].starts_with(&format!("{file}:3:1: listeners[web].address: \"nowhere\"")));
        assert!(lines[1].starts_with(&format!("{file}:5:1: routes[0]")), "{lines:?}");
    }
    let said = lb(&fleet, &["apply", "-f", "/nowhere/lb.toml"]).await;
    assert!(said.err.starts_with("/nowhere/lb.toml: cannot be read: "), "{}", said.err);
    let said = lb(&fleet, &["apply"]).await;
    assert_eq!(said.code, Some(2), "a file is needed");
}

#[tokio::test]
async fn diff_says_with_its_exit_code_whether_there_is_a_difference() {
    let fleet = fleet().await;
    let said = lb_with(&fleet, &["diff", "-f", "-"], SPEC).await;
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
    let other = SPEC.replace("1500ms", "2s");
    let said = lb_with(&fleet, &["diff", "-f", "-"], &other).await;
    assert_eq!(said.code, Some(3));
    assert_eq!(said.out, "  ~ routes[app].timeout: 1.5s -> 2s\n");
    let said = lb_with(&fleet, &["diff", "-f", "-", "--json"], &other).await;
    assert_eq!(said.code, Some(3));
    let answer: serde_json::Value = serde_json::from_str(&said.out).expect("it is JSON");
    assert_eq!(answer["changes"][0]["kind"], "changed");
    assert_eq!(answer["changes"][0]["field"], "routes[app].timeout");
    let one = "[[routes]]\nname = \"robots\"\nbackend_set = \"app\"\n";
    let said = lb_with(&fleet, &["diff", "-f", "-", "--merge"], one).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(!said.out.contains("listeners["), "only what it names: {}", said.out);
    assert_eq!(revision(&fleet).await, 1);
}

#[tokio::test]
async fn an_empty_file_removes_nothing_unless_that_is_said() {
    let fleet = fleet().await;
    let before = ok(lb(&fleet, &["get"]).await);
    for nothing in ["", "# a comment\n"] {
        let said = lb_with(&fleet, &["apply", "--yes", "-f", "-"], nothing).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("--allow-empty"), "{}", said.err);
        assert_eq!(ok(lb(&fleet, &["get"]).await), before);
    }
    let said = lb_with(&fleet, &["apply", "--yes", "--allow-empty", "-f", "-"], "").await;
    assert!(ok(said).ends_with("done: revision 2\n"));
    let again = lb_with(&fleet, &["apply", "--yes", "-f", "-"], "").await;
    assert!(ok(again).contains("nothing to change"), "there is nothing left to lose");
}

#[tokio::test]
async fn an_apply_that_a_proxy_cannot_run_whole_says_so_with_a_code_of_its_own() {
    let fleet = Fleet::start(1, &app("", "", &[])).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let file = write(&fleet, &format!("[[listeners]]\nname = 'more'\naddress = '{address}'\n"));
    let file = file.to_str().expect("text");
    let said = lb(&fleet, &["apply", "--merge", "--yes", "--wait", "-f", file]).await;
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.out.ends_with("done: revision 2\n"), "{said:?}");
    let expected = "lb: revision 2: p1 does not run all of it: listeners[more]: ";
    assert!(said.err.starts_with(expected), "{said:?}");

    drop(taken);
    let said = lb(&fleet, &["rollback", "1", "--yes", "--wait=30s"]).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
}
