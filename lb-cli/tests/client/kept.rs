//! What is kept: a backup, and a store that is made of it.

use std::{fs, os::unix::fs::PermissionsExt};

use integration_tests::fleet::Fleet;
use tokio::process::Command;

use super::{
    file::fleet,
    lb::{LB, Said, json, lb, ok, run},
};

async fn restore(file: &str, data_dir: &str, more: &[&str]) -> Said {
    let args = [&["restore", file, "--data-dir", data_dir], more].concat();
    run(Command::new(LB).args(args), "").await
}

fn data_dir(fleet: &Fleet) -> String {
    fleet.dir().join("control-data").display().to_string()
}

#[tokio::test]
async fn a_backup_is_written_where_only_the_controller_reads_it() {
    let fleet = fleet().await;
    let answer = json(&fleet, &["backup"]).await;
    let path = answer["path"].as_str().expect("it says where");
    assert!(path.starts_with(&format!("{}/backups/lb-20", data_dir(&fleet))), "{path}");
    let metadata = fs::metadata(path).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(answer["bytes"], metadata.len());
    assert_eq!(answer["revision"], 1);
    let said = ok(lb(&fleet, &["backup"]).await);
    assert!(said.contains("-revision-1.backup\nrevision 1, "), "{said}");
}

#[tokio::test]
async fn a_restored_fleet_is_as_it_was_and_its_proxies_follow() {
    let mut fleet = fleet().await;
    fleet.add_proxy("p1", &[]);
    fleet.settled(1).await;
    let data = data_dir(&fleet);
    let weight = async |fleet: &Fleet| {
        json(fleet, &["backends", "app"]).await["backends"][0]["weight"].clone()
    };
    ok(lb(&fleet, &["weight", "app/one", "7"]).await);
    let backup = json(&fleet, &["backup"]).await;
    let path = backup["path"].as_str().expect("it says where").to_owned();
    ok(lb(&fleet, &["weight", "app/one", "9"]).await);
    let used = restore(&path, &data, &["--replace"]).await;
    assert_eq!(used.code, Some(1));
    assert!(used.err.contains("is in use by another process"), "{used:?}");

    fleet.controller.kill();
    let taken = restore(&path, &data, &[]).await;
    assert!(taken.code == Some(1) && taken.err.contains("--replace keeps it aside"), "{taken:?}");
    let half = fleet.dir().join("half.backup");
    let whole = fs::read(&path).expect("it is there");
    fs::write(&half, &whole[..whole.len() / 2]).expect("it is our directory");
    let cut = restore(&half.display().to_string(), &data, &["--replace"]).await;
    assert!(cut.code == Some(1) && cut.err.contains("it is cut off after record"), "{cut:?}");
    fleet.controller.start_again().await;
    assert_eq!(weight(&fleet).await, 9, "nothing was touched");
    fleet.controller.kill();

    let done = ok(restore(&path, &data, &["--replace"]).await);
    assert!(
        done.starts_with(&format!("{data} has revision 2\nwhat was there is {data}/")),
        "{done}"
    );
    fleet.controller.start_again().await;
    assert_eq!(weight(&fleet).await, 7);
    fleet.settled(2).await;
    let history = json(&fleet, &["history"]).await;
    assert_eq!(history["revisions"].as_array().expect("a list").len(), 2);
    ok(lb(&fleet, &["rollback", "1", "--yes"]).await);
}
