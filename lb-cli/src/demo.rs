//! `lb demo`: three backends, a controller and two proxies, and what to try with them.

use std::{fs, net::SocketAddr, num::NonZeroUsize, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use lb_common::{
    id::{ListenerName, ProxyId},
    telemetry,
};
use lb_proxy::config::{Config, TrafficFlags};

use crate::{
    backend,
    flags::{self, ADMIN, GRPC, Management, PROXY_ADMIN},
    local::{EXIT_CODES, Local, OnHangup},
    ports::{self, Reserved},
    serving::{answers_200, eventually, in_sync, listening},
};

mod certificate;
mod guide;

/// See it work: three backends, a controller and two proxies in one process
///
/// Prints commands to try as soon as all of it serves, and goes on until Ctrl-C. All addresses are
/// of this host only, and nothing stays behind.
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// Speak HTTPS, with a certificate that is made for the demo
    #[arg(long, env = "LB_TLS")]
    tls: bool,

    /// Where proxy 1 accepts, and after a comma where proxy 2 does [default:
    /// 127.0.0.1:8080,127.0.0.1:8081, with --tls :8443,:8444, or free ports]
    #[arg(
        long,
        env = "LB_HTTP",
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        value_parser = flags::address
    )]
    http: Vec<SocketAddr>,

    #[command(flatten)]
    management: Management,

    /// Where proxy 1 serves /metrics, /readyz and /table, and after a comma where proxy 2 does
    /// [default: 127.0.0.1:7101,127.0.0.1:7102, or free ports]
    #[arg(
        long,
        env = "LB_PROXY_ADMIN",
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        value_parser = flags::address
    )]
    proxy_admin: Vec<SocketAddr>,
}

/// Where everything is.
struct Places {
    backends: Vec<SocketAddr>,
    grpc: SocketAddr,
    admin: SocketAddr,
    proxies: Vec<Proxy>,
    /// With TLS.
    certificate: Option<certificate::Files>,
}

struct Proxy {
    id: ProxyId,
    http: SocketAddr,
    admin: SocketAddr,
}

const BACKENDS: usize = 3;
const PROXIES: usize = 2;
const HTTP: SocketAddr = flags::loopback(8080);
const HTTPS: SocketAddr = flags::loopback(8443);
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Ctrl-C should not take longer than a demo's user waits.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

fn after_help() -> String {
    format!(
        "LB_LOG filters what is logged to standard error (warn, lb_proxy=debug,info).\n\n\
         {EXIT_CODES}\n\n\
         Examples:\n  \
         lb demo\n  \
         lb demo --tls\n  \
         lb demo --http 127.0.0.1:9000,127.0.0.1:9001 --grpc 127.0.0.1:0"
    )
}

/// # Errors
/// If it cannot start, or does not serve in time.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let settings = telemetry::Settings { default_filter: "warn", ..Default::default() };
    let _telemetry = telemetry::init(settings)?;

    // Removed when this returns; by then nothing runs any more.
    let data = tempfile::Builder::new().prefix("lb-demo-").tempdir()?;
    let (local, places, _reserved) = set_up(&args, data.path())?;
    let ended = local.run(async {
        places.serve().await?;
        crate::print(&guide::text(&places, &data.path().join(FILE)));
        Ok(())
    })?;
    Ok(ended.report())
}

const FILE: &str = "lb.toml";

fn set_up(args: &Args, data: &Path) -> anyhow::Result<(Local, Places, Vec<Reserved>)> {
    anyhow::ensure!(args.http.len() <= PROXIES, "--http takes at most {PROXIES} addresses");
    anyhow::ensure!(
        args.proxy_admin.len() <= PROXIES,
        "--proxy-admin takes at most {PROXIES} addresses"
    );
    let Management { grpc, admin } = args.management;
    let listeners = lb_control::Listeners {
        grpc: ports::listen("--grpc", grpc, GRPC)?,
        admin: ports::listen("--admin", admin, ADMIN)?,
    };
    let grpc = listeners.grpc.local_addr()?;
    let backends = backend::start(BACKENDS).context("cannot start the backends")?;

    let mut reserved: Vec<Reserved> = Vec::new();
    let certificate = args.tls.then(|| certificate::make(data)).transpose()?;
    let admin = listeners.admin.local_addr()?;
    let usual = if args.tls { HTTPS } else { HTTP };
    let mut places = Places { backends, grpc, admin, proxies: vec![], certificate };
    let mut proxies = Vec::new();
    for i in 0..PROXIES {
        let http = ports::reserve("--http", args.http.get(i).copied(), nth(usual, i))?;
        let admin =
            ports::listen("--proxy-admin", args.proxy_admin.get(i).copied(), nth(PROXY_ADMIN, i))?;
        let id = ProxyId::new(&format!("p{}", i + 1))?;
        let place = Proxy { id, http: http.address, admin: admin.local_addr()? };
        proxies.push((place.config(grpc, data)?, admin));
        places.proxies.push(place);
        reserved.push(http);
    }
    let file = data.join(FILE);
    fs::write(&file, places.spec()).with_context(|| format!("cannot write {}", file.display()))?;
    let settings = lb_control::Settings { config: Some(file), ..Default::default() };
    let local = Local { settings, listeners, proxies, on_hangup: OnHangup::Drain };
    Ok((local, places, reserved))
}

