//! `lb backends`: every backend, whether it is well, and why not.

use std::process::ExitCode;

use lb_proto::v1::{self, Health};

use crate::{
    client::{
        Remote, by_hand, held,
        when::{self, load},
    },
    output::{self, Output, Paint, Screen, count},
    table::{Cell, Column, Table},
};

/// Show every backend, its health and why, and how busy it is
///
/// REQ/S and ERR/S are attempts a second and those of them that failed; P50 and P99 are the times
/// to the response's head, of the last seconds and over all connected proxies.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Only those of this backend set
    #[arg(value_name = "SET", default_value = "", hide_default_value = true)]
    set: String,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  shown
  1  failed, or there is no such set
  2  wrong usage

Examples:
  lb backends
  lb backends app
  lb backends --json | jq -r '.backends[] | select(.health == \"unhealthy\") | .address'";

/// # Errors
/// If there is no such set, or the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let controller = args.remote.connect().await?;
    let request = v1::ListBackendsRequest { backend_set: args.set };
    let listed = controller.call(async |mut api| api.list_backends(request).await).await?;
    if args.output.json {
        output::json(&listed)?;
    } else {
        crate::print(&render(&listed, &args.output.colors.screen()));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(listed: &v1::ListBackendsResponse, screen: &Screen) -> String {
    let v1::ListBackendsResponse { backends, backend_sets } = listed;
    if backends.is_empty() && backend_sets.is_empty() {
        return "no backends\n".into();
    }
    let mut text = String::new();
    if !backends.is_empty() {
        text = table(backends).render(screen);
    }
    if !backend_sets.is_empty() {
        text.push('\n');
        for set in backend_sets {
            text.push_str(&summary(set, screen));
        }
    }
    for backend in backends {
        for v1::LocalEjection { proxy_id, reason } in &backend.ejections {
            let v1::BackendStatus { backend_set, backend, .. } = backend;
            let note = format!("{proxy_id} keeps {backend_set}/{backend} out: {reason}");
            text.push_str(&screen.paint(Paint::Warn, &screen.wrap(&note, 0, 2)));
            text.push('\n');
        }
    }
    text
}

fn table(backends: &[v1::BackendStatus]) -> Table {
    let mut table = Table::new(vec![
        Column::left("SET").cut_to(8),
        Column::left("BACKEND").cut_to(15),
        Column::left("ADDRESS").dropped(6),
        Column::right("WEIGHT"),
        Column::left("STATE").dropped(1),
        Column::left("HEALTH"),
        Column::left("FOR"),
        Column::right("REQ/S"),
        Column::right("ERR/S").dropped(2),
        Column::right("P50").dropped(5),
        Column::right("P99").dropped(3),
        Column::right("IN FLIGHT").dropped(4),
        Column::left("WHY").wrapped_at(16),
    ]);
    for status in backends {
        let v1::BackendStatus { backend_set, backend, address, weight, state, .. } = status;
        let [requests, errors, p50, p99] = load(status.load.as_ref());
        let failing = status.load.as_ref().is_some_and(|load| load.errors_per_second > 0.0);
        table.row(vec![
            (&**backend_set).into(),
            Cell::painted(backend, Paint::Bold),
            if address == backend { "".into() } else { (&**address).into() },
            weight.to_string().into(),
            // What is usual needs no column.
            if state == "active" { "".into() } else { Cell::painted(state, Paint::Warn) },
            health(status),
            when::since(status.since.as_ref()).into(),
            requests.into(),
            if failing { Cell::painted(errors, Paint::Bad) } else { errors.into() },
            p50.into(),
            p99.into(),
            status.in_flight.to_string().into(),
            notes(status).into(),
        ]);
    }
    table
}

/// What its checks found, and what somebody set.
fn notes(status: &v1::BackendStatus) -> String {
    let why = format!("{}{}", status.why, held::used_all_the_same(&status.held));
    match status.r#override.as_ref().map(by_hand::said) {
        Some(said) if why.is_empty() => said,
        Some(said) => format!("{why}; {said}"),
        None => why,
    }
}

/// With a state that keeps it out, where that is not shown otherwise.
fn health(status: &v1::BackendStatus) -> Cell {
    let (word, paint) = match status.health() {
        Health::Healthy => ("healthy", Paint::Good),
        Health::Unhealthy => ("unhealthy", Paint::Bad),
        Health::Unknown | Health::Unspecified => ("unknown", Paint::Dim),
    };
    match status.ejections.len() {
        0 if !status.held.is_empty() => Cell::painted(format!("{word}, held"), Paint::Warn),
        0 => Cell::painted(word, paint),
        _ => Cell::painted(format!("{word}, ejected"), Paint::Warn),
    }
}

/// `app: 2 of 3 backends used, 1 of them although its checks fail, round_robin`
fn summary(set: &v1::BackendSetStatus, screen: &Screen) -> String {
    let v1::BackendSetStatus { name, balance, backends, usable, held, .. } = set;
    let paint = match usable {
        0 => Paint::Bad,
        some if some < backends => Paint::Warn,
        _ => Paint::Good,
    };
    let of_all = screen.paint(paint, &format!("{usable} of {}", count(*backends, "backend")));
    let held = match *held {
        0 => return format!("{name}: {of_all} usable, {balance}\n"),
        held if held == *usable => "all of them although their checks fail".into(),
        1 => "1 of them although its checks fail".into(),
        held => format!("{held} of them although their checks fail"),
    };
    format!("{name}: {of_all} used, {}, {balance}\n", screen.paint(Paint::Bad, &held))
}
