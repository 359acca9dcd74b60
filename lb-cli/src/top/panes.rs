//! What is shown of proxies, backend sets, backends, events and certificates: each column is one line here.

use std::time::Duration;

use lb_proto::v1::{self, Health, Load};

use super::{
    figures::{Figures, News, ago},
    format::{self, ABSENT, count, rate},
    grid::{Cell, Column, Grid, LUXURY, Row},
    theme::Tone,
};
use crate::{
    certificates::shown_by,
    client::{
        expiry::Expiry,
        held::used_all_the_same,
        trouble,
        when::{self, since_epoch},
    },
    output,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Proxies,
    Sets,
    Backends,
    Events,
    /// Last, because there may be none: then it is not shown.
    Certificates,
}

/// What every cell may depend on.
struct Context<'a> {
    fleet: &'a v1::ListProxiesResponse,
    /// Since the Unix epoch.
    now: Duration,
}

/// One column, and what is in it.
struct Field<T: 'static> {
    column: Column,
    cell: fn(&T, &Context<'_>) -> Cell,
}

const fn field<T>(column: Column, cell: fn(&T, &Context<'_>) -> Cell) -> Field<T> {
    Field { column, cell }
}

static PROXIES: [Field<v1::Proxy>; 13] = [
    field(Column::text("PROXY", 14, 40), |proxy, _| Cell::text(&proxy.id)),
    field(Column::text("ZONE", 5, 16).drop(4), |proxy, _| Cell::text(&proxy.zone)),
    field(Column::number("VERSION", 8), |proxy, _| version(proxy)),
    field(Column::text("SYNC", 9, 12), sync),
    field(Column::number("REQ/S", 6), |proxy, _| requests(proxy.load.as_ref())),
    field(Column::number("ERR%", 5), |proxy, _| errors(proxy.load.as_ref())),
    field(Column::number("P50", 5).drop(3), |proxy, _| p50(proxy.load.as_ref())),
    field(Column::number("P99", 5), |proxy, _| p99(proxy.load.as_ref())),
    field(Column::number("FLIGHT", 7), |proxy, _| flight(proxy.load.as_ref())),
    field(Column::number("CONNS", 6).drop(2), |proxy, _| {
        if proxy.connected { number(proxy.connections) } else { absent() }
    }),
    field(Column::text("NOTE", 10, 120).optional().drop(1), |proxy, _| {
        Cell::text(trouble::note(proxy)).tone(Tone::Bad)
    }),
    field(Column::text("ADDRESS", 15, 40).drop(LUXURY + 1), |proxy, _| Cell::text(&proxy.address)),
    field(Column::text("BUILD", 6, 20).drop(LUXURY), |proxy, _| Cell::text(&proxy.build)),
];

static SETS: [Field<v1::BackendSetStatus>; 9] = [
    field(Column::text("SET", 14, 40), |set, _| Cell::text(&set.name)),
    field(Column::text("USABLE", 10, 20), usable),
    field(Column::text("BALANCE", 17, 20).drop(1), |set, _| Cell::text(&set.balance)),
    field(Column::number("REQ/S", 6), |set, _| requests(set.load.as_ref())),
    field(Column::number("ERR%", 5), |set, _| errors(set.load.as_ref())),
    field(Column::number("P50", 5).drop(2), |set, _| p50(set.load.as_ref())),
    field(Column::number("P99", 5), |set, _| p99(set.load.as_ref())),
    field(Column::number("FLIGHT", 7), |set, _| flight(set.load.as_ref())),
    field(Column::text("NOTE", 10, 60).optional().drop(3), |set, _| {
        let note = match (set.usable, set.held) {
            (0, _) if set.backends > 0 => "its requests get 503".into(),
            (_, 0) => String::new(),
            (_, held) => format!("{held} fail their checks and are used all the same"),
        };
        Cell::text(note).tone(Tone::Bad)
    }),
];

static BACKENDS: [Field<v1::BackendStatus>; 12] = [
    field(Column::text("BACKEND", 18, 48), |backend, _| Cell::text(name(backend))),
    field(Column::text("STATE", 8, 9).drop(1), state),
    field(Column::text("HEALTH", 9, 10), health),
    field(Column::number("WEIGHT", 7).drop(5), |backend, _| number(backend.weight)),
    field(Column::number("REQ/S", 6), |backend, _| requests(backend.load.as_ref())),
    field(Column::number("ERR%", 5), |backend, _| errors(backend.load.as_ref())),
    field(Column::number("P50", 5).drop(6), |backend, _| p50(backend.load.as_ref())),
    field(Column::number("P99", 5), |backend, _| p99(backend.load.as_ref())),
    field(Column::number("FLIGHT", 7), |backend, _| number(backend.in_flight)),
    field(Column::text("EJECTED BY", 10, 20).optional().drop(2), |backend, _| {
        Cell::text(ejected_by(backend)).tone(Tone::Warning)
    }),
    field(Column::text("WHY", 10, 120).optional().drop(3), |backend, cx| {
        let (text, tone) = why(backend, cx);
        Cell::text(text).tone(tone)
    }),
    field(Column::text("ADDRESS", 15, 40).optional().drop(LUXURY), |backend, _| {
        let named = backend.address != backend.backend;
        Cell::text(if named { backend.address.as_str() } else { "" })
    }),
];

static EVENTS: [Field<News>; 2] = [
    field(Column::text("EVENTS", 14, 20), |news, cx| {
        let age = when::short(cx.now.saturating_sub(news.time));
        Cell::text(format!("{} {age:>4}", format::time_of_day(news.time))).tone(Tone::Faint)
    }),
    field(Column::text("newest first", 20, 400), |news, _| Cell::text(&news.text).tone(news.tone)),
];

static CERTIFICATES: [Field<v1::CertificateStatus>; 7] = [
    field(Column::text("CERTIFICATE", 14, 40), |certificate, _| Cell::text(&certificate.name)),
    field(Column::text("EXPIRES", 9, 13), expires),
    field(Column::text("NAMES", 12, 60), |certificate, _| Cell::text(certificate.names.join(", "))),
    field(Column::text("KEY", 5, 8).drop(2), |certificate, _| Cell::text(&certificate.kind)),
    field(Column::text("ISSUER", 12, 40).drop(3), |certificate, _| Cell::text(&certificate.issuer)),
    field(Column::text("RENEWAL", 8, 10).optional().drop(1), renewal),
    field(Column::text("NOTE", 10, 120).optional(), |certificate, _| {
        Cell::text(&certificate.problem).tone(Tone::Warning)
    }),
];

/// By which column a pane is sorted unless somebody chooses: what is wrong comes first.
const SYNC: usize = 3;
const USABLE: usize = 1;
const HEALTH: usize = 2;
const EXPIRES: usize = 1;

// === impl Pane ===

impl Pane {
    pub const ALL: [Self; 5] =
        [Self::Proxies, Self::Sets, Self::Backends, Self::Events, Self::Certificates];

    pub fn title(self) -> &'static str {
        match self {
            Self::Proxies => "PROXIES",
            Self::Sets => "SETS",
            Self::Backends => "BACKENDS",
            Self::Events => "EVENTS",
            Self::Certificates => "CERTIFICATES",
        }
    }

    pub fn default_sort(self) -> Option<usize> {
        match self {
            Self::Proxies => Some(SYNC),
            Self::Sets => Some(USABLE),
            Self::Backends => Some(HEALTH),
            Self::Events => None,
            Self::Certificates => Some(EXPIRES),
        }
    }

    /// All of its rows, in the controller's order.
    pub fn grid(self, figures: &Figures, now: Duration) -> Grid {
        let nothing = Default::default();
        let poll = figures.poll.as_ref().unwrap_or(&nothing);
        let cx = Context { fleet: &poll.fleet, now };
        let backends = &poll.backends;
        let (columns, rows) = match self {
            Self::Proxies => {
                table(&PROXIES, &cx, &poll.fleet.proxies, |p| p.id.clone(), proxy_detail)
            }
            Self::Sets => table(&SETS, &cx, &backends.backend_sets, |s| s.name.clone(), set_detail),
            Self::Backends => table(&BACKENDS, &cx, &backends.backends, name, backend_detail),
            Self::Events => table(
                &EVENTS,
                &cx,
                &figures.news,
                |n| n.serial.to_string(),
                |n, _| n.detail.clone(),
            ),
            Self::Certificates => table(
                &CERTIFICATES,
                &cx,
                &poll.certificates.certificates,
                |certificate| certificate.name.clone(),
                certificate_detail,
            ),
        };
        Grid { title: self.title().into(), columns, rows }
    }
}

