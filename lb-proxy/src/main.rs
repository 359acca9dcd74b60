//! The proxy as a process. See `--help`.

use std::process::ExitCode;

use clap::Parser;
use lb_common::{
    drain::{self, Signals},
    telemetry,
};
use lb_proxy::{Outcome, config::Args};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COULD_NOT_START: u8 = 1;
const CUT: u8 = 3;

fn main() -> ExitCode {
    let config = match Args::parse().config() {
        Ok(config) => config,
        Err(error) => error.exit(),
    };
    telemetry::init(config.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let admin = std::net::TcpListener::bind(config.admin)
                .map_err(|error| anyhow::anyhow!("--admin {}: {error}", config.admin))?;
            let mut signals = Signals::new()?;
            let (trigger, drain) = drain::channel();
            let mut run = std::pin::pin!(lb_proxy::run(config, admin, drain));
            tokio::select! {
                ended = &mut run => return Ok(code(ended?)),
                stop = signals.next() => tracing::info!(?stop, "asked to stop"),
            }
            trigger.start();
            tokio::select! {
                ended = &mut run => Ok(code(ended?)),
                stop = signals.next() => {
                    tracing::warn!(?stop, "asked to stop again, and stops at once");
                    // Not by returning: what runs on the runtime would be dropped in order first.
                    std::process::exit(stop.exit_code().into())
                }
            }
        })
    });
    result.unwrap_or_else(|error| {
        eprintln!("lb-proxy: {error:#}");
        ExitCode::from(COULD_NOT_START)
    })
}

fn code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Drained => ExitCode::SUCCESS,
        Outcome::Cut(connections) => {
            tracing::warn!(connections, "the drain timeout passed, and connections were cut");
            ExitCode::from(CUT)
        }
    }
}
