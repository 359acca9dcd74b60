//! Frames, as a terminal would show them.

use std::time::Duration;

use lb_proto::v1::{self, Health, Load, event::Event as Happened};
use prost_types::Timestamp;
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::{
    draw,
    figures::Poll,
    panes::Pane,
    state::{Event, Flow, State},
    theme::Theme,
};

/// 2023-11-14 22:13:20 UTC.
const NOW: Duration = Duration::from_secs(1_700_000_000);

fn before(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000 - seconds, nanos: 0 })
}

fn load(rps: f64, errors: f64, p50: u64, p99: u64, in_flight: u64) -> Option<Load> {
    let micros = |micros| prost_types::Duration::try_from(Duration::from_micros(micros)).ok();
    Some(Load {
        requests_per_second: rps,
        errors_per_second: errors,
        p50: micros(p50).filter(|_| rps > 0.0),
        p99: micros(p99).filter(|_| rps > 0.0),
        in_flight,
    })
}

fn proxy(id: &str, zone: &str, version: u64) -> v1::Proxy {
    v1::Proxy {
        id: id.into(),
        zone: zone.into(),
        address: "10.0.0.7:41234".into(),
        build: "0.1.0".into(),
        connected: true,
        connected_since: before(7_200),
        epoch: 3,
        version,
        in_sync: version == 41,
        load: load(2_345.6, 0.0, 850, 12_400, 17),
        connections: 64,
        ..v1::Proxy::default()
    }
}

fn backend(set: &str, name: &str, health: Health, why: &str) -> v1::BackendStatus {
    v1::BackendStatus {
        backend_set: set.into(),
        backend: name.into(),
        address: name.into(),
        weight: 1,
        state: "active".into(),
        health: health.into(),
        since: before(23),
        why: why.into(),
        load: load(781.0, 0.0, 700, 9_000, 4),
        in_flight: 4,
        ..v1::BackendStatus::default()
    }
}

/// A fleet in which most of what can be wrong is.
fn fleet() -> Poll {
    let mut refused = proxy("edge-b2", "b", 40);
    refused.rejection = "listeners[web].address: cannot listen on 0.0.0.0:80: in use".into();
    let gone = v1::Proxy {
        connected: false,
        disconnected_since: before(95),
        load: None,
        in_sync: false,
        ..proxy("edge-c1", "c", 39)
    };
    let mut ejected = backend("app", "10.1.0.3:3000", Health::Healthy, "200 OK");
    ejected.ejections =
        vec![v1::LocalEjection { proxy_id: "edge-a1".into(), reason: "5 x 5xx".into() }];
    ejected.load = load(12.0, 6.0, 4_000, 1_200_000, 1);
    let draining = v1::BackendStatus {
        state: "draining".into(),
        load: load(0.0, 0.0, 0, 0, 2),
        ..backend("app", "10.1.0.2:3000", Health::Healthy, "200 OK")
    };
    let ill = v1::BackendStatus {
        load: None,
        in_flight: 0,
        ..backend("app", "10.1.0.1:3000", Health::Unhealthy, "connection refused")
    };
    let none = backend("jobs", "10.2.0.1:4000", Health::Unhealthy, "no answer within 500ms");
    let set = |name: &str, backends, usable, load| v1::BackendSetStatus {
        name: name.into(),
        balance: "round_robin".into(),
        backends,
        usable,
        held: 0,
        load,
    };
    Poll {
        fleet: v1::ListProxiesResponse {
            proxies: vec![proxy("edge-a1", "a", 41), proxy("edge-b1", "b", 38), refused, gone],
            epoch: 3,
            version: 41,
            revision: 29,
            load: load(4_691.2, 47.1, 850, 12_400, 34),
            ..v1::ListProxiesResponse::default()
        },
        backends: v1::ListBackendsResponse {
            backends: vec![ejected, draining, ill, none],
            backend_sets: vec![
                set("app", 3, 1, load(793.0, 6.0, 900, 31_000, 7)),
                set("jobs", 1, 0, load(0.0, 0.0, 0, 0, 0)),
            ],
        },
        certificates: v1::ListCertificatesResponse::default(),
    }
}

fn events() -> Vec<v1::Event> {
    let event = |seconds, event| v1::Event { time: before(seconds), event: Some(event) };
    vec![
        event(
            95,
            Happened::Proxy(v1::ProxyChanged {
                proxy_id: "edge-c1".into(),
                what: "disconnected".into(),
                ..v1::ProxyChanged::default()
            }),
        ),
        event(
            23,
            Happened::Health(v1::HealthChanged {
                backend_set: "app".into(),
                backend: "10.1.0.1:3000".into(),
                health: Health::Unhealthy.into(),
                why: "connection refused".into(),
                held: String::new(),
            }),
        ),
    ]
}

