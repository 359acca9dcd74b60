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
//! Read [`proxy::request`] first: it is the way of a request. No two files import each other. A
//! line imports from lines below it, save that [`local`] holds the pool of [`upstream`], and that the
//! page of [`metrics`] reads what it is about:
//!
//! | module | what it is |
//! |---|---|
//! | [`process`], [`admin`] | start, end and exit codes; metrics, health, the table as JSON |
//! | [`server`], [`control`] | who writes the table, and where it comes from |
//! | [`listeners`] | the sockets that clients connect to |
//! | [`worker`] | a thread: its loop, its sweep, its drain |
//! | [`serve`] | accepting; a connection that speaks HTTP/1; one that is just carried |
//! | [`proxy`] | a request: route, pick, attempt, respond; upload, exchange, download, tunnel |
//! | [`observe`] | what is told of it: access log, traces, explain, reports |
//! | [`downstream`], [`upstream`] | a client's connection; a backend's: connect, pool, lease |
//! | [`local`] | what a worker's thread has to itself |
//! | [`table`], [`policy`] | a snapshot, compiled; retries and their budget |
//! | [`connections`], [`metrics`], [`net`] | open connections and idle ones; counters; sockets, buffers, pipes |
//!
//! # Invariants
//!
//! - A request reads one table; the table has one writer.
//! - Workers share nothing but the table, the backends' atomics and the counters. A request never
//!   changes threads, and the control thread never touches one.
//! - Bytes are read when the side that they are for has taken what came before. A connection that
//!   idles holds no buffer.
//! - What the process itself lacks, descriptors for instance, is never held against a backend.
//! - hyper is not on this path: it serves the admin port. What HTTP is, [`lb_http`] knows.

use std::{
    io,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use lb_common::{clock, drain::Drain, inherited};
use tokio::{runtime, sync::mpsc, sync::oneshot, sync::watch};

use crate::{
    admin::Admin,
    config::Config,
    control::{last_good::LastGood, status::ControlStatus},
    listeners::{BoundAddresses, Listeners},
    local::{Bounds, Shared},
    net::files,
    observe::{
        access_log::{self, Mode, WorkerLog},
        record::Recorder,
    },
    server::Server,
    worker::Command,
};

pub use process::main;

pub mod admin;
pub mod config;
pub mod connections;
pub mod control;
pub mod downstream;
#[cfg(test)]
mod fixture;
pub mod listeners;
pub mod local;
pub mod metrics;
pub mod net;
pub mod observe;
pub mod policy;
pub mod process;
pub mod proxy;
pub mod serve;
pub mod server;
pub mod table;
pub mod upstream;
pub mod worker;

/// How a proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
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
    #[error(transparent)]
    AccessLog(#[from] access_log::OpenError),
    #[error("the admin port cannot be used: {0}")]
    Admin(io::Error),
    #[error("a worker could not be started: {0}")]
    Worker(io::Error),
}

const CONTROL_END: Duration = Duration::from_secs(2);

/// How long to wait for a table before calling it a start.
const TABLE_WITHIN: Duration = Duration::from_secs(10);

/// What is bound already when a proxy starts.
#[derive(Debug)]
pub struct Sockets {
    pub admin: std::net::TcpListener,
    /// For listeners; those that are not among them are bound.
    pub inherited: inherited::Sockets,
}

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
    drain: Drain,
) -> Result<Shutdown, RunError> {
    let sockets = Sockets { admin, inherited: inherited::Sockets::default() };
    run_and_tell(config, sockets, drain, || {}).await
}

/// As [`run`]; `ready` is called once there is a table, or after a while without one: whoever waits
/// for it may be about to start the controller.
///
/// # Errors
/// Those of [`run`].
pub async fn run_and_tell(
    config: Config,
    sockets: Sockets,
    mut drain: Drain,
    ready: impl FnOnce(),
) -> Result<Shutdown, RunError> {
    let Sockets { admin, inherited } = sockets;
    let last_good = LastGood::open(&config.data_dir)?;
    admin.set_nonblocking(true).map_err(RunError::Admin)?;
    let admin = tokio::net::TcpListener::from_std(admin).map_err(RunError::Admin)?;

    let traffic = &config.traffic;
    let descriptors = lb_common::shortage::raise_descriptor_limit();
    let room = files::room_within(descriptors);
    let within = room.for_clients;
    let bounds = Bounds {
        connections: traffic.max_connections.map_or(within, |most| most.get().min(within)),
        room,
        buffers: traffic.max_buffer_bytes,
    };
    let shared = Arc::new(Shared::new(traffic.workers().get(), bounds));
    let mut rng = fastrand::Rng::new();
    let log = match traffic.access_log {
        Mode::Off => None,
        _ => Some(access_log::open(&traffic.access_log_to, &shared)?),
    };
    let workers = (0..shared.workers)
        .map(|index| {
            let queue = log.as_ref().map(access_log::Writer::queue);
            let log = WorkerLog::new(traffic.access_log, Arc::clone(&shared), queue);
            let (id, token) = (config.id.clone(), traffic.explain_token.clone());
            let traces = traffic.trace.ratio();
            let recorder = move || Recorder::new(id, log, token, traces);
            start_worker(index, &shared, recorder, rng.u64(..))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(RunError::Worker)?;
    let commands = workers.iter().map(|worker| worker.commands.clone()).collect();
    let bound = BoundAddresses::default();
    let listeners = Listeners::new(
        commands,
        config.listen,
        inherited,
        Arc::clone(&bound),
        rng.fork(),
        drain.clone(),
    );
    let listeners = Arc::new(Mutex::new(listeners));
    let trying = tokio::spawn(listeners::keep_trying(Arc::clone(&listeners)));
    let server = Server::new(Arc::clone(&shared), listeners, rng.fork());
    let (status, control) = watch::channel(ControlStatus::default());
    let mut table = control.clone();
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

    // An error means that the control task is gone, which is found out at the end.
    let has_table = async { drop(table.wait_for(|status| status.running.is_some()).await) };
    tokio::select! {
        () = drain.started() => {}
        _ = tokio::time::timeout(TABLE_WITHIN, has_table) => {
            ready();
            drain.started().await;
        }
    }
    tracing::info!(timeout = ?config.traffic.drain_timeout, "draining");
    let cut = drain_all(workers, clock::now() + config.traffic.drain_timeout).await;
    stop_control.start();
    // A disk that hangs must not hold up the end.
    match tokio::time::timeout(CONTROL_END, control).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the control task had died"),
        Err(_) => tracing::warn!("the control task did not end in {CONTROL_END:?}"),
    }
    admin_port.abort();
    trying.abort();
    if let Some(log) = log {
        log.end().await;
    }
    Ok(if cut == 0 { Shutdown::Drained } else { Shutdown::Cut(cut) })
}

fn start_worker(
    index: usize,
    shared: &Arc<Shared>,
    recorder: impl FnOnce() -> Recorder + Send + 'static,
    seed: u64,
) -> io::Result<WorkerThread> {
    let (commands, received) = mpsc::unbounded_channel();
    let (report, done) = oneshot::channel();
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name(format!("lb-worker-{index}")).spawn(move || {
        match runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => {
                let cut = runtime.block_on(worker::run(index, shared, recorder(), seed, received));
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
