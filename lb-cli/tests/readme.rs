//! What the README shows is true: its files are right, its commands work, its answers are real.

use std::{fs, path::Path};

use lb_common::spec::DesiredState;

#[path = "readme/answer.rs"]
mod answer;
#[path = "readme/fleet.rs"]
mod fleet;
#[path = "readme/markdown.rs"]
mod markdown;
#[path = "readme/ports.rs"]
mod ports;
#[path = "readme/reference.rs"]
mod reference;

use fleet::Fleet;
use markdown::blocks_of;
use reference::Messages;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

fn readme() -> String {
    fs::read_to_string(README).expect("there is a README")
}

fn state(toml: &str) -> DesiredState {
    let spec = lb_proto::file::parse(toml).unwrap_or_else(|errors| panic!("{errors}\n{toml}"));
    lb_proto::parse::desired_state(&spec).expect("it was just looked at")
}

/// From a heading to the next one of its level.
fn section<'a>(markdown: &'a str, heading: &str) -> &'a str {
    let start = markdown.find(&format!("\n{heading}\n")).expect("the heading is there") + 1;
    let level = heading.split(' ').next().expect("a heading has a level");
    let body = &markdown[start + heading.len()..];
    let end = body.find(&format!("\n{level} ")).unwrap_or(body.len());
    &body[..end]
}

#[test]
fn the_quickstart_is_two_commands() {
    let readme = readme();
    let quickstart = blocks_of(section(&readme, "## Quickstart"), "sh");
    let commands: Vec<_> = quickstart.iter().flat_map(|block| block.text.lines()).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "./test"]);
}

#[test]
fn every_file_in_it_is_right() {
    let files = blocks_of(&readme(), "toml");
    assert!(files.len() >= 2, "a first one and all of it");
    for file in files {
        state(&file.text);
    }
}

#[test]
fn it_shows_every_field_there_is() {
    let readme = readme();
    let all = blocks_of(section(&readme, "## Configuration"), "toml").remove(0).text;
    let messages = Messages::of_lb();
    let table = all.parse().expect("it is TOML");
    let (all, shown) = (messages.fields(".lb.v1.Spec"), messages.shown(".lb.v1.Spec", &table));
    let missing: Vec<_> = all.difference(&shown).collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
}

/// Those with comments that say otherwise are in other routes and sets.
#[test]
fn the_defaults_that_it_shows_are_the_defaults() {
    let readme = readme();
    let all = state(&blocks_of(section(&readme, "## Configuration"), "toml").remove(0).text);
    let least = state(
        r#"
        listeners = [{ name = "web", address = "0.0.0.0:8080" }]
        routes = [{ name = "app", backend_set = "app" }]
        [[backend_sets]]
        name = "app"
        health_check = {}
        backends = [{ address = "10.0.0.1:3000" }, { address = "[fd00::2]:3000", name = "two" }]
        [[backend_sets]]
        name = "sticky"
        balance = "consistent_hash"
        "#,
    );
    assert_eq!(all.listeners["web"], least.listeners["web"]);
    assert_eq!(all.routes["app"], least.routes["app"]);
    assert_eq!(all.backend_sets["app"], least.backend_sets["app"]);
    assert_eq!(all.backend_sets["sticky"].balance, least.backend_sets["sticky"].balance);
}

#[test]
fn every_link_leads_to_a_file_or_a_heading() {
    let readme = readme();
    let headings_of = |text: &str| -> Vec<String> {
        let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
        headings.map(|heading| heading.to_lowercase().replace(' ', "-")).collect()
    };
    let targets: Vec<_> =
        readme.split("](").skip(1).filter_map(|rest| rest.split_once(')')).collect();
    assert!(!targets.is_empty());
    for (target, _) in targets {
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let text = match file {
            "" => Some(readme.clone()),
            file => std::fs::read_to_string(Path::new(README).with_file_name(file)).ok(),
        };
        let has = |text: String| {
            heading.is_empty() || headings_of(&text).iter().any(|other| other == heading)
        };
        let leads = target.starts_with("https://") || text.is_some_and(has);
        assert!(leads, "{target} leads nowhere");
    }
}

/// With `LB_README=write` the answers are put into the README instead.
#[tokio::test]
async fn its_calls_have_its_answers() {
    let mut readme = readme();
    let toml = &blocks_of(section(&readme, "## One process"), "toml")[0].text;
    let commands = &blocks_of(section(&readme, "## A fleet of processes"), "sh")[0].text;
    let fleet = Fleet::start(toml, commands).await;

    let write = std::env::var("LB_README").is_ok_and(|how| how == "write");
    let mut written = Vec::new();
    for block in blocks_of(&readme, "console") {
        let [call] = &block.calls()[..] else { panic!("one call a block: {}", block.text) };
        let answer = fleet.answer(&call.command);
        if write {
            written.push((block.range, format!("$ {}\n{answer}", call.command)));
        } else if let Err(difference) = answer::same(&call.answer, &answer) {
            panic!(
                "$ {}\n{difference}\n--- in the README:\n{}--- in truth:\n{answer}",
                call.command, call.answer
            );
        }
    }
    for (range, text) in written.into_iter().rev() {
        readme.replace_range(range, &text);
    }
    if write {
        fs::write(README, readme).expect("it can be written");
    }
}
