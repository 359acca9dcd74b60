//! `lb proxies`: every proxy, and whether it runs what it should.

use std::process::ExitCode;

use lb_proto::v1;

use crate::{
    client::{
        Remote, trouble,
        when::{self, load},
    },
    output::{self, Output, Paint, Screen},
    table::{Cell, Column, Table},
};

/// Show every proxy, what it runs and how busy it is
///
/// REQ/S and ERR/S are client requests a second and those of them that failed (5xx, or no answer);
/// P50 and P99 are the times to the response's head, of the last seconds.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  shown
  1  failed
  2  wrong usage

Examples:
  lb proxies
  lb proxies --control http://10.0.0.1:7000
  lb proxies --json | jq -r '.proxies[] | select(.in_sync | not) | .id'";

/// # Errors
/// If the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let controller = args.remote.connect().await?;
    let request = v1::ListProxiesRequest {};
    let listed = controller.call(async |mut api| api.list_proxies(request).await).await?;
    if args.output.json {
        output::json(&listed)?;
    } else {
        crate::print(&render(&listed, &args.output.colors.screen()));
    }
    Ok(ExitCode::SUCCESS)
}

fn render(listed: &v1::ListProxiesResponse, screen: &Screen) -> String {
    let v1::ListProxiesResponse { proxies, version, hash, revision, .. } = listed;
    let mut text = String::new();
    if !proxies.is_empty() {
        text = table(listed).render(screen);
        text.push('\n');
    }
    let connected = proxies.iter().filter(|proxy| proxy.connected);
    let in_sync = connected.clone().filter(|proxy| proxy.in_sync).count();
    let summary = format!(
        "{} {}, {} connected, {in_sync} in sync with revision {revision} (version {version}, hash \
         {hash})",
        proxies.len(),
        if proxies.len() == 1 { "proxy" } else { "proxies" },
        connected.count(),
    );
    text.push_str(&screen.wrap(&summary, 0, 2));
    text.push('\n');
    for proxy in proxies {
        let trouble = trouble::of(proxy);
        if trouble.is_empty() {
            continue;
        }
        let note = format!("{} {trouble}", proxy.id);
        text.push_str(&screen.paint(Paint::Bad, &screen.wrap(&note, 0, 2)));
        text.push('\n');
    }
    text
}

fn table(listed: &v1::ListProxiesResponse) -> Table {
    let mut table = Table::new(vec![
        Column::left("PROXY").cut_to(12),
        Column::left("ZONE").dropped(3),
        Column::left("CONNECTED"),
        Column::left("RUNS"),
        Column::right("VERSION"),
        Column::right("REQ/S"),
        Column::right("ERR/S"),
        Column::right("P50").dropped(5),
        Column::right("P99"),
        Column::right("IN FLIGHT").dropped(6),
        Column::right("CONNS").dropped(7),
        Column::left("ADDRESS").dropped(8),
        Column::left("BUILD").dropped(9),
    ]);
    for proxy in &listed.proxies {
        let [requests, errors, p50, p99] = load(proxy.load.as_ref());
        let in_flight = proxy.load.as_ref().map(|load| load.in_flight.to_string());
        let failing = proxy.load.as_ref().is_some_and(|load| load.errors_per_second > 0.0);
        table.row(vec![
            Cell::painted(&proxy.id, Paint::Bold),
            (&*proxy.zone).into(),
            connected(proxy),
            runs(proxy),
            version(proxy, listed.epoch),
            requests.into(),
            if failing { Cell::painted(errors, Paint::Bad) } else { errors.into() },
            p50.into(),
            p99.into(),
            in_flight.unwrap_or_default().into(),
            if proxy.connected { proxy.connections.to_string() } else { String::new() }.into(),
            (&*proxy.address).into(),
            (&*proxy.build).into(),
        ]);
    }
    table
}

/// An epoch is a long number and nearly always that of the controller.
fn version(proxy: &v1::Proxy, epoch: u64) -> Cell {
    match (proxy.epoch, proxy.version) {
        (0, 0) => Cell::painted("none", Paint::Warn),
        (of, version) if of == epoch => version.to_string().into(),
        (_, version) => Cell::painted(format!("{version} of an earlier epoch"), Paint::Warn),
    }
}

fn connected(proxy: &v1::Proxy) -> Cell {
    if proxy.connected {
        Cell::painted(when::since(proxy.connected_since.as_ref()), Paint::Good)
    } else {
        let gone = when::ago(proxy.disconnected_since.as_ref());
        Cell::painted(format!("lost {gone}"), Paint::Bad)
    }
}

fn runs(proxy: &v1::Proxy) -> Cell {
    match (proxy.connected, proxy.in_sync) {
        (false, _) => Cell::painted("unknown", Paint::Warn),
        _ if !proxy.rejection.is_empty() => Cell::painted("refused", Paint::Bad),
        _ if !proxy.problems.is_empty() => Cell::painted("partly", Paint::Bad),
        (_, true) => Cell::painted("in sync", Paint::Good),
        (_, false) => Cell::painted("behind", Paint::Warn),
    }
}
