//! The flags of every process that carries traffic: `lb-proxy`, and `lb run` with a proxy in it.

use std::{num::NonZeroUsize, thread, time::Duration};

use clap::Args;
use lb_common::telemetry::{LogFormat, flags::TraceFlags};

use crate::observe::{
    access_log::{Destination, Mode},
    explain::Token,
};

/// How traffic is carried, and what is told about it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TrafficFlags {
    /// Threads that carry traffic [default: one for each core]
    #[arg(long, env = "LB_WORKERS", value_name = "N", value_parser = workers)]
    pub workers: Option<NonZeroUsize>,

    /// How long requests may take to finish after SIGTERM or SIGINT
    #[arg(
        long,
        env = "LB_DRAIN_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = lb_proto::duration::parse
    )]
    pub drain_timeout: Duration,

    /// Client connections at once [default: what the limit of open files allows]
    ///
    /// Above it, the connection that has idled longest is closed for a new one; if none idles, the new
    /// one is answered with 503. The limit of open files is raised to the hard one at start.
    #[arg(long, env = "LB_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// Bytes that may wait in buffers, of all connections, besides what each needs to go on
    ///
    /// Above it, bodies are not kept for another attempt, and requests whose heads come in pieces are
    /// answered with 503.
    #[arg(long, env = "LB_MAX_BUFFER_BYTES", value_name = "BYTES", default_value_t = MAX_BUFFER_BYTES)]
    pub max_buffer_bytes: usize,

    /// How log lines look, text or json; LB_LOG filters them (warn, lb_proxy=debug,info)
    #[arg(long, env = "LB_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Which requests are written to the access log: off, errors, full, or a ratio like 0.01
    ///
    /// Errors are what was answered with a 5xx, refused, or broken off. A ratio is of the requests
    /// that are no errors; these are all written. A line is a JSON object.
    #[arg(long, env = "LB_ACCESS_LOG", value_name = "MODE", default_value = "off")]
    pub access_log: Mode,

    /// The access log's file, or - for standard output
    ///
    /// Created if missing, appended to, and opened again on SIGHUP.
    #[arg(long, env = "LB_ACCESS_LOG_TO", value_name = "FILE", default_value = "-")]
    pub access_log_to: Destination,

    /// A secret: requests with it in the header x-lb-explain are told in the response's where they
    /// went and why
    #[arg(long, env = "LB_EXPLAIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub explain_token: Option<Token>,

    #[command(flatten)]
    pub trace: TraceFlags,
}

const MAX_WORKERS: usize = 1024;
const MAX_BUFFER_BYTES: usize = 256 * 1024 * 1024;

impl TrafficFlags {
    /// How many threads carry traffic.
    pub fn workers(&self) -> NonZeroUsize {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.workers.unwrap_or_else(cores)
    }
}

/// As if no flag were given.
impl Default for TrafficFlags {
    fn default() -> Self {
        Self {
            workers: None,
            drain_timeout: Duration::from_secs(30),
            max_connections: None,
            max_buffer_bytes: MAX_BUFFER_BYTES,
            log_format: LogFormat::default(),
            access_log: Mode::default(),
            access_log_to: Destination::default(),
            explain_token: None,
            trace: TraceFlags::default(),
        }
    }
}

fn workers(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.trim().parse().ok().filter(|n: &NonZeroUsize| n.get() <= MAX_WORKERS);
    number.ok_or_else(|| format!("give a number from 1 to {MAX_WORKERS}"))
}