fn table<'a, T>(
    fields: &'static [Field<T>],
    cx: &Context<'_>,
    items: impl IntoIterator<Item = &'a T>,
    key: fn(&T) -> String,
    detail: fn(&T, &Context<'_>) -> String,
) -> (Vec<&'static Column>, Vec<Row>) {
    let row = |item: &'a T| Row {
        key: key(item),
        cells: fields.iter().map(|field| (field.cell)(item, cx)).collect(),
        detail: detail(item, cx),
    };
    (fields.iter().map(|field| &field.column).collect(), items.into_iter().map(row).collect())
}

/// What somebody has to know now, the worst first.
pub fn troubles(figures: &Figures, now: Duration) -> Vec<String> {
    let Some(poll) = &figures.poll else { return Vec::new() };
    let cx = Context { fleet: &poll.fleet, now };
    let mut troubles = Vec::new();
    for set in &poll.backends.backend_sets {
        if set.usable == 0 && set.backends > 0 {
            let all = set.backends;
            troubles.push(format!("set {}: no usable backend (0 of {all})", set.name));
        }
    }
    let proxies = &poll.fleet.proxies;
    for proxy in proxies.iter().filter(|proxy| proxy.connected) {
        let trouble = trouble::of(proxy);
        if !trouble.is_empty() {
            troubles.push(format!("proxy {} {trouble}", proxy.id));
        }
    }
    for proxy in proxies.iter().filter(|proxy| !proxy.connected) {
        let ago = for_how_long(proxy.disconnected_since.as_ref(), now);
        troubles.push(format!("proxy {} is not connected{ago}", proxy.id));
    }
    let (ill, others): (Vec<_>, Vec<_>) = poll
        .backends
        .backends
        .iter()
        .filter(|backend| backend.state == "active")
        .partition(|backend| backend.health() == Health::Unhealthy);
    for backend in ill {
        let (why, _) = why(backend, &cx);
        let held = used_all_the_same(&backend.held);
        troubles.push(format!("{} is unhealthy: {why}{held}", name(backend)));
    }
    for backend in others {
        for v1::LocalEjection { proxy_id, reason } in &backend.ejections {
            troubles.push(format!("{} is ejected by {proxy_id}: {reason}", name(backend)));
        }
    }
    for certificate in &poll.certificates.certificates {
        let v1::CertificateStatus { name, problem, .. } = certificate;
        let expiry = Expiry::of(certificate, now);
        match expiry {
            Expiry::Expired => troubles.push(format!("certificate {name} has expired")),
            Expiry::Soon(_) => {
                troubles.push(format!("certificate {name} expires {}", expiry.text()));
            }
            Expiry::Absent | Expiry::Later(_) => {}
        }
        if !problem.is_empty() {
            troubles.push(format!("certificate {name}: {problem}"));
        }
    }
    for v1::FileProblem { path, why } in &poll.certificates.files {
        troubles.push(format!("{path}: {why}"));
    }
    troubles
}

