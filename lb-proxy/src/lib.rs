//! The proxy: takes clients' requests to backends, as a controller's snapshots say.
//!
//! ```text
//!   control stream ─► server: build table ─► ArcSwap ─┐           control thread
//!   ──────────────────────────────────────────────────┼──────────────────────────
//!   accept ─► route ─► pick ─► attempt ─► respond  ◄──┘           N worker threads
//!                       ▲         │
//!                       └─ retry ─┘
//! ```
//!
//! Read [`proxy`] first: it is the way of a request. [`worker`] is what it runs on, [`table`] what
//! it reads, [`upstream`] how it reaches a backend, [`server`] who writes the table, and
//! [`control`] where that comes from.
//!
//! # Invariants
//!
//! - A request reads one table; the table has one writer.
//! - Workers share nothing but the table, the backends' atomics and the counters. A request never
//!   changes threads, and the control thread never touches one.
//! - `table` and `retry` know nothing of workers, requests under way or sockets; nor does
//!   [`lb_routing`], which decides where a request goes. `worker`, `proxy`, `attempt` and `upstream` know each other: a request reaches its
//!   worker's pool and random source by it.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lb_common::{clock, drain::Drain};
use tokio::{runtime, sync::mpsc, sync::oneshot, sync::watch};

use crate::{
    admin::Admin,
    config::Config,
    control::{last_good::LastGood, status::ControlStatus},
    server::{BoundAddresses, Server},
    worker::{Command, Shared},
};

pub mod accept;
pub mod admin;
pub mod attempt;
pub mod backend_set;
pub mod body;
pub mod client;
pub mod config;
pub mod control;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod headers;
pub mod interim;
pub mod io_meter;
pub mod metrics;
pub mod proxy;
pub mod reply;
pub mod retry;
pub mod server;
pub mod table;
pub mod tcp;
pub mod timer;
pub mod upstream;
pub mod worker;

/// How a proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every client was served to its end.
    Drained,
    /// So many connections were cut when the drain timeout passed.
    Cut(usize),
}

/// Why a proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    DataDir(#[from] control::last_good::OpenError),
    #[error("the admin port cannot be used: {0}")]
    Admin(io::Error),
    #[error("a worker could not be started: {0}")]
    Worker(io::Error),
}

const CONTROL_END: Duration = Duration::from_secs(2);

/// A worker's thread.
struct WorkerThread {
    commands: mpsc::UnboundedSender<Command>,
    /// How many connections it cut.
    done: oneshot::Receiver<usize>,
    thread: thread::JoinHandle<()>,
}

/// Serves until the drain starts, and then until all clients are gone or the drain timeout passes.
///
/// # Errors
/// If it cannot start: the data directory, the admin port or a thread.
pub async fn run(
    config: Config,
    admin: std::net::TcpListener,
    mut drain: Drain,
) -> Result<Outcome, RunError> {
    let last_good = LastGood::open(&config.data_dir)?;
    admin.set_nonblocking(true).map_err(RunError::Admin)?;
    let admin = tokio::net::TcpListener::from_std(admin).map_err(RunError::Admin)?;

    let shared = Arc::new(Shared::new(config.workers.get()));
    let mut rng = fastrand::Rng::new();
    let workers = (0..shared.workers)
        .map(|index| start_worker(index, &shared, rng.u64(..)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(RunError::Worker)?;
    let commands = workers.iter().map(|worker| worker.commands.clone()).collect();
    let bound = BoundAddresses::default();
    let server = Server::new(
        Arc::clone(&shared),
        commands,
        config.listen,
        Arc::clone(&bound),
        rng.fork(),
        drain.clone(),
    );
    let (status, control) = watch::channel(ControlStatus::default());
    let settings = control::Settings {
        proxy_id: config.id.clone(),
        zone: config.zone,
        controllers: config.controllers,
        rng,
    };
    let admin_port = Admin { id: config.id, shared, control, bound, drain: drain.clone() };
    let admin_port = tokio::spawn(admin::serve(Arc::new(admin_port), admin));
    // The control stream outlives the drain's start: a controller sees the last requests go.
    let (stop_control, control_drain) = lb_common::drain::channel();
    let control = tokio::spawn(control::run(settings, last_good, server, status, control_drain));

    drain.started().await;
    tracing::info!(timeout = ?config.drain_timeout, "draining");
    let cut = drain_all(workers, clock::now() + config.drain_timeout).await;
    stop_control.start();
    // A disk that hangs must not hold up the end.
    match tokio::time::timeout(CONTROL_END, control).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the control task had died"),
        Err(_) => tracing::warn!("the control task did not end in {CONTROL_END:?}"),
    }
    admin_port.abort();
    Ok(if cut == 0 { Outcome::Drained } else { Outcome::Cut(cut) })
}

fn start_worker(index: usize, shared: &Arc<Shared>, seed: u64) -> io::Result<WorkerThread> {
    let (commands, received) = mpsc::unbounded_channel();
    let (report, done) = oneshot::channel();
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name(format!("lb-worker-{index}")).spawn(move || {
        match runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => {
                let cut = runtime.block_on(worker::run(index, shared, seed, received));
                // Nobody may be left who wants to know.
                let _ = report.send(cut);
            }
            Err(error) => tracing::error!(index, %error, "a worker has no runtime"),
        }
    })?;
    Ok(WorkerThread { commands, done, thread })
}

/// Returns how many connections were cut.
async fn drain_all(workers: Vec<WorkerThread>, deadline: Instant) -> usize {
    for worker in &workers {
        // A worker that is gone has nothing to drain.
        let _ = worker.commands.send(Command::Drain { deadline });
    }
    let mut cut = 0;
    for worker in workers {
        cut += worker.done.await.unwrap_or(0);
        // It has reported and is about to end.
        let _ = worker.thread.join();
    }
    cut
}
