//! `lb drain`, with a request under way.

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app_with},
};

use super::lb::{Terminal, json, lb, ok, plain};

/// A backend that answers when it may, and a request that waits for that.
struct Busy {
    fleet: Fleet,
    gate: Gate,
    client: Client,
    _backend: Backend,
}

impl Busy {
    async fn start() -> Self {
        let gate = Gate::closed();
        let reply = gate.clone();
        let backend = Backend::start(move |_| Reply::ok("late").behind(&reply)).await;
        let backends = format!("{{ address = '{}', name = 'one' }}", backend.address());
        let fleet = Fleet::start(1, &app_with("", "", &backends)).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        client.send(&Request::get("/")).await;
        fleet.backend_is(backend.address(), "busy", |status| status.in_flight == 1).await;
        Self { fleet, gate, client, _backend: backend }
    }

    async fn state(&self) -> String {
        let listed = json(&self.fleet, &["backends", "app"]).await;
        listed["backends"][0]["state"].as_str().expect("it has one").into()
    }

    async fn is_draining(&self) {
        eventually("it drains", async || {
            let state = self.state().await;
            holds(state == "draining", || state.clone())
        })
        .await;
    }
}

#[tokio::test]
async fn in_a_pipe_each_step_is_a_line() {
    let mut busy = Busy::start().await;
    let (said, ()) = tokio::join!(lb(&busy.fleet, &["drain", "app/one"]), async {
        busy.is_draining().await;
        busy.gate.open();
    });
    let out = ok(said);
    assert!(!out.contains('\r') && !out.contains('\u{1b}'), "{out:?}");
    let lines: Vec<_> = out.lines().collect();
    let (last, steps) = lines.split_last().expect("there is something");
    assert_eq!(*last, "app/one is empty");
    // How far it is when it is first looked at, the machine decides.
    let is_step = |line: &&str| line.starts_with("app/one ") && line.contains(" in flight");
    assert!(!steps.is_empty() && steps.iter().all(is_step), "{out}");
    assert_eq!(busy.client.response().await.text(), "late", "the request was not harmed");
}

#[tokio::test]
async fn on_a_terminal_there_is_a_bar_that_fills() {
    let busy = Busy::start().await;
    let terminal = Terminal::start(&busy.fleet, 80, "lb drain app/one");
    terminal.shows("░░░░░░░░░░░░░░░░░░░░").await;
    busy.gate.open();
    let (code, text) = terminal.ended().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("████████████████████"), "{text}");
    assert!(plain(&text).ends_with("app/one is empty\r\n"), "{text:?}");
    for line in plain(&text).split(['\r', '\n']) {
        assert!(line.trim_end().chars().count() < 80, "{line:?}");
    }
}

#[tokio::test]
async fn ctrl_c_leaves_it_draining_and_says_so() {
    let busy = Busy::start().await;
    let mut terminal = Terminal::start(&busy.fleet, 80, "lb drain app/one");
    terminal.shows("1 in flight").await;
    busy.is_draining().await;
    terminal.types("\u{3}").await;
    let (code, text) = terminal.ended().await;
    assert_eq!(code, Some(130), "{text}");
    let said = "interrupted; app/one stays draining, lb undrain app/one ends that";
    assert!(text.contains(said), "{text}");
    assert_eq!(busy.state().await, "draining");
}

#[tokio::test]
async fn a_deadline_that_passes_has_an_exit_code() {
    let busy = Busy::start().await;
    let said = lb(&busy.fleet, &["drain", "app/one", "--deadline", "300ms"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let expected =
        "lb: app/one is not empty after 300ms: 1 request in flight still; it stays draining\n";
    assert_eq!(said.err, expected);
    assert_eq!(busy.state().await, "draining");

    let said = lb(&busy.fleet, &["drain", "app/one", "--deadline", "300ms", "--json"]).await;
    assert_eq!(said.code, Some(3));
    let steps: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let last = steps.last().expect("there are some");
    assert_eq!((&last["deadline_passed"], &last["in_flight"]), (&true.into(), &1.into()));
}

#[tokio::test]
async fn a_drain_that_somebody_ends_is_told() {
    let busy = Busy::start().await;
    let (said, ()) = tokio::join!(lb(&busy.fleet, &["drain", "app/one"]), async {
        busy.is_draining().await;
        ok(lb(&busy.fleet, &["undrain", "app/one"]).await);
    });
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("is not draining any more"), "{}", said.err);
    assert_eq!(busy.state().await, "active");
}

#[tokio::test]
async fn a_controller_that_goes_away_meanwhile_is_told() {
    let mut busy = Busy::start().await;
    let terminal = Terminal::start(&busy.fleet, 80, "lb drain app/one");
    terminal.shows("1 in flight").await;
    busy.fleet.controller.kill();
    let (code, text) = terminal.ended().await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("app/one is draining, but how far is not known any more"), "{text}");
}