/// ` for 23s`, or nothing if nobody knows.
fn for_how_long(since: Option<&prost_types::Timestamp>, now: Duration) -> String {
    ago(since, now).map(|ago| format!(" for {ago}")).unwrap_or_default()
}

// === cells of load ===

fn absent() -> Cell {
    Cell::number(ABSENT, None).tone(Tone::Faint)
}

fn number(n: impl Into<u64>) -> Cell {
    let n = n.into();
    Cell::number(count(n), n as f64)
}

fn requests(load: Option<&Load>) -> Cell {
    let cell = |load: &Load| {
        let per_second = load.requests_per_second;
        Cell::number(rate(per_second), per_second)
    };
    load.map_or_else(absent, cell)
}

fn errors(load: Option<&Load>) -> Cell {
    let share = load.and_then(|load| {
        let Load { errors_per_second: some, requests_per_second: all, .. } = *load;
        format::percent(some, all).map(|text| (text, some / all))
    });
    share.map_or_else(absent, |(text, share)| {
        let tone = match share {
            s if s <= 0.0 => Tone::Plain,
            s if s < 0.01 => Tone::Warning,
            _ => Tone::Bad,
        };
        Cell::number(text, share).tone(tone)
    })
}

fn p50(load: Option<&Load>) -> Cell {
    latency(load.and_then(|load| load.p50.as_ref()))
}

fn p99(load: Option<&Load>) -> Cell {
    latency(load.and_then(|load| load.p99.as_ref()))
}

