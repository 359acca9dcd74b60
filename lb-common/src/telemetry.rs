//! What a process says about what it does: logs, and traces if somebody collects them.
//!
//! - Logs are one line an event on standard error, as text or JSON, filtered by `LB_LOG`.
//! - Traces go to an OpenTelemetry collector ([`otlp`]). Which requests are recorded is decided
//!   before a span of them exists ([`trace_context`], [`sampling`]): what is not recorded costs no
//!   more than that decision, and without a collector not even that.
//! - [`flags`]: the flags for it, which all processes share.

pub mod flags;
pub mod otlp;
pub mod sampling;
pub mod span;
pub mod trace_context;

use std::io::IsTerminal as _;

use opentelemetry::trace::TracerProvider;
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use self::otlp::{Destination, Exporter, OtlpError};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What is said, and to whom.
#[derive(Clone, Debug)]
pub struct Settings {
    pub format: LogFormat,
    /// What is logged if `LB_LOG` is not set; both are in the syntax of tracing's `Targets`:
    /// `warn`, `lb_proxy=debug,info`.
    pub default_filter: &'static str,
    /// Who gets traces.
    pub traces: Option<Destination>,
}

/// To be kept until the process ends: then the last spans are exported.
#[must_use = "no trace is exported after it is dropped"]
#[derive(Debug)]
pub struct Guard {
    _exporter: Option<Exporter>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: LogFormat::default(), default_filter: "info", traces: None }
    }
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not a log format; valid are text, json")),
        }
    }
}

/// Begins with it. A second time in one process (tests do that), logs stay as they are.
///
/// # Errors
/// If traces are asked for and cannot be exported; not if the collector does not answer.
pub fn init(settings: Settings) -> Result<Guard, OtlpError> {
    let Settings { format, default_filter, traces } = settings;
    let exporter = traces.map(Exporter::start).transpose()?;

    let asked = std::env::var("LB_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter =
        asked.unwrap_or_else(|| default_filter.parse().expect("what is built in has been tried"));
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        // They would go to the same closed standard error, with a macro that panics then.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let lines = lines.with_filter(filter.and(filter_fn(|about| about.target() != span::TARGET)));
    let spans = exporter.as_ref().map(|exporter| {
        tracing_opentelemetry::layer()
            .with_tracer(exporter.provider.tracer("lb"))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(filter_fn(|about| about.target() == span::TARGET))
    });
    let _ = registry().with(lines).with(spans).try_init();
    Ok(Guard { _exporter: exporter })
}
