//! Command line and environment, parsed completely before anything is bound.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Parser, error::ErrorKind};
use http::Uri;
use lb_common::id::{ListenerName, ProxyId};

pub use traffic::TrafficFlags;

mod traffic;

/// What a proxy is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub id: ProxyId,
    /// At least one.
    pub controllers: Vec<Uri>,
    pub admin: SocketAddr,
    pub data_dir: PathBuf,
    pub zone: String,
    /// In place of the address in a listener's spec.
    pub listen: BTreeMap<ListenerName, SocketAddr>,
    pub traffic: TrafficFlags,
}

/// A proxy of the fleet: carries the traffic that a controller's configuration describes.
#[derive(Debug, Parser)]
#[command(
    name = "lb-proxy",
    version,
    after_help = "`--help` has more: exit codes and examples.",
    after_long_help = after_long_help("lb-proxy")
)]
pub struct Args {
    /// The proxy's name in the fleet, unique in it [default: the host name]
    #[arg(long, env = "LB_ID", value_name = "ID", value_parser = ProxyId::new)]
    id: Option<ProxyId>,

    /// Where the controller to follow is, or may be
    ///
    /// Several are the places of one controller that moves: two that run at once would each have a
    /// state of its own. The first one asked is drawn at random; when it fails, the next one is asked. While
    /// none answers, the proxy serves what it has, and after a restart what its data directory has.
    #[arg(
        long,
        env = "LB_CONTROL",
        value_name = "URL,..",
        value_delimiter = ',',
        required = true,
        value_parser = controller
    )]
    control: Vec<Uri>,

    /// Where /metrics, /healthz, /readyz and /table are served
    #[arg(
        long,
        env = "LB_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:7101",
        value_parser = address
    )]
    admin: SocketAddr,

    /// Where the last-known-good snapshot is kept [default: lb-data/ID]
    ///
    /// Created if missing. Each proxy needs one of its own.
    #[arg(long, env = "LB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where the proxy runs, any name; controllers show it
    #[arg(
        long,
        env = "LB_ZONE",
        value_name = "ZONE",
        default_value = "",
        hide_default_value = true
    )]
    zone: String,

    /// Another address for a listener, on this proxy only; may be repeated
    #[arg(
        long,
        env = "LB_LISTEN",
        value_name = "NAME=ADDR",
        value_delimiter = ',',
        value_parser = listen
    )]
    listen: Vec<(ListenerName, SocketAddr)>,

    #[command(flatten)]
    traffic: TrafficFlags,
}

/// What `--help` says at its end; `command` is how the proxy is started.
pub fn after_long_help(command: &str) -> String {
    format!(
        "\
Exit codes:
  0    drained: a signal came, and every request finished
  1    could not start
  2    wrong usage
  3    the drain timeout passed, and requests were cut
  130  a second SIGINT ended it at once
  143  a second SIGTERM ended it at once

Examples:
  {command} --control http://127.0.0.1:7000
  {command} --id p2 --control http://10.0.0.1:7000,http://10.0.0.2:7000 \\
    --admin 127.0.0.1:7102 --data-dir /var/lib/lb/p2 --zone a --listen web=0.0.0.0:8081"
    )
}

// === impl Args ===

impl Args {
    /// Fills in what depends on the host.
    ///
    /// # Errors
    /// Of usage, like those of the parser: print it and exit with its code.
    pub fn config(self) -> Result<Config, clap::Error> {
        let invalid = |message| {
            // Without the usage, which depends on the command that these flags are of.
            let message = format!("{message}\n\nFor more information, try '--help'.\n");
            clap::Error::raw(ErrorKind::ValueValidation, message)
        };
        let id = match self.id {
            Some(id) => id,
            None => host_id().map_err(invalid)?,
        };
        let mut listen = BTreeMap::new();
        for (name, address) in self.listen {
            if let Some(other) = listen.insert(name.clone(), address) {
                let message = format!(
                    "--listen gives {name} two addresses, {other} and {address}; give it one"
                );
                return Err(invalid(message));
            }
        }
        let data_dir =
            self.data_dir.unwrap_or_else(|| Path::new("lb-data").join(directory_name(&id)));
        Ok(Config {
            id,
            controllers: self.control,
            admin: self.admin,
            data_dir,
            zone: self.zone,
            listen,
            traffic: self.traffic,
        })
    }
}

fn host_id() -> Result<ProxyId, String> {
    let file = "/proc/sys/kernel/hostname";
    let name = fs::read_to_string(file)
        .map_err(|error| format!("no --id, and no host name in {file}: {error}; give an --id"))?;
    ProxyId::new(name.trim())
        .map_err(|error| format!("no --id, and the host name is none: it {error}; give an --id"))
}

/// An id may have slashes in it, or be `..`; a directory that is made up from it may not.
fn directory_name(id: &ProxyId) -> String {
    let name = id.as_str().replace('/', "_");
    if name.starts_with('.') { format!("_{name}") } else { name }
}

fn controller(text: &str) -> Result<Uri, String> {
    let invalid = || "give a URL like http://127.0.0.1:7000".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| invalid())?;
    match (uri.scheme_str(), uri.host(), uri.path(), uri.query()) {
        (Some("http"), Some(host), "/", None) if !host.is_empty() => Ok(uri),
        (Some("https"), ..) => {
            Err("https is not supported between proxy and controller; give an http:// URL".into())
        }
        _ => Err(invalid()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| "give an address and a port like 127.0.0.1:7101".to_owned())
}