fn revision() -> v1::Revision {
    v1::Revision {
        revision: 29,
        time: before(3_900),
        comment: "canary at 5%".into(),
        author: "ann".into(),
        changes: vec![v1::Change {
            kind: v1::change::Kind::Changed.into(),
            field: "routes[app].forward[canary].weight".into(),
            before: "1".into(),
            after: "5".into(),
        }],
    }
}

/// As after some polls of [`fleet`].
fn state() -> State {
    let mut state = State::new("http://10.0.0.5:7000".into());
    for rps in [0.0, 1_000.0, 2_500.0, 5_200.0] {
        let mut poll = fleet();
        poll.fleet.load = load(rps, 0.0, 850, 12_400, 0);
        state.update(Event::Polled(Box::new(poll)), NOW);
    }
    state.update(Event::Polled(Box::new(fleet())), NOW);
    state.update(Event::History(vec![revision()]), NOW);
    for event in events() {
        state.update(Event::Happened(event), NOW);
    }
    state
}

fn press(state: &mut State, keys: &str) -> Flow {
    let codes = keys.chars().map(|key| match key {
        '\t' => KeyCode::Tab,
        '\n' => KeyCode::Enter,
        '\u{1b}' => KeyCode::Esc,
        '↓' => KeyCode::Down,
        '↑' => KeyCode::Up,
        key => KeyCode::Char(key),
    });
    let press = |code| KeyEvent::new(code, KeyModifiers::NONE);
    codes
        .fold(Flow::Continue, |_, code| state.update(Event::Terminal(Input::Key(press(code))), NOW))
}

fn terminal(state: &State, size: (u16, u16), theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("it cannot fail");
    let draw = |frame: &mut ratatui::Frame<'_>| {
        draw::draw(state, NOW, theme, frame.area(), frame.buffer_mut());
    };
    terminal.draw(draw).expect("it cannot fail");
    terminal
}

fn frame(state: &State, width: u16, height: u16) -> String {
    draw::text(terminal(state, (width, height), Theme::PLAIN).backend().buffer())
}

#[track_caller]
fn check(actual: &str, expected: &str) {
    assert_eq!(actual, expected, "\n{actual}");
}

/// The first words of the rows of a pane, as they are shown.
fn rows(state: &State, pane: Pane) -> Vec<String> {
    let grid = state.grid(pane, NOW);
    grid.rows.iter().map(|row| row.cells[0].text.clone()).collect()
}

#[test]
fn a_small_terminal_shows_what_matters() {
    check(&frame(&state(), 80, 24), include_str!("frames/80x24.txt"));
}

#[test]
fn a_large_terminal_shows_all_of_it() {
    check(&frame(&state(), 120, 40), include_str!("frames/120x40.txt"));
}

/// With certificates that are well, due, expired, ordered and broken.
fn with_certificates() -> State {
    let certificate = |name: &str, days: i64, acme, problem: &str| v1::CertificateStatus {
        name: name.into(),
        names: vec![format!("{name}.example.com")],
        issuer: "CN=R11,O=Let's Encrypt".into(),
        not_before: before((90 - days) * 86_400),
        not_after: before(-days * 86_400),
        kind: "ecdsa".into(),
        problem: problem.into(),
        listeners: vec!["secure".into()],
        acme,
        ..v1::CertificateStatus::default()
    };
    let acme =
        |state: &str, next| Some(v1::AcmeStatus { state: state.into(), next, ..<_>::default() });
    let ordering = v1::CertificateStatus {
        not_before: None,
        not_after: None,
        ..certificate("new", 0, acme("ordering", None), "")
    };
    let mut poll = fleet();
    poll.fleet.proxies.truncate(1);
    poll.backends.backends.truncate(2);
    poll.backends.backend_sets.truncate(1);
    poll.certificates.certificates = vec![
        certificate("well", 60, acme("issued", before(-30 * 86_400)), ""),
        certificate("due", 9, None, "/etc/lb/due.key: is not the key of the certificate CN=due"),
        certificate("over", -2, acme("failed", before(-3_600)), "cannot be had from its CA: no"),
        ordering,
    ];
    let mut state = State::new("http://10.0.0.5:7000".into());
    state.update(Event::Polled(Box::new(poll)), NOW);
    state
}

#[test]
fn certificates_are_there_if_there_are_some_and_what_is_wrong_is_told() {
    check(&frame(&with_certificates(), 110, 36), include_str!("frames/certificates.txt"));
    let mut state = with_certificates();
    press(&mut state, "5↓↓");
    let frame = frame(&state, 110, 36);
    assert!(
        frame.contains("> certificate over: expired; for over.example.com; from CN=R11"),
        "{frame}"
    );
    assert!(!draw::plain(&self::state(), NOW, None).contains("CERTIFICATES"));
}

