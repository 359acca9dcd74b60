//! What is: proxies and backends, for people and for scripts.

use integration_tests::{
    backend::Backend,
    eventually::{eventually, holds},
    fleet::{Fleet, app, app_with},
    ports::Port,
};

use super::lb::{Terminal, command, json, lb, ok, plain, run};

async fn fleet(proxies: usize, backend: &Backend) -> Fleet {
    let set = "health_check = { tcp = true, interval = '100ms' }";
    Fleet::start(proxies, &app("", set, &[backend.address()])).await
}

#[tokio::test]
async fn proxies_are_shown_with_what_they_run() {
    let backend = Backend::named("one").await;
    let mut fleet = fleet(2, &backend).await;
    let shown = ok(lb(&fleet, &["proxies"]).await);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("PROXY") && lines[0].contains("VERSION"), "{shown}");
    for (line, id) in [(lines[1], "p1"), (lines[2], "p2")] {
        assert!(line.starts_with(id) && line.contains("in sync"), "{shown}");
    }
    assert!(shown.contains("2 proxies, 2 connected, 2 in sync with revision 1"), "{shown}");

    fleet.proxies[1].kill();
    eventually("p2 is shown as lost", async || {
        let shown = ok(lb(&fleet, &["proxies"]).await);
        let line = shown.lines().find(|line| line.starts_with("p2")).unwrap_or_default();
        holds(line.contains("lost") && line.contains("unknown"), || shown.clone())
    })
    .await;
    let listed = json(&fleet, &["proxies"]).await;
    assert_eq!(listed["proxies"][0]["in_sync"], true);
    assert_eq!(listed["proxies"][1]["connected"], false);
    assert_eq!(listed["revision"], 1);
}

#[tokio::test]
async fn backends_are_shown_with_why_they_are_not_well() {
    let (backend, nobody) = (Backend::named("one").await, Port::reserve());
    let set = "health_check = { tcp = true, interval = '50ms', unhealthy_after = 1 }";
    let spec = app("", set, &[backend.address(), nobody.address()]);
    let other =
        "[[backend_sets]]\nname = 'other'\nbackends = [{ address = '127.0.0.1:1', name = 'x' }]";
    let fleet = Fleet::start(1, &format!("{spec}\n{other}")).await;
    fleet.backend_is(nobody.address(), "unhealthy", |status| status.health == 2).await;
    fleet.backend_is(backend.address(), "healthy", |status| status.health == 1).await;

    let shown = ok(lb(&fleet, &["backends"]).await);
    let line = |part: &str| {
        let line = shown.lines().find(|line| line.contains(part));
        line.unwrap_or_else(|| panic!("nothing about {part}: {shown}"))
    };
    assert!(line(&backend.address().to_string()).contains(" healthy"), "{shown}");
    let sick = line(&nobody.address().to_string());
    assert!(sick.contains("unhealthy") && sick.contains("refused"), "{shown}");
    assert!(line("other ").contains("unknown"), "{shown}");

    let shown = ok(lb(&fleet, &["backends", "other"]).await);
    assert!(shown.contains('x') && !shown.contains("app"), "{shown}");
    let said = lb(&fleet, &["backends", "nope"]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("\"nope\"") && said.err.contains("app, other"), "{}", said.err);
    let listed = json(&fleet, &["backends", "app"]).await;
    assert_eq!(listed["backends"][0]["health"], "healthy");
    assert_eq!(listed["backends"][1]["health"], "unhealthy");
}

#[tokio::test]
async fn tables_fit_the_terminal_and_pipes_get_all() {
    let fleet = Fleet::empty().await;
    let name = "a-backend-with-quite-a-long-name-that-somebody-gave-it";
    let set = "health_check = { tcp = true, interval = '50ms', unhealthy_after = 1 }";
    let backends = format!("{{ address = '127.0.0.1:1', name = '{name}', state = 'draining' }}");
    fleet.apply(&app_with("", set, &backends)).await;
    fleet.backend_is(([127, 0, 0, 1], 1).into(), "unhealthy", |status| status.health == 2).await;
    let piped = ok(lb(&fleet, &["backends"]).await);
    assert!(piped.contains(name) && piped.contains("draining"), "{piped}");
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
    for columns in [80, 120] {
        for table in ["backends", "proxies", "history"] {
            let terminal = Terminal::start(&fleet, columns, &format!("lb {table}"));
            let (code, text) = terminal.ended().await;
            assert_eq!(code, Some(0), "{text}");
            for line in plain(&text).lines() {
                assert!(line.chars().count() <= columns.into(), "{columns}: {line:?}");
            }
        }
    }
}

#[tokio::test]
async fn colours_are_for_terminals_unless_somebody_says_otherwise() {
    let backend = Backend::named("one").await;
    let fleet = fleet(1, &backend).await;
    #[rustfmt::skip]
    let cases = [
        ("lb proxies",                              true),
        ("NO_COLOR=1 lb proxies",                   false),
        ("NO_COLOR= lb proxies",                    true),
        ("TERM=dumb lb proxies",                    false),
        ("lb proxies --color never",                false),
        ("LB_COLOR=never lb proxies",               false),
        ("NO_COLOR=1 lb proxies --color always",    true),
        ("lb proxies | cat",                        false),
        ("lb proxies --json",                       false),
    ];
    for (line, colours) in cases {
        let (code, text) = Terminal::start(&fleet, 80, line).ended().await;
        assert_eq!(code, Some(0), "{line}: {text}");
        assert_eq!(text.contains("\u{1b}["), colours, "{line}: {text:?}");
        assert!(text.contains("p1"), "{line}: {text}");
    }
    let said = lb(&fleet, &["proxies", "--color", "always"]).await;
    assert!(said.out.contains("\u{1b}["), "{said:?}");
}

#[tokio::test]
async fn an_empty_fleet_is_no_error() {
    let fleet = Fleet::empty().await;
    assert!(ok(lb(&fleet, &["proxies"]).await).starts_with("0 proxies, 0 connected"));
    assert_eq!(ok(lb(&fleet, &["backends"]).await), "no backends\n");
    assert_eq!(ok(lb(&fleet, &["get"]).await), "# revision 0\n");
    assert_eq!(ok(lb(&fleet, &["history"]).await), "no revisions\n");
    assert_eq!(ok(lb(&fleet, &["events"]).await), "");
}

#[tokio::test]
async fn the_environment_says_how_it_is_printed() {
    let fleet = Fleet::empty().await;
    let mut command = command(fleet.controller.grpc(), &["proxies"]);
    let said = run(command.env("LB_JSON", "1"), "").await;
    let listed: serde_json::Value = serde_json::from_str(&ok(said)).expect("it is JSON");
    assert_eq!(listed["proxies"], serde_json::json!([]));
}