fn listen(text: &str) -> Result<(ListenerName, SocketAddr), String> {
    let invalid = || "give a listener's name and an address like web=0.0.0.0:8080".to_owned();
    let (name, addr) = text.split_once('=').ok_or_else(invalid)?;
    let name =
        ListenerName::new(name.trim()).map_err(|error| format!("the listener's name {error}"))?;
    Ok((name, addr.trim().parse().map_err(|_| invalid())?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;
    use lb_common::telemetry::LogFormat;

    use super::*;
    use crate::access_log::{Destination as AccessLog, Mode};

    const CONTROL: &str = "--control=http://127.0.0.1:7000";

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("lb-proxy").chain(args.iter().copied());
        let config = Args::try_parse_from(args).and_then(Args::config);
        config.map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let help = Args::command().render_long_help().to_string();
        let flags = ["ID", "CONTROL", "ADMIN", "DATA_DIR", "ZONE", "WORKERS", "LISTEN"];
        let shared = ["DRAIN_TIMEOUT", "LOG_FORMAT", "ACCESS_LOG", "ACCESS_LOG_TO"];
        for flag in flags.iter().chain(&shared) {
            assert!(help.contains(&format!("[env: LB_{flag}=")), "{flag} in {help}");
        }
        assert!(help.contains("[env: LB_EXPLAIN_TOKEN]"), "its value is a secret: {help}");
    }

    #[test]
    fn only_controllers_have_to_be_given() {
        let config = parse(&[CONTROL, "--id=p1"]).expect("it is enough");
        let expected = Config {
            id: ProxyId::new("p1").expect("a valid name"),
            controllers: vec![Uri::from_static("http://127.0.0.1:7000")],
            admin: "127.0.0.1:7101".parse().expect("an address"),
            data_dir: "lb-data/p1".into(),
            zone: String::new(),
            listen: BTreeMap::new(),
            traffic: TrafficFlags::default(),
        };
        assert_eq!(config, expected);
        assert!(parse(&[]).expect_err("no controller").contains("--control <URL,..>"));
    }

    #[test]
    fn everything_can_be_given() {
        let config = parse(&[
            "--id=p/../2",
            "--control=http://a:1,http://[::1]:2",
            "--control=http://c",
            "--admin=[::]:9",
            "--zone=z",
            "--workers=3",
            "--listen=web=0.0.0.0:80,dns=[::1]:53",
            "--listen=x=127.0.0.1:0",
            "--drain-timeout=1.5s",
            "--log-format=json",
            "--access-log=0.5",
            "--access-log-to=/var/log/lb/access.json",
            "--explain-token=s3cret",
        ])
        .expect("it is all valid");
        let listen: Vec<String> = config.listen.iter().map(|(n, a)| format!("{n}={a}")).collect();
        assert_eq!(listen, ["dns=[::1]:53", "web=0.0.0.0:80", "x=127.0.0.1:0"]);
        assert_eq!(config.controllers.len(), 3);
        assert_eq!(config.data_dir, Path::new("lb-data/p_.._2"), "it stays in lb-data");
        assert_eq!(config.traffic.workers().get(), 3);
        assert_eq!(config.traffic.drain_timeout, Duration::from_millis(1500));
        assert_eq!(config.traffic.log_format, LogFormat::Json);
        assert!(matches!(config.traffic.access_log, Mode::Sampled(_)));
        assert_eq!(config.traffic.access_log_to, AccessLog::File("/var/log/lb/access.json".into()));
        assert_eq!(config.traffic.explain_token, "s3cret".parse().ok());
    }

    #[test]
    fn an_error_names_the_flag_the_value_and_what_would_be_valid() {
        #[rustfmt::skip]
        let cases = [
            ("--control=127.0.0.1:7000",     "give a URL like http://127.0.0.1:7000"),
            ("--control=http://a/path",      "give a URL like http://127.0.0.1:7000"),
            ("--control=https://a",          "https is not supported"),
            ("--id=two words",               "names are made of letters, digits"),
            ("--admin=7101",                 "give an address and a port like 127.0.0.1:7101"),
            ("--workers=0",                  "give a number from 1 to 1024"),
            ("--listen=8080",                "give a listener's name and an address like web=0.0.0.0:8080"),
            ("--listen=web=8080",            "give a listener's name and an address like web=0.0.0.0:8080"),
            ("--drain-timeout=30",           "valid are \"1.5s\", \"500ms\", \"2m\""),
            ("--log-format=xml",             "valid are text, json"),
            ("--access-log=on",              "valid are off, errors, full, and a ratio from 0 to 1"),
            ("--access-log=1.5",             "valid are off, errors, full, and a ratio from 0 to 1"),
            ("--access-log-to=",             "give a file, or - for standard output"),
            ("--explain-token=two words",    "give visible ASCII characters"),
        ];
        for (arg, expected) in cases {
            let error = parse(&[CONTROL, arg]).expect_err(arg);
            let (flag, value) = arg.split_once('=').expect("each has a value");
            for part in [flag, value, expected] {
                assert!(error.contains(part), "{part:?} is not in {error}");
            }
        }
        let twice = parse(&[CONTROL, "--id=p1", "--listen=a=1.1.1.1:1,a=1.1.1.1:2"]);
        assert!(twice.expect_err("two addresses").contains("gives a two addresses"));
    }
}
