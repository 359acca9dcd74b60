//! Binds, runs, and ends when told to.

use std::{net::TcpListener, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use lb_common::{drain, telemetry};
use lb_control::{Listeners, config::Args, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init(args.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(start(args))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lb-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> anyhow::Result<ExitCode> {
    let bind = |address, flag| {
        TcpListener::bind(address).with_context(|| format!("cannot listen on {flag} {address}"))
    };
    let listeners =
        Listeners { grpc: bind(args.grpc, "--grpc")?, admin: bind(args.admin, "--admin")? };
    let mut signals = drain::Signals::new().context("cannot handle signals")?;
    let (trigger, drain) = drain::channel();
    tracing::info!(grpc = %args.grpc, admin = %args.admin, "lb-control starts");

    let mut running = std::pin::pin!(run(args.settings(), listeners, drain));
    tokio::select! {
        result = &mut running => {
            result?;
            return Ok(ExitCode::SUCCESS);
        }
        stop = signals.next() => tracing::info!(?stop, "shutting down; once more ends at once"),
    }
    trigger.start();
    tokio::select! {
        result = running => {
            result?;
            Ok(ExitCode::SUCCESS)
        }
        stop = signals.next() => std::process::exit(stop.exit_code().into()),
    }
}
