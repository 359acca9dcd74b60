//! Logs: one line an event on standard error, as text or JSON, filtered by `LB_LOG`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
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

/// Sends this process's events to standard error. `LB_LOG` filters them, `info` if it is not set,
/// and in the syntax of tracing's `EnvFilter`: `warn`, `lb_proxy=debug,info`.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // They would go to the same closed standard error, with a macro that panics then.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A second initialisation in one process (tests do it) keeps the first.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
