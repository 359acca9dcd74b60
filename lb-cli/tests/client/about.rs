//! What all commands have in common, and what `lb` says about itself.

use std::{fs, process::Stdio};

use integration_tests::{fleet::Fleet, ports::Port, tools::tool};
use tokio::process::Command;

use super::lb::{LB, command, lb, ok, run};

/// As `--help` lists them.
async fn commands() -> Vec<String> {
    let help = ok(run(Command::new(LB).arg("--help"), "").await);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_command_has_help_with_examples_and_exit_codes() {
    let commands = commands().await;
    for expected in [
        "apply",
        "diff",
        "get",
        "edit",
        "proxies",
        "backends",
        "drain",
        "undrain",
        "weight",
        "history",
        "show",
        "rollback",
        "backup",
        "restore",
        "events",
        "explain",
        "top",
        "completions",
        "man",
    ] {
        assert!(commands.iter().any(|command| command == expected), "{expected} in {commands:?}");
    }
    for command in commands.iter().filter(|command| *command != "help") {
        let help = ok(run(Command::new(LB).args([command, "--help"]), "").await);
        let example = format!("Examples:\n  lb {command}");
        assert!(help.contains(&example), "lb {command} --help: {help}");
        assert!(help.contains("xit code"), "lb {command} --help: {help}");
    }
}

#[tokio::test]
async fn a_controller_that_is_not_there_is_told_with_what_to_check() {
    let nobody = Port::reserve();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let file = file.path().to_str().expect("it is text");
    let commands: [&[&str]; 14] = [
        &["apply", "-f", file],
        &["diff", "-f", file],
        &["get"],
        &["edit"],
        &["proxies"],
        &["backends"],
        &["drain", "a/b"],
        &["undrain", "a/b"],
        &["weight", "a/b", "1"],
        &["history"],
        &["backup"],
        &["show", "1"],
        &["events", "--follow"],
        &["explain", "GET", "/"],
    ];
    for args in commands {
        let said = run(&mut command(nobody.address(), args), "").await;
        assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
        let expected = format!(
            "lb: cannot reach a controller at http://{}: Connection refused (os error 111); is it \
             running, and is its --grpc address the one in --control (LB_CONTROL)?\n",
            nobody.address()
        );
        assert_eq!(said.err, expected, "{args:?}");
    }
}

#[tokio::test]
async fn of_several_controllers_one_that_answers_is_enough() {
    let (fleet, nobody) = (Fleet::empty().await, Port::reserve());
    let both = format!("{},http://{}", nobody.address(), fleet.controller.grpc());
    let said = run(Command::new(LB).args(["proxies", "--control", &both]), "").await;
    assert!(ok(said).starts_with("0 proxies"));
}

#[tokio::test]
async fn what_is_no_controller_is_told() {
    let fleet = Fleet::empty().await;
    let said = run(&mut command(fleet.controller.admin(), &["proxies"]), "").await;
    assert_eq!(said.code, Some(1));
    let url = format!("http://{}", fleet.controller.admin());
    assert!(said.err.contains(&url) && said.err.contains("--grpc"), "{}", said.err);
    assert!(!said.err.contains("Status {"), "for people: {}", said.err);
    for bad in ["https://127.0.0.1:7000", "127.0.0.1", "http://127.0.0.1:7000/x", ""] {
        let said = run(Command::new(LB).args(["proxies", "--control", bad]), "").await;
        assert_eq!(said.code, Some(2), "{bad:?}: {said:?}");
        assert!(said.err.contains("http://127.0.0.1:7000"), "{bad:?}: {}", said.err);
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let fleet = Fleet::empty().await;
    let backends: Vec<_> =
        (1..2_000).map(|i| format!("{{ address = '10.0.{}.{}:1' }}", i / 250, i % 250)).collect();
    fleet.apply(&integration_tests::fleet::app_with("", "", &backends.join(","))).await;
    for args in ["get", "backends", "backends --json", "history", "show 1"] {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("set -o pipefail; {LB} {args} | head -n 1")]);
        shell.env("LB_CONTROL", format!("http://{}", fleet.controller.grpc()));
        let said = run(&mut shell, "").await;
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args}");
        assert_eq!(said.out.lines().count(), 1, "{args}");
    }
}

/// Half a state that was saved would be taken for the whole one later.
#[tokio::test]
async fn a_disk_that_is_full_is_an_error() {
    let fleet = Fleet::empty().await;
    fleet.apply(&integration_tests::fleet::app("", "", &[])).await;
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut get = command(fleet.controller.grpc(), &["get"]);
    let get = get.stdout(Stdio::from(full)).stderr(Stdio::piped()).spawn().expect("it runs");
    let done = get.wait_with_output().await.expect("it runs");
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("cannot write to standard output"), "{said}");
}

/// With the shells themselves.
#[tokio::test]
async fn completions_are_what_shells_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let commands = commands().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = ok(run(Command::new(LB).args(["completions", shell]), "").await);
        for name in &commands {
            assert!(script.contains(name.as_str()), "{name} in the completions for {shell}");
        }
        let path = dir.path().join(shell);
        fs::write(&path, script).expect("it is our directory");
        let read = run(Command::new(tool(shell)).arg("-n").arg(&path), "").await;
        assert_eq!((read.code, read.err.as_str()), (Some(0), ""), "{shell}");
    }
    // What bash would offer for `lb hist`.
    let ask = format!(
        ". {}; COMP_WORDS=(lb hist) COMP_CWORD=1; _lb lb hist lb; echo \"${{COMPREPLY[@]}}\"",
        dir.path().join("bash").display()
    );
    assert_eq!(ok(run(Command::new("bash").args(["-c", &ask]), "").await), "history\n");
    let said = run(Command::new(LB).args(["completions", "csh"]), "").await;
    assert_eq!(said.code, Some(2));
}

/// With man itself.
#[tokio::test]
async fn there_is_a_manual_page_for_every_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");
    let said = run(Command::new(LB).arg("man").arg(&pages), "").await;
    ok(said);
    let commands = commands().await;
    let names = commands.iter().filter(|name| *name != "help").map(|name| format!("lb-{name}"));
    for name in names.chain(["lb".to_owned()]) {
        let mut man = Command::new(tool("man"));
        man.args(["-P", "cat", "--warnings", "-l"]).arg(pages.join(format!("{name}.1")));
        let shown = run(man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8"), "").await;
        assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""), "{name}");
        assert!(shown.out.contains(&name), "{name}: {}", shown.out);
        assert!(shown.out.contains("Examples:"), "{name}: {}", shown.out);
    }
    let page = ok(run(Command::new(LB).arg("man"), "").await);
    assert!(page.contains(".TH lb 1"), "{page}");
}

#[tokio::test]
async fn refusals_are_told_as_the_controller_words_them() {
    let fleet = Fleet::empty().await;
    let said = lb(&fleet, &["backends", "nope"]).await;
    assert_eq!(said.err, "lb: backend_set: no backend set is called \"nope\"; there are none\n");
    let said = lb(&fleet, &["rollback", "7", "-y"]).await;
    assert!(said.err.starts_with("lb: ") && !said.err.contains("status:"), "{}", said.err);
}
