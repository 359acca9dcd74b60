//! The command line and the environment.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use lb_common::telemetry::{LogFormat, flags::TraceFlags};

use crate::Settings;

/// The controller of a fleet of load balancers: it keeps what operators ask for, probes the
/// backends, and tells every proxy what to run.
///
/// Operators reach it by gRPC (lb.v1.Fleet, with reflection, so grpcurl is enough), proxies too
/// (lb.v1.Discovery).
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lb-control",
    version,
    after_help = after_help("lb-control")
)]
pub struct Args {
    /// Where operators and proxies connect
    ///
    /// There is no authentication yet: whoever reaches this port is an operator.
    #[arg(long, env = "LB_GRPC", value_name = "ADDR", default_value = "127.0.0.1:7000")]
    pub grpc: SocketAddr,

    /// Where the dashboard, /metrics, /healthz and /readyz are
    ///
    /// They only show things, and to whoever reaches this port.
    #[arg(long, env = "LB_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:7001")]
    pub admin: SocketAddr,

    /// Keeps revisions and health over a restart [default: keep them in memory only]
    ///
    /// One directory belongs to one controller at a time. What was acknowledged is on its disk.
    #[arg(long, env = "LB_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// A TOML file with the whole desired state
    ///
    /// It replaces the state when it changes. A file that is wrong changes nothing,
    /// and the log says what is wrong with it. At a start, a file that was applied before is not
    /// applied again, so that later changes through the API stay.
    #[arg(long, env = "LB_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How log lines look: text or json
    #[arg(long, env = "LB_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    #[command(flatten)]
    pub dashboard: DashboardFlags,

    #[command(flatten)]
    pub trace: TraceFlags,
}

/// How the dashboard is reached.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DashboardFlags {
    /// A public host name under which browsers find the dashboard; several with commas
    ///
    /// Addresses, localhost, names of one word and names below .internal, .local, .localhost and
    /// .home.arpa need not be given. Other names are refused, so that no web site can have a
    /// browser take it for the dashboard.
    #[arg(long, env = "LB_DASHBOARD_HOST", value_name = "NAME", value_delimiter = ',')]
    pub dashboard_host: Vec<String>,
}

/// What `--help` says at its end; `command` is how the controller is started.
pub fn after_help(command: &str) -> String {
    format!(
        "\
Examples:
  {command} --data-dir /var/lib/lb
  {command} --data-dir /var/lib/lb --config /etc/lb.toml
  grpcurl -plaintext 127.0.0.1:7000 lb.v1.Fleet/Get

Signals:
  SIGTERM, SIGINT   end in order; a second one ends at once, with exit code 143 or 130
  SIGHUP            read the configuration file again, if it is not the one applied last

LB_LOG filters the log: \"warn\", or \"lb_control=debug,info\"."
    )
}

// === impl Args ===

impl Args {
    pub fn settings(&self) -> Settings {
        Settings {
            data_dir: self.data_dir.clone(),
            config: self.config.clone(),
            trace_ratio: self.trace.ratio(),
            dashboard_hosts: self.dashboard.dashboard_host.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_is_an_environment_variable_too() {
        let command = Args::command();
        command.clone().debug_assert();
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "version") {
            let expected = format!("LB_{}", argument.get_id().as_str().to_uppercase());
            let variable = argument.get_env().and_then(|name| name.to_str());
            assert_eq!(variable, Some(expected.as_str()));
        }
    }

    #[test]
    fn without_flags_it_listens_on_this_machine_only() {
        let args = Args::try_parse_from(["lb-control"]).expect("needs no flags");
        assert_eq!((args.grpc.to_string(), args.admin.port()), ("127.0.0.1:7000".into(), 7001));
    }
}
