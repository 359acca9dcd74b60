//! Every guide in `docs/` is true: its files are right, its commands run, its answers are real.
//!
//! A guide is read from top to bottom. A `toml NAME` block is written to that file, the lines of a
//! `sh` block start processes, and each `$` line of a `console` block is a command with its answer.
//! All guides but the first one continue where `first-fleet.md` ends.
//!
//! With `LB_DOCS=write`, answers are put into the guides instead; that needs the ports that the
//! guides name.

use std::{fs, path::PathBuf, process::Command};

use integration_tests::tools::tool;

#[path = "docs/answer.rs"]
mod answer;
#[path = "readme/markdown.rs"]
mod markdown;
#[path = "readme/ports.rs"]
mod ports;
#[path = "docs/world.rs"]
mod world;

use markdown::{Block, blocks};
use world::World;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
const FIRST: &str = "first-fleet.md";

/// Those with commands. Each has a test of its own, so that they run side by side.
const WALKED: [&str; 8] = [
    FIRST,
    "rolling-deploy.md",
    "draining.md",
    "canary.md",
    "rollback.md",
    "reading-the-metrics.md",
    "controller-down.md",
    "backup.md",
];

fn path(name: &str) -> PathBuf {
    PathBuf::from(DOCS).join(name)
}

fn guide(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

fn guides() -> Vec<String> {
    let entries = fs::read_dir(DOCS).expect("there are guides");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.sort();
    names
}

async fn walk(name: &str) {
    let write = std::env::var("LB_DOCS").is_ok_and(|how| how == "write");
    let mut world = World::new(write);
    if name != FIRST {
        for block in blocks(&guide(FIRST)).iter().filter(|block| block.language != "console") {
            prepare(&mut world, block).await;
        }
    }
    let mut text = guide(name);
    let mut written = Vec::new();
    for block in blocks(&text) {
        if block.language != "console" {
            prepare(&mut world, &block).await;
            continue;
        }
        let mut truth = String::new();
        for call in block.calls() {
            let seen = world.answer(&call.command, &call.answer, write).await;
            let answer = if call.answer.lines().any(|line| line == answer::ANYTHING) {
                call.answer
            } else {
                seen
            };
            truth += &format!("$ {}\n{answer}", call.command);
        }
        written.push((block.range, truth));
    }
    if write {
        for (range, truth) in written.into_iter().rev() {
            text.replace_range(range, &truth);
        }
        fs::write(path(name), text).expect("it can be written");
    }
}

async fn prepare(world: &mut World, block: &Block) {
    match block.language.split_once(' ') {
        Some(("toml", file)) => world.write(file, &block.text),
        None if block.language == "sh" => {
            for line in block.text.lines() {
                world.start(line).await;
            }
            world.is_well().await;
        }
        _ => {}
    }
}

macro_rules! walks {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                assert!(WALKED.contains(&$name));
                walk($name).await;
            }
        )*
    };
}

walks! {
    the_first_fleet_comes_up_as_written: "first-fleet.md",
    a_rolling_deploy_goes_as_written: "rolling-deploy.md",
    draining_goes_as_written: "draining.md",
    a_canary_goes_as_written: "canary.md",
    a_rollback_goes_as_written: "rollback.md",
    the_metrics_read_as_written: "reading-the-metrics.md",
    life_without_a_controller_goes_as_written: "controller-down.md",
    a_backup_and_its_restore_go_as_written: "backup.md",
}

#[test]
fn no_guide_has_commands_that_nothing_runs() {
    for name in guides() {
        let commands = blocks(&guide(&name))
            .into_iter()
            .filter(|block| matches!(block.language.as_str(), "console" | "sh"))
            .count();
        // integration-tests/tests/compose.rs does what that of the containers says, in its own way.
        let walked = WALKED.contains(&name.as_str()) || name == "containers.md";
        assert_eq!(commands > 0, walked, "docs/{name}");
    }
}

#[test]
fn every_file_in_the_guides_is_right() {
    let mut files = 0;
    for name in guides() {
        let text = guide(&name);
        let whole = blocks(&text).into_iter().filter(|block| {
            let file = block.language.strip_prefix("toml");
            file.is_some_and(|file| file.is_empty() || file == " lb.toml")
        });
        for block in whole {
            files += 1;
            if let Err(errors) = lb_proto::file::parse(&block.text) {
                panic!("docs/{name}: {errors}");
            }
        }
    }
    assert!(files >= 4, "one of the first fleet, and three of those who come from elsewhere");
}

#[test]
fn the_files_of_other_load_balancers_are_right_too() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, language, program, args) in [
        ("coming-from-nginx.md", "nginx", "nginx", &["-t", "-q", "-c"][..]),
        ("coming-from-haproxy.md", "haproxy", "haproxy", &["-c", "-q", "-f"][..]),
    ] {
        let found = markdown::blocks_of(&guide(name), language);
        assert!(!found.is_empty(), "docs/{name} shows one");
        for block in found {
            let file = dir.path().join(language);
            fs::write(&file, block.text).expect("it is our directory");
            let mut check = Command::new(tool(program));
            let done = check.args(args).arg(&file).output().expect("it runs");
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "docs/{name}: {said}");
        }
    }
}

#[test]
fn every_link_of_the_guides_leads_somewhere() {
    for name in guides() {
        let text = guide(&name);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let leads = target.starts_with("https://") || path(file).exists();
            assert!(leads, "docs/{name}: {target} leads nowhere");
        }
    }
    let readme = guide("../README.md");
    for name in guides() {
        let index = readme.contains(&format!("docs/{name}"));
        assert!(index, "README.md does not lead to docs/{name}");
    }
}