/// The usual address of proxy `i`, from 0.
fn nth(first: SocketAddr, i: usize) -> SocketAddr {
    let port = u16::try_from(i).ok().and_then(|i| first.port().checked_add(i));
    SocketAddr::new(first.ip(), port.unwrap_or(0))
}

// === impl Proxy ===

impl Proxy {
    fn config(&self, grpc: SocketAddr, data: &Path) -> anyhow::Result<Config> {
        Ok(Config {
            id: self.id.clone(),
            controllers: vec![format!("http://{grpc}").parse()?],
            admin: self.admin,
            data_dir: data.join(self.id.as_str()),
            zone: String::new(),
            listen: [(ListenerName::new(LISTENER)?, self.http)].into(),
            traffic: TrafficFlags {
                workers: Some(NonZeroUsize::MIN),
                drain_timeout: DRAIN_TIMEOUT,
                ..TrafficFlags::default()
            },
        })
    }
}

const LISTENER: &str = "web";

// === impl Places ===

impl Places {
    /// Waits until all of it does.
    async fn serve(&self) -> anyhow::Result<()> {
        let ready = async || in_sync(self.admin, self.proxies.len()).await;
        eventually(READY_WITHIN, "the fleet is not ready", ready).await?;
        for Proxy { id, http, admin } in &self.proxies {
            let serves = async || match &self.certificate {
                None => answers_200(*http, "/").await,
                Some(_) => listening(*admin).await.map(drop),
            };
            eventually(READY_WITHIN, &format!("proxy {id} does not serve"), serves).await?;
        }
        Ok(())
    }

    /// The file that the fleet runs.
    fn spec(&self) -> String {
        let http = self.proxies.first().map_or(HTTP, |proxy| proxy.http);
        let backends: String = self
            .backends
            .iter()
            .map(|address| format!("  {{ address = \"{address}\" }},\n"))
            .collect();
        let (certificate, tls) = match &self.certificate {
            None => (String::new(), ""),
            Some(certificate::Files { cert, key, .. }) => (
                format!("[[certificates]]\nname = \"site\"\ncert = {cert:?}\nkey = {key:?}\n\n"),
                "tls = { certificates = [\"site\"] }\n",
            ),
        };
        format!(
            "{certificate}[[listeners]]\n\
             name = \"{LISTENER}\"\n\
             address = \"{http}\" # of proxy p1; p2 has an address of its own\n\
             {tls}\
             \n\
             [[routes]]\n\
             name = \"demo\"\n\
             backend_set = \"demo\"\n\
             retry = {{ attempts = 3, on = [\"connect-failure\", \"reset\", \"timeout\"] }}\n\
             \n\
             [[backend_sets]]\n\
             name = \"demo\"\n\
             balance = \"round_robin\"\n\
             health_check = {{ http = \"/health\", interval = \"1s\", unhealthy_after = 2 }}\n\
             backends = [\n{backends}]\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_demo_is_right() {
        let places = Places {
            backends: vec![flags::loopback(3001), flags::loopback(3002), flags::loopback(3003)],
            grpc: GRPC,
            admin: ADMIN,
            proxies: vec![],
            certificate: None,
        };
        let spec = lb_proto::file::parse(&places.spec()).expect("it is valid");
        assert_eq!(spec.backend_sets[0].backends.len(), 3);
        assert_eq!(spec.listeners[0].name, LISTENER);
        assert_eq!(spec.listeners[0].tls, None);
    }
}