#[test]
fn as_plain_text_nothing_is_cut() {
    check(&draw::plain(&state(), NOW, None), include_str!("frames/plain.txt"));
}

#[test]
fn what_nobody_measured_is_a_dash() {
    let mut poll = fleet();
    poll.fleet.load = None;
    for proxy in &mut poll.fleet.proxies {
        proxy.load = None;
    }
    let mut state = State::new("http://10.0.0.5:7000".into());
    state.update(Event::Polled(Box::new(poll)), NOW);
    let frame = frame(&state, 80, 24);
    assert!(frame.contains(" - req/s  - errors  - p50  - p99  - in flight\n"), "{frame}");
    assert!(
        frame.contains(" edge-a1               41 yes            -     -     -       -     64\n")
    );
}

#[test]
fn before_the_first_answer_it_waits_and_says_for_what() {
    let mut state = State::new("http://10.0.0.5:7000".into());
    assert!(frame(&state, 80, 24).contains(" waiting for the controller\n"));
    state.update(Event::Away("connection refused".into()), NOW);
    let frame = frame(&state, 80, 24);
    assert!(frame.contains("CONTROLLER AWAY for 0s, since 22:13:20 UTC: connection refused\n"));
}

#[test]
fn while_the_controller_is_away_its_last_figures_stay() {
    let mut state = state();
    for seconds in [5, 3, 1] {
        let why = format!("connection refused {seconds}");
        state.update(Event::Away(why), NOW - Duration::from_secs(seconds));
    }
    let away = frame(&state, 80, 24);
    let notice = "CONTROLLER AWAY for 5s, since 22:13:15 UTC: these are its last figures; \n\
                  connection refused 1\n";
    assert!(away.replace("figures;\n", "figures; \n").contains(notice), "{away}");
    assert!(away.contains(" 4.7k req/s "), "{away}");
    assert!(away.contains("▁▃█▇···"), "the graph has a gap: {away}");
    state.update(Event::Connected("http://10.0.0.6:7000".into()), NOW);
    state.update(Event::Polled(Box::new(fleet())), NOW);
    let back = frame(&state, 80, 24);
    assert!(!back.contains("AWAY") && back.contains("http://10.0.0.6:7000"), "{back}");
}

#[test]
fn a_colour_never_says_what_no_word_says() {
    let coloured = terminal(&state(), (120, 40), Theme::new(true));
    let plain = terminal(&state(), (120, 40), Theme::new(false));
    let [coloured, plain] = [&coloured, &plain].map(|terminal| terminal.backend().buffer());
    assert_eq!(draw::text(coloured), draw::text(plain));
    let colours = |buffer: &Buffer| buffer.content.iter().filter(|c| c.fg != Color::Reset).count();
    assert!(colours(coloured) > 0);
    assert_eq!(colours(plain), 0);
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let mut state = state();
    state.update(Event::Away("it is gone".into()), NOW);
    let mut others = Vec::new();
    for keys in ["", "3↓", "z", "?"] {
        press(&mut state, keys);
        others.push(format!("{state:?}"));
        for width in [1, 2, 3, 10, 25, 60, 79, 80, 81, 100, 300] {
            for height in [1, 2, 3, 4, 6, 10, 15, 24, 60] {
                terminal(&state, (width, height), Theme::PLAIN);
            }
        }
    }
    others.dedup();
    assert_eq!(others.len(), 4, "the keys did something");
}

// === keys ===

#[test]
fn each_key_that_should_ends_it() {
    for keys in ["q", "\u{1b}"] {
        assert_eq!(press(&mut state(), keys), Flow::Quit, "{keys:?}");
    }
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for before in ["", "/", "?", "p"] {
        let mut state = state();
        press(&mut state, before);
        let flow = state.update(Event::Terminal(Input::Key(control_c)), NOW);
        assert_eq!(flow, Flow::Quit, "after {before:?}");
    }
}

#[test]
fn escape_leaves_what_was_begun_before_it_ends_all() {
    let mut state = state();
    assert_eq!(press(&mut state, "?\u{1b}"), Flow::Continue, "the help");
    assert_eq!(press(&mut state, "/q\u{1b}"), Flow::Continue, "what is written, q among it");
    assert_eq!(press(&mut state, "/app\n\u{1b}"), Flow::Continue, "the filter");
    assert_eq!(state.filter, "");
    assert_eq!(press(&mut state, "\u{1b}"), Flow::Quit);
}

