//! `lb edit`, with scripts in the place of an editor.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use integration_tests::fleet::Fleet;

use super::{
    file::fleet,
    lb::{LB, Said, command, json, lb, ok, run},
};

/// Runs `lb edit` with a shell script as the editor; `$1` is the file, `$2` which time this is.
async fn edit(fleet: &Fleet, script: &str) -> Said {
    let (editor, times) = (fleet.dir().join("editor"), fleet.dir().join("times"));
    let count = format!("echo >> {0}; set -- \"$1\" $(wc -l < {0})", times.display());
    fs::write(&editor, format!("#!/bin/sh\nset -e\n{count}\n{script}\n")).expect("it is ours");
    let executable = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&editor, executable).expect("it is ours");
    let mut command = command(fleet.controller.grpc(), &["edit"]);
    command.env("EDITOR", &editor).env("TMPDIR", fleet.dir());
    run(&mut command, "").await
}

/// What was typed and not applied.
fn kept(fleet: &Fleet) -> Vec<PathBuf> {
    let files = fs::read_dir(fleet.dir()).expect("it is a directory").map(|file| {
        let file = file.expect("it is a directory");
        file.path()
    });
    files.filter(|path| path.to_string_lossy().contains("lb-edit-")).collect()
}

#[tokio::test]
async fn what_is_saved_is_applied() {
    let fleet = fleet().await;
    let said = edit(&fleet, "sed -i 's/weight = 9/weight = 8/' \"$1\"").await;
    let expected = "  ~ routes[app].forward[app].weight: 9 -> 8\ndone: revision 2\n";
    assert_eq!(ok(said), expected);
    assert_eq!(kept(&fleet), [] as [PathBuf; 0], "nothing stays behind");
}

#[tokio::test]
async fn leaving_it_alone_or_emptying_it_changes_nothing() {
    let fleet = fleet().await;
    for script in ["true", ": > \"$1\"", "sed -i '/^#:/d' \"$1\""] {
        assert_eq!(ok(edit(&fleet, script).await), "nothing was changed\n", "{script}");
    }
    let comment = ok(edit(&fleet, "echo '# mine' >> \"$1\"").await);
    assert_eq!(comment, "nothing to change: revision 1 has it all already\n");
    assert_eq!(kept(&fleet), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_mistake_opens_it_again_with_the_place_and_the_text() {
    let fleet = fleet().await;
    let script = r#"
        case $2 in
        1) sed -i 's/weight = 9/weight = 90000/' "$1" ;;
        2) cp "$1" seen-2; sed -i 's/backend_set = "app", weight = 90000/backend_set = "ap"/' "$1" ;;
        3) cp "$1" seen-3; sed -i 's/backend_set = "ap"/backend_set = "app"/' "$1" ;;
        esac"#
        .replace("seen-", &format!("{}/seen-", fleet.dir().display()));
    let said = ok(edit(&fleet, &script).await);
    assert_eq!(said, "  ~ routes[app].forward[app].weight: 9 -> 1\ndone: revision 2\n");
    for (seen, wrong, about) in [
        ("seen-2", "weight = 90000", "90000 is not valid; give 0 to 65535"),
        ("seen-3", "backend_set = \"ap\"", "no backend set is called \"ap\""),
    ] {
        let text = fs::read_to_string(fleet.dir().join(seen)).expect("it was opened again");
        let note = text.lines().find(|line| line.contains(about)).expect("it says what is wrong");
        let (_, place) = note.split_once("line ").expect("it says where");
        let line: usize = place.split(',').next().and_then(|n| n.parse().ok()).expect("a number");
        let line = text.lines().nth(line - 1).expect("there is such a line");
        let around = text.lines().skip_while(|l| *l != line).take(3).collect::<Vec<_>>().join("\n");
        assert!(around.contains(wrong), "{note} leads to {around}");
        assert_eq!(text.matches(about).count(), 1, "old notes are gone: {text}");
    }
}

#[tokio::test]
async fn giving_up_keeps_what_was_typed() {
    let fleet = fleet().await;
    let script = "if [ $2 = 1 ]; then sed -i 's/weight = 9/weight = 90000/' \"$1\"; fi";
    let said = edit(&fleet, script).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let [kept] = kept(&fleet).try_into().expect("one file");
    assert!(said.err.contains(&kept.display().to_string()), "{}", said.err);
    let text = fs::read_to_string(&kept).expect("it is there");
    assert!(text.contains("weight = 90000") && !text.contains("#:"), "{text}");
    let mode = fs::metadata(&kept).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else may read it");
}

#[tokio::test]
async fn somebody_elses_change_meanwhile_is_not_overwritten() {
    let fleet = fleet().await;
    // The editor itself changes the fleet, through another lb.
    let script = format!("{LB} weight app/one 3 >&2; sed -i 's/weight = 9/weight = 8/' \"$1\"");
    let said = edit(&fleet, &script).await;
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("somebody else changed the fleet"), "{}", said.err);
    let [kept] = kept(&fleet).try_into().expect("one file");
    assert!(fs::read_to_string(&kept).expect("it is there").contains("weight = 8"));
    let history = json(&fleet, &["history"]).await;
    assert_eq!(history["revisions"].as_array().map(Vec::len), Some(2), "only the weight");
    // What was kept is for `lb apply`.
    let applied = lb(&fleet, &["apply", "--dry-run", "-f", kept.to_str().expect("text")]).await;
    assert!(ok(applied).contains("~ routes[app].forward[app].weight: 9 -> 8"));
}

#[tokio::test]
async fn an_editor_that_fails_changes_nothing() {
    let fleet = fleet().await;
    let said = edit(&fleet, "exit 3").await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("exit status: 3") && said.err.contains("$EDITOR"), "{}", said.err);
    assert_eq!(kept(&fleet), [] as [PathBuf; 0], "nothing was typed");

    let said = edit(&fleet, "sed -i 's/weight = 9/weight = 8/' \"$1\"; exit 1").await;
    assert_eq!((said.code, kept(&fleet).len()), (Some(1), 1), "something was: {said:?}");
    let mut missing = command(fleet.controller.grpc(), &["edit"]);
    let said = run(missing.env("VISUAL", "/nowhere/editor").env("TMPDIR", fleet.dir()), "").await;
    assert!(said.err.contains("\"/nowhere/editor\""), "VISUAL comes first: {}", said.err);
}

#[tokio::test]
async fn what_is_not_utf_8_is_kept_as_it_was_saved() {
    let fleet = fleet().await;
    let said = edit(&fleet, "printf '# f\\374r\\n' >> \"$1\"").await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let [kept] = kept(&fleet).try_into().expect("one file");
    assert!(said.err.contains(&kept.display().to_string()), "{}", said.err);
    assert!(fs::read(&kept).expect("it is there").ends_with(b"# f\xfcr\n"));
}

#[tokio::test]
async fn removing_all_of_it_is_taken_for_a_mistake() {
    let fleet = fleet().await;
    let said = edit(&fleet, "echo '# nothing' > \"$1\"").await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let get = ok(lb(&fleet, &["get"]).await);
    assert!(get.contains("[[routes]]"), "{get}");
}

/// A person takes longer than the controller waits for its pings to be answered.
#[tokio::test]
async fn there_is_time_to_think() {
    let fleet = fleet().await;
    let longer_than_a_ping_may_take = "sleep 17";
    let script = format!("{longer_than_a_ping_may_take}; sed -i 's/weight = 9/weight = 8/' \"$1\"");
    assert!(ok(edit(&fleet, &script).await).ends_with("done: revision 2\n"));
}