fn latency(took: Option<&prost_types::Duration>) -> Cell {
    let took = took.and_then(|took| Duration::try_from(*took).ok());
    took.map_or_else(absent, |took| Cell::number(format::latency(took), took.as_secs_f64()))
}

fn flight(load: Option<&Load>) -> Cell {
    load.map_or_else(absent, |load| number(load.in_flight))
}

// === of proxies ===

/// Without the epoch, which is long and, where it is not the fleet's, in the next column.
fn version(proxy: &v1::Proxy) -> Cell {
    match (proxy.epoch, proxy.version) {
        (0, 0) => Cell::number(ABSENT, None).tone(Tone::Faint),
        (_, version) => Cell::number(version.to_string(), version as f64),
    }
}

fn sync(proxy: &v1::Proxy, cx: &Context<'_>) -> Cell {
    let fleet = cx.fleet;
    let (text, rank, tone) = if !proxy.connected {
        let ago = ago(proxy.disconnected_since.as_ref(), cx.now);
        let text = ago.map_or_else(|| "away".into(), |ago| format!("away {ago}"));
        (text, 4.0, Tone::Bad)
    } else if !proxy.rejection.is_empty() {
        ("refused".into(), 3.0, Tone::Bad)
    } else if !proxy.problems.is_empty() {
        ("partly".into(), 2.5, Tone::Bad)
    } else if proxy.in_sync {
        ("yes".into(), 0.0, Tone::Good)
    } else if proxy.epoch == fleet.epoch && proxy.version < fleet.version {
        (format!("{} behind", fleet.version - proxy.version), 2.0, Tone::Warning)
    } else if proxy.epoch < fleet.epoch && proxy.epoch > 0 {
        ("old epoch".into(), 2.0, Tone::Warning)
    } else {
        ("no".into(), 1.0, Tone::Warning)
    };
    Cell::number(text, rank).tone(tone)
}

fn proxy_detail(proxy: &v1::Proxy, cx: &Context<'_>) -> String {
    let v1::Proxy { id, zone, address, build, .. } = proxy;
    let version = format!("version {} of epoch {}", proxy.version, proxy.epoch);
    let mut text = format!("proxy {id}");
    if !proxy.connected {
        let ago = for_how_long(proxy.disconnected_since.as_ref(), cx.now);
        text += &format!(" is not connected{ago}");
    } else if !trouble::of(proxy).is_empty() {
        text += &format!(" runs {version}; {}", trouble::of(proxy));
    } else {
        text += &format!(" runs {version}, in sync: {}", sync(proxy, cx).text);
    }
    if proxy.connected {
        let ago = for_how_long(proxy.connected_since.as_ref(), cx.now);
        text += &format!("; connected{ago}");
    }
    for (what, value) in [("from", address), ("zone", zone), ("build", build)] {
        if !value.is_empty() {
            text += &format!(", {what} {value}");
        }
    }
    text
}

// === of backend sets ===

fn usable(set: &v1::BackendSetStatus, _: &Context<'_>) -> Cell {
    let v1::BackendSetStatus { backends, usable, held, .. } = set;
    let lost = backends.saturating_sub(*usable);
    let (word, tone) = match (*usable, *held, lost) {
        (0, ..) => (" none", Tone::Bad),
        (_, 1.., _) => (" held", Tone::Bad),
        (_, _, 0) => (" all", Tone::Good),
        _ => ("", Tone::Warning),
    };
    // By the share that is lost: a set of two that lost one is worse off than one of ten.
    let share = if *backends == 0 { 1.0 } else { f64::from(lost) / f64::from(*backends) };
    Cell::number(format!("{usable}/{backends}{word}"), share).tone(tone)
}

fn set_detail(set: &v1::BackendSetStatus, _: &Context<'_>) -> String {
    let v1::BackendSetStatus { name, balance, backends, usable, .. } = set;
    let all = output::count(*backends, "backend");
    format!("set {name}: {usable} of {all} usable, balance {balance}")
}

// === of backends ===

fn name(backend: &v1::BackendStatus) -> String {
    format!("{}/{}", backend.backend_set, backend.backend)
}

fn state(backend: &v1::BackendStatus, _: &Context<'_>) -> Cell {
    let tone = if backend.state == "active" { Tone::Plain } else { Tone::Warning };
    Cell::text(&backend.state).tone(tone)
}