#[test]
fn a_filter_keeps_the_rows_that_have_it_in_them() {
    let mut state = state();
    press(&mut state, "/UNHEALTHY");
    assert_eq!(rows(&state, Pane::Backends), ["app/10.1.0.1:3000", "jobs/10.2.0.1:4000"]);
    assert_eq!(rows(&state, Pane::Proxies).len(), 0);
    assert!(frame(&state, 80, 24).contains(" filter: UNHEALTHY"));
    press(&mut state, "\n");
    assert_eq!(press(&mut state, "s"), Flow::Continue, "keys are keys again");
    assert_eq!(state.filter, "UNHEALTHY");
}

#[test]
fn what_is_wrong_comes_first_and_other_orders_are_chosen() {
    let mut state = state();
    assert_eq!(rows(&state, Pane::Proxies), ["edge-c1", "edge-b2", "edge-b1", "edge-a1"]);
    press(&mut state, "r");
    assert_eq!(rows(&state, Pane::Proxies), ["edge-a1", "edge-b1", "edge-b2", "edge-c1"]);
    press(&mut state, "SSS");
    let by_name = ["edge-a1", "edge-b1", "edge-b2", "edge-c1"];
    assert_eq!(state.sort(Pane::Proxies), Some((0, false)));
    assert_eq!(rows(&state, Pane::Proxies), by_name);
    press(&mut state, "3ss");
    assert_eq!(state.sort(Pane::Backends), Some((4, false)), "by rate");
    assert_eq!(rows(&state, Pane::Backends)[0], "jobs/10.2.0.1:4000");
    assert_eq!(rows(&state, Pane::Proxies), by_name, "each pane has its own");
}

#[test]
fn a_selected_row_stays_selected_while_the_rows_move() {
    let mut state = state();
    press(&mut state, "\t\t↓↓");
    assert_eq!(state.focus, Pane::Backends);
    let selected = |state: &State| {
        let grid = state.grid(Pane::Backends, NOW);
        state.cursor(Pane::Backends, &grid).map(|at| (at, grid.rows[at].key.clone()))
    };
    assert_eq!(selected(&state), Some((1, "jobs/10.2.0.1:4000".into())));
    let frame = frame(&state, 80, 24);
    let detail = "> jobs/10.2.0.1:4000 is unhealthy for 23s: no answer within 500ms; active,\n\
                  weight 1, at 10.2.0.1:4000\n";
    assert!(frame.contains(detail), "{frame}");

    let mut poll = fleet();
    poll.backends.backends[2].health = Health::Healthy.into();
    state.update(Event::Polled(Box::new(poll.clone())), NOW);
    assert_eq!(selected(&state), Some((0, "jobs/10.2.0.1:4000".into())), "it moved up");
    poll.backends.backends.pop();
    state.update(Event::Polled(Box::new(poll)), NOW);
    assert_eq!(selected(&state), None, "it is gone");
    press(&mut state, "G");
    assert_eq!(selected(&state).map(|(at, _)| at), Some(2));
    press(&mut state, "↓");
    assert_eq!(selected(&state).map(|(at, _)| at), Some(2), "there are no more");
    press(&mut state, "↑g");
    assert_eq!(selected(&state).map(|(at, _)| at), Some(0));
}

#[test]
fn a_pause_holds_everything_still_and_loses_nothing() {
    let mut state = state();
    press(&mut state, "p");
    let held = frame(&state, 80, 24);
    assert!(held.contains(" PAUSED  22:13:20 UTC"), "{held}");
    let mut poll = fleet();
    poll.fleet.proxies.clear();
    state.update(Event::Polled(Box::new(poll)), NOW);
    state.update(Event::Happened(events().remove(0)), NOW);
    assert_eq!(frame(&state, 80, 24), held);
    press(&mut state, "p");
    assert_eq!(rows(&state, Pane::Proxies).len(), 0);
    assert_eq!(rows(&state, Pane::Events).len(), 4);
}

#[test]
fn a_pane_can_have_all_of_the_screen() {
    let mut state = state();
    press(&mut state, "4z");
    let zoomed = frame(&state, 80, 24);
    assert!(zoomed.contains("▸4 EVENTS 3") && !zoomed.contains("PROXIES"), "{zoomed}");
    press(&mut state, "\n");
    assert!(frame(&state, 80, 24).contains("1 PROXIES 4"));
}

#[test]
fn the_help_names_the_keys() {
    let mut state = state();
    press(&mut state, "?");
    let help = frame(&state, 80, 24);
    for part in ["any key goes back", "sort by the next column", "hold everything still"] {
        assert!(help.contains(part), "{part:?} in {help}");
    }
    assert_eq!(press(&mut state, "q"), Flow::Continue, "it only leaves the help");
    assert!(!frame(&state, 80, 24).contains("any key goes back"));
}
