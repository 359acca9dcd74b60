//! A configuration file as the source of the state.

mod common;

use std::{fs, path::Path};

use common::{Control, app, eventually};
use lb_control::Settings;
use lb_proto::v1;

fn set(name: &str) -> String {
    format!("[[backend_sets]]\nname = \"{name}\"\n")
}

fn start(directory: &Path) -> Control {
    Control::start(Settings {
        data_dir: Some(directory.join("data")),
        config: Some(directory.join("lb.toml")),
        ..Settings::default()
    })
}

async fn sets(control: &Control) -> (u64, Vec<String>) {
    let got = control.fleet().await.get(v1::GetRequest::default()).await.expect("is there");
    let v1::GetResponse { revision, spec, .. } = got.into_inner();
    let sets = spec.expect("has a spec").backend_sets.into_iter().map(|set| set.name);
    (revision, sets.collect())
}

async fn until(control: &Control, expected: (u64, &[&str])) {
    eventually("the state follows", async || {
        let (revision, names) = sets(control).await;
        (revision == expected.0 && names == expected.1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_state_follows_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lb.toml");
    fs::write(&file, set("one")).expect("writes");
    let control = start(directory.path());
    until(&control, (1, &["one"])).await;

    // Replaced by a rename, as editors do it.
    let next = directory.path().join("next.toml");
    fs::write(&next, set("two")).expect("writes");
    fs::rename(&next, &file).expect("renames");
    until(&control, (2, &["two"])).await;
    control.stop().await.expect("ends well");
}

#[tokio::test]
async fn a_file_that_was_applied_does_not_undo_later_changes_when_the_controller_restarts() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lb.toml");
    fs::write(&file, set("one")).expect("writes");
    let control = start(directory.path());
    until(&control, (1, &["one"])).await;
    control.fleet().await.apply(app(1)).await.expect("is valid");
    control.stop().await.expect("ends well");

    let control = start(directory.path());
    assert_eq!(sets(&control).await, (2, vec!["app".to_owned(), "one".to_owned()]));
    control.stop().await.expect("ends well");

    fs::write(&file, set("other")).expect("writes");
    let control = start(directory.path());
    until(&control, (3, &["other"])).await;
    control.stop().await.expect("ends well");
}

#[tokio::test]
async fn a_file_that_went_missing_and_comes_back_undoes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lb.toml");
    fs::write(&file, set("one")).expect("writes");
    let control = start(directory.path());
    until(&control, (1, &["one"])).await;
    control.fleet().await.apply(app(1)).await.expect("is valid");
    fs::remove_file(&file).expect("it is there");
    has_problem(&control, 1).await;
    fs::write(&file, set("one")).expect("writes");
    has_problem(&control, 0).await;
    assert_eq!(sets(&control).await, (2, vec!["app".to_owned(), "one".to_owned()]));
    control.stop().await.expect("ends well");
}

/// Waits until the file is in force, or is not.
async fn has_problem(control: &Control, is: u8) {
    let line = format!("lb_control_config_file_problem {is}");
    eventually("the file was looked at", async || {
        let page = control.page("/metrics").await;
        page.lines().any(|found| found == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_file_ends_a_first_start_and_not_a_later_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lb.toml");
    let wrong = "[[backend_sets]]\nname = \"app\"\nbalance = \"fair\"\n";
    fs::write(&file, wrong).expect("writes");
    let error = start(directory.path()).ended().await.expect_err("there is nothing else to run");
    let at = format!("{}:3:1: backend_sets[app].balance: \"fair\"", file.display());
    assert!(error.to_string().starts_with(&at), "{error}");

    fs::write(&file, set("one")).expect("writes");
    start_and_stop(directory.path()).await;
    fs::write(&file, wrong).expect("writes");
    let control = start(directory.path());
    assert_eq!(sets(&control).await, (1, vec!["one".to_owned()]));
    control.stop().await.expect("ends well");
}

async fn start_and_stop(directory: &Path) {
    let control = start(directory);
    until(&control, (1, &["one"])).await;
    control.stop().await.expect("ends well");
}
