//! The proxy as a process: binds, runs, and drains when told to.

use std::process::ExitCode;

use lb_common::{
    drain::{self, Signals},
    inherited,
    notify::{State, notify},
    telemetry::{self, otlp::Destination},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Shutdown, Sockets, config::Args, run_and_tell};

const COULD_NOT_START: u8 = 1;
const CUT: u8 = 3;

/// All that `lb-proxy` and `lb proxy` do, but for reading the command line.
pub fn main(args: Args) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => error.exit(),
    };
    // Before there is a thread.
    let mut inherited = match inherited::Sockets::from_env() {
        Ok(inherited) => inherited,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return could_not_start(&error.context("what was handed over is not a TCP socket"));
        }
    };
    let traces = config.traffic.trace.otlp.clone().map(|endpoint| Destination {
        endpoint,
        service: "lb-proxy",
        instance: Some(config.id.to_string()),
    });
    let settings =
        telemetry::Settings { format: config.traffic.log_format, traces, ..Default::default() };
    let telemetry = match telemetry::init(settings) {
        Ok(telemetry) => telemetry,
        Err(error) => return could_not_start(&error.into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let admin = match inherited.take("admin", config.admin) {
                Some(socket) => socket,
                None => std::net::TcpListener::bind(config.admin)
                    .map_err(|error| anyhow::anyhow!("--admin {}: {error}", config.admin))?,
            };
            for (name, address) in inherited.iter() {
                tracing::info!(name, %address, "a socket was handed over");
            }
            let sockets = Sockets { admin, inherited };
            let mut signals = Signals::new()?;
            // It opens the access log again, if there is one, and ends nothing.
            let _hangup = signal(SignalKind::hangup())?;
            let (trigger, drain) = drain::channel();
            let mut run =
                std::pin::pin!(run_and_tell(config, sockets, drain, || notify(State::Ready)));
            tokio::select! {
                ended = &mut run => return Ok(code(ended?)),
                stop = signals.next() => tracing::info!(?stop, "asked to stop"),
            }
            notify(State::Stopping);
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
    // The last spans go out before the exit code does.
    drop(telemetry);
    result.unwrap_or_else(|error| could_not_start(&error))
}

fn could_not_start(error: &anyhow::Error) -> ExitCode {
    eprintln!("lb-proxy: {error:#}");
    ExitCode::from(COULD_NOT_START)
}

fn code(outcome: Shutdown) -> ExitCode {
    match outcome {
        Shutdown::Drained => ExitCode::SUCCESS,
        Shutdown::Cut(connections) => {
            tracing::warn!(connections, "the drain timeout passed, and connections were cut");
            ExitCode::from(CUT)
        }
    }
}