/// Ranked by what is wrong, worst first: as decided, then as a proxy found, where there is traffic
/// before where there is none.
fn health(backend: &v1::BackendStatus, _: &Context<'_>) -> Cell {
    let (word, ill, tone) = match backend.health() {
        Health::Unhealthy => ("unhealthy", 2, Tone::Bad),
        Health::Unknown | Health::Unspecified => ("unknown", 0, Tone::Plain),
        Health::Healthy => ("healthy", 0, Tone::Good),
    };
    let ejected = i32::from(!backend.ejections.is_empty());
    let active = if backend.state == "active" { 4 } else { 1 };
    Cell::number(word, f64::from(active * (ill + ejected))).tone(tone)
}

fn ejected_by(backend: &v1::BackendStatus) -> String {
    let proxies: Vec<_> = backend.ejections.iter().map(|e| e.proxy_id.as_str()).collect();
    proxies.join(", ")
}

fn why(backend: &v1::BackendStatus, cx: &Context<'_>) -> (String, Tone) {
    let why = &backend.why;
    match backend.health() {
        Health::Unhealthy => {
            (why.clone() + &for_how_long(backend.since.as_ref(), cx.now), Tone::Bad)
        }
        Health::Unknown | Health::Unspecified => (why.clone(), Tone::Faint),
        // Not ill yet, but on its way.
        Health::Healthy => match &backend.last_probe {
            Some(probe) if !probe.passed => {
                (format!("last probe: {}", probe.detail), Tone::Warning)
            }
            Some(_) | None => (String::new(), Tone::Plain),
        },
    }
}

fn backend_detail(backend: &v1::BackendStatus, cx: &Context<'_>) -> String {
    let word = health(backend, cx).text;
    let since = for_how_long(backend.since.as_ref(), cx.now);
    let mut text = format!("{} is {word}{since}", name(backend));
    if !backend.why.is_empty() {
        text += &format!(": {}", backend.why);
    }
    for v1::LocalEjection { proxy_id, reason } in &backend.ejections {
        text += &format!("; ejected by {proxy_id}: {reason}");
    }
    if let Some(probe) = &backend.last_probe {
        let ago = ago(probe.time.as_ref(), cx.now).unwrap_or_default();
        let took = latency(probe.took.as_ref()).text;
        let result = if probe.passed { "passed" } else { "failed" };
        text += &format!("; last probe {ago} ago {result} in {took}: {}", probe.detail);
    }
    let v1::BackendStatus { address, state, weight, .. } = backend;
    text += &format!("; {state}, weight {weight}, at {address}");
    text
}

// === of certificates ===

/// Ranked by what is left, the least first.
fn expires(certificate: &v1::CertificateStatus, cx: &Context<'_>) -> Cell {
    let expiry = Expiry::of(certificate, cx.now);
    let (left, tone) = match expiry {
        Expiry::Absent | Expiry::Expired => (Duration::ZERO, Tone::Bad),
        Expiry::Soon(left) => (left, Tone::Warning),
        Expiry::Later(left) => (left, Tone::Plain),
    };
    Cell::number(expiry.text(), -left.as_secs_f64()).tone(tone)
}

fn renewal(certificate: &v1::CertificateStatus, cx: &Context<'_>) -> Cell {
    let Some(v1::AcmeStatus { state, next, .. }) = &certificate.acme else { return Cell::text("") };
    match (&**state, next) {
        ("issued", Some(next)) => {
            Cell::text(format!("in {}", when::short(since_epoch(next).saturating_sub(cx.now))))
        }
        ("failed", _) => Cell::text(state).tone(Tone::Bad),
        (state, _) => Cell::text(state).tone(Tone::Warning),
    }
}

fn certificate_detail(certificate: &v1::CertificateStatus, cx: &Context<'_>) -> String {
    let v1::CertificateStatus { name, names, issuer, fingerprint, problem, .. } = certificate;
    let mut text = format!("certificate {name}: {}", Expiry::of(certificate, cx.now).text());
    for (what, value) in [
        ("for", names.join(", ")),
        ("from", issuer.clone()),
        ("shown by", shown_by(certificate).join(", ")),
        ("SHA-256", fingerprint.clone()),
    ] {
        if !value.is_empty() {
            text += &format!("; {what} {value}");
        }
    }
    if !problem.is_empty() {
        text += &format!("; {problem}");
    }
    text
}
