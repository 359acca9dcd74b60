//! The controller as a process: binds, runs, and ends when told to.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use anyhow::Context;
use lb_common::{
    drain,
    inherited::Sockets,
    notify::{State, notify},
    shortage,
    telemetry::{self, otlp::Destination},
};

use crate::{Listeners, config::Args, run_and_tell};

/// All that `lb-control` and `lb control` do, but for reading the command line.
pub fn main(args: Args) -> ExitCode {
    match run_to_end(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lb-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_to_end(args: Args) -> anyhow::Result<ExitCode> {
    // Before there is a thread.
    let inherited = Sockets::from_env().context("what was handed over is not a TCP socket")?;
    let traces = args.trace.otlp.clone().map(|endpoint| Destination {
        endpoint,
        service: "lb-control",
        instance: None,
    });
    let settings = telemetry::Settings { format: args.log_format, traces, ..Default::default() };
    shortage::raise_descriptor_limit();
    // The last spans go out when this returns.
    let _telemetry = telemetry::init(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(start(args, inherited))
}

async fn start(args: Args, mut inherited: Sockets) -> anyhow::Result<ExitCode> {
    let mut listen = |name: &str, address: SocketAddr| match inherited.take(name, address) {
        Some(socket) => Ok(socket),
        None => TcpListener::bind(address)
            .with_context(|| format!("cannot listen on --{name} {address}")),
    };
    let listeners =
        Listeners { grpc: listen("grpc", args.grpc)?, admin: listen("admin", args.admin)? };
    let (grpc, admin) = (listeners.grpc.local_addr()?, listeners.admin.local_addr()?);
    for (name, address) in inherited.iter() {
        tracing::warn!(name, %address, "a socket was handed over that is neither grpc nor admin");
    }
    let mut signals = drain::Signals::new().context("cannot handle signals")?;
    let (trigger, drain) = drain::channel();
    tracing::info!(%grpc, %admin, "lb-control starts");

    let mut running =
        std::pin::pin!(run_and_tell(args.settings(), listeners, drain, || notify(State::Ready)));
    tokio::select! {
        result = &mut running => {
            result?;
            return Ok(ExitCode::SUCCESS);
        }
        stop = signals.next() => tracing::info!(?stop, "shutting down; once more ends at once"),
    }
    notify(State::Stopping);
    trigger.start();
    tokio::select! {
        result = running => {
            result?;
            Ok(ExitCode::SUCCESS)
        }
        stop = signals.next() => std::process::exit(stop.exit_code().into()),
    }
}
