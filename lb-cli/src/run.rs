//! `lb run`: a load balancer in one process, from one file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use lb_common::{
    id::ProxyId,
    telemetry::{self, otlp::Destination},
};
use lb_control::config::DashboardFlags;
use lb_proto::v1;
use lb_proxy::config::{Config, TrafficFlags};
use tempfile::TempDir;

use crate::{
    check,
    flags::{self, ADMIN, GRPC, Management, PROXY_ADMIN},
    local::{EXIT_CODES, Local, OnHangup},
    ports,
    serving::{eventually, in_sync, listening},
};

/// Serve what a file says: a controller and a proxy in one process
///
/// The file is read again when it changes and on SIGHUP. If it is wrong then, the log says why and
/// everything goes on as it was.
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// A TOML file; see the README for what can be in it
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    management: Management,

    /// Where the proxy serves /metrics, /healthz, /readyz and /table [default: 127.0.0.1:7101, or a
    /// free port]
    #[arg(long, env = "LB_PROXY_ADMIN", value_name = "ADDR", value_parser = flags::address)]
    proxy_admin: Option<SocketAddr>,

    /// Keeps revisions and their history across restarts, and serves on with the last one when the file
    /// is wrong at a start; without it the file is all there is
    #[arg(long, env = "LB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    #[command(flatten)]
    dashboard: DashboardFlags,

    #[command(flatten)]
    traffic: TrafficFlags,
}

/// Where it is managed.
#[derive(Clone, Copy)]
struct Places {
    grpc: SocketAddr,
    admin: SocketAddr,
    proxy_admin: SocketAddr,
}

/// The controller's part of the data directory.
const CONTROL: &str = "control";
const SERVES_WITHIN: Duration = Duration::from_secs(20);

fn after_help() -> String {
    format!(
        "{EXIT_CODES}\n\n\
         Examples:\n  \
         lb run lb.toml\n  \
         lb run /etc/lb/lb.toml --data-dir /var/lib/lb --grpc 127.0.0.1:7000 --log-format json"
    )
}

/// # Errors
/// If it cannot start, or does not serve in time.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    // What is in a data directory already may be later than the file, and goes on if the file is wrong.
    let is_new = !args.data_dir.as_deref().is_some_and(|dir| dir.join(CONTROL).exists());
    let read = check::read(&args.file);
    if let Err(refused) = &read {
        // Without a prefix: each line of it begins with its place.
        eprintln!("{refused}");
        if is_new {
            return Ok(ExitCode::FAILURE);
        }
    }
    let traces = args.traffic.trace.otlp.clone().map(|endpoint| Destination {
        endpoint,
        service: "lb",
        instance: None,
    });
    let settings =
        telemetry::Settings { format: args.traffic.log_format, traces, ..Default::default() };
    let _telemetry = telemetry::init(settings)?;
    if let Ok(spec) = read
        && is_new
    {
        spec.listeners.iter().try_for_each(can_listen)?;
    }
    let scratch: TempDir;
    let data = match &args.data_dir {
        Some(dir) => dir.as_path(),
        None => {
            // Removed when this returns; by then nothing runs any more.
            scratch = tempfile::Builder::new().prefix("lb-run-").tempdir()?;
            scratch.path()
        }
    };
    let (local, places) = set_up(&args, data)?;
    let ended = local.run(announce(places))?;
    Ok(ended.report())
}

/// Sooner and clearer than what would come of it later.
fn can_listen(listener: &v1::Listener) -> anyhow::Result<()> {
    let v1::Listener { name, address, .. } = listener;
    ports::try_share(address.parse()?)
        .with_context(|| format!("listener {name} cannot listen on {address}"))
}

/// `data` is for the proxy; the controller keeps something only if it was given a directory.
fn set_up(args: &Args, data: &Path) -> anyhow::Result<(Local, Places)> {
    let Management { grpc, admin } = args.management;
    let listeners = lb_control::Listeners {
        grpc: ports::listen("--grpc", grpc, GRPC)?,
        admin: ports::listen("--admin", admin, ADMIN)?,
    };
    let proxy_admin = ports::listen("--proxy-admin", args.proxy_admin, PROXY_ADMIN)?;
    let places = Places {
        grpc: listeners.grpc.local_addr()?,
        admin: listeners.admin.local_addr()?,
        proxy_admin: proxy_admin.local_addr()?,
    };
    let settings = lb_control::Settings {
        data_dir: args.data_dir.as_ref().map(|dir| dir.join(CONTROL)),
        config: Some(args.file.clone()),
        trace_ratio: args.traffic.trace.ratio(),
        dashboard_hosts: args.dashboard.dashboard_host.clone(),
    };
    let proxy = Config {
        id: ProxyId::new("local")?,
        controllers: vec![format!("http://{}", reachable(places.grpc)).parse()?],
        admin: places.proxy_admin,
        data_dir: data.join("proxy"),
        zone: String::new(),
        listen: [].into(),
        traffic: args.traffic.clone(),
    };
    let proxies = vec![(proxy, proxy_admin)];
    Ok((Local { settings, listeners, proxies, on_hangup: OnHangup::Reload }, places))
}

/// What listens on all addresses is reached over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Says where it serves, once it does.
async fn announce(places: Places) -> anyhow::Result<()> {
    let Places { grpc, admin, proxy_admin } = places;
    eventually(SERVES_WITHIN, "the proxy has nothing to serve", async || {
        in_sync(reachable(admin), 1).await
    })
    .await?;
    // Not what the file says: with a data directory there may have been later changes.
    let listeners = listening(reachable(proxy_admin)).await?;
    let serving =
        if listeners.is_empty() { "nothing: no listeners".into() } else { listeners.join(", ") };
    crate::print(&format!(
        "lb: serving {serving}\n\
         lb: API grpc://{grpc}, controller http://{admin}/metrics, proxy http://{proxy_admin}/table\n"
    ));
    Ok(())
}
