//! The controller: decides what the fleet runs, and knows what it does run.
//!
//! ```text
//!   fleet ──────┐
//!   config_file ┤ Mutate, Look                    ┌► store     Commit ─► Committed
//!               ├──────────────► owner ⇄ controller ┤► prober    Probe ──► Probed
//!   discovery ──┘ Proxy            (pure core)    └► publisher ─► discovery ─► proxies
//! ```
//!
//! - [`asked`], [`desired`] and [`diff`]: what is asked for, what a request makes of it, and how that
//!   differs.
//! - [`vault`]: what the state needs besides itself, certificates and keys; [`files`], [`renewal`] and
//!   [`tickets`] find it.
//! - [`acme`]: certificates that are ordered.
//! - [`store`]: what outlives the process; [`backup`]: all of it in a file, and back.
//! - [`health`]: probes, and what they decide.
//! - [`controller`]: the one owner of the state, pure; [`owner`] is its shell.
//! - [`publisher`], [`session`], [`proxies`], [`discovery`]: how proxies get it, and what is known of
//!   them; [`traffic`]: what their traffic is like.
//! - [`explain`]: what proxies would do with a request, by the code that they decide with.
//! - [`fleet`], [`config_file`], [`admin`], [`server`]: the ways in; [`trace`] follows a change from
//!   there to the proxies.
//!
//! # Invariants
//!
//! - What was acknowledged survives the process at any moment.
//! - Nothing that a client or a proxy does delays another one, beyond the owner's turn for it.
//! - There are no globals: several controllers live in one process.

pub mod acme;
pub mod admin;
pub mod asked;
pub mod backup;
pub mod config;
pub mod config_file;
pub mod controller;
pub mod desired;
pub mod diff;
pub mod discovery;
pub mod explain;
pub mod files;
pub mod fleet;
pub mod health;
mod known;
pub mod metrics;
mod news;
pub mod owner;
pub mod process;
pub mod proxies;
pub mod publisher;
pub mod renewal;
mod resolve;
pub mod server;
pub mod session;
pub mod store;
pub mod tickets;
pub mod trace;
pub mod traffic;
pub mod vault;

use std::{
    io, net,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use lb_common::{
    clock, drain::Drain, shortage::raise_descriptor_limit, telemetry::sampling::Ratio,
};
use lb_proto::error::Problems;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    admin::{Admin, site::Site},
    backup::Backups,
    config_file::{ConfigError, ConfigFile},
    controller::{Controller, Moment},
    health::prober::{Prober, Share},
    owner::{Failed, Handle, Running},
    store::{Store, StoreError, redb::Redb},
};

pub use process::main;

/// How long calls and streams have to end after the drain started.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What a controller is to do.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Without one, everything is forgotten at the end.
    pub data_dir: Option<PathBuf>,
    /// A file that the desired state follows.
    pub config: Option<PathBuf>,
    /// How many of the calls that come without a trace begin one; `None` if nothing is traced.
    pub trace_ratio: Option<Ratio>,
    /// More host names under which browsers find the dashboard.
    pub dashboard_hosts: Vec<String>,
}

/// Where it is reached; bound already, so that whoever started it knows the addresses.
#[derive(Debug)]
pub struct Listeners {
    pub grpc: net::TcpListener,
    pub admin: net::TcpListener,
}

/// Why a controller ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "revision {revision} in the store is not valid: {problems}; restore a backup, or move the \
         data directory away to start empty"
    )]
    Stored { revision: u64, problems: Problems },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("a listener is not usable: {0}")]
    Listener(#[source] io::Error),
    #[error("SIGHUP cannot be handled: {0}")]
    Signal(#[source] io::Error),
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    #[error("there is no thread for health checks: {0}")]
    Prober(#[source] io::Error),
    #[error("{0}; start this one again, if it is to go on from what is stored")]
    Overtaken(String),
    #[error("the controller's core failed; its log says where")]
    Core,
}

/// Runs a controller until the drain starts and everything has ended in order. Works on a
/// current-thread runtime too.
///
/// # Errors
/// If it cannot start, or if a part of it fails for good.
pub async fn run(settings: Settings, listeners: Listeners, drain: Drain) -> Result<(), RunError> {
    run_and_tell(settings, listeners, drain, || {}).await
}

/// As [`run`]; `ready` is called once it knows what the fleet is to run.
///
/// # Errors
/// Those of [`run`].
pub async fn run_and_tell(
    settings: Settings,
    listeners: Listeners,
    drain: Drain,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let grpc = listener(listeners.grpc)?;
    let handle = Arc::new(OnceLock::new());
    // Aborted when this returns.
    let mut tasks = JoinSet::new();
    let site = Site::new(settings.dashboard_hosts);
    let admin = Admin::new(Arc::clone(&handle), drain.clone(), site);
    tasks.spawn(admin.serve(listener(listeners.admin)?));

    // Early, because a SIGHUP that nobody waits for ends the process.
    let follow = match settings.config {
        Some(path) => Some((path, signal(SignalKind::hangup()).map_err(RunError::Signal)?)),
        None => None,
    };
    let Started { handle: started, mut running, is_new } =
        start(settings.data_dir, settings.trace_ratio).await?;
    if let Some((path, hangup)) = follow {
        let mut file = ConfigFile::new(path, started.clone());
        match file.apply_if_new().await {
            Ok(()) => {}
            Err(error) if is_new => {
                running.stop().await;
                return Err(error.into());
            }
            Err(error) => tracing::error!("the configuration file changes nothing: {error}"),
        }
        tasks.spawn(file.follow(hangup));
    }
    tasks.spawn(renewal::follow(started.clone()));
    tasks.spawn(tickets::rotate(started.clone()));
    tasks.spawn(acme::driver::drive(started.clone()));
    let _ = handle.set(started.clone());
    ready();

    let mut draining = drain.clone();
    let ending = async move {
        draining.started().await;
        tokio::time::sleep(END_TIMEOUT).await;
    };
    let result = tokio::select! {
        served = server::serve(grpc, started, drain) => served.map_err(RunError::Server),
        // Whoever still does not want to end is cut off.
        () = ending => Ok(()),
        failed = running.failed() => return Err(match failed {
            Failed::Core => RunError::Core,
            Failed::Overtaken(how) => RunError::Overtaken(how),
        }),
    };
    tasks.shutdown().await;
    running.stop().await;
    result
}

struct Started {
    handle: Handle,
    running: Running,
    /// There was nothing in the store.
    is_new: bool,
}

/// Opens the store and publishes what it says.
async fn start(data_dir: Option<PathBuf>, trace_ratio: Option<Ratio>) -> Result<Started, RunError> {
    let backups = data_dir.as_deref().map(Backups::of);
    let store = match data_dir {
        Some(directory) => Redb::open(directory).await?,
        None => Redb::in_memory()?,
    };
    // Proxies refuse older epochs. The time of day is later than that of any store that was lost; and where
    // a clock went back, what is stored is.
    let least = u64::try_from(clock::wall().as_millis()).unwrap_or(u64::MAX);
    let led = store.campaign(least, None).await;
    let mut stored = match store.load().await {
        Ok(stored) => stored,
        // Why nobody leads says more.
        Err(error) => return Err(led.err().unwrap_or(error).into()),
    };
    // They are there before the first client can ask for a ticket.
    let keys = tickets::renewed(&stored.materials, clock::wall());
    let unled = match led {
        Ok(term) => {
            if let Some(keys) = &keys {
                store.put_materials(term, keys.clone()).await?;
            }
            None
        }
        // What can be read is enough to look after proxies and backends.
        Err(error) if error.is_outage() => {
            stored.epoch = least.max(stored.epoch + 1);
            Some(error)
        }
        Err(error) => return Err(error.into()),
    };
    stored.materials.extend(keys.unwrap_or_default());
    let (epoch, revision) = (stored.epoch, stored.revision);
    tracing::info!(epoch, revision, "store opened");
    let moment = Moment { now: clock::now(), wall: clock::wall() };
    let (mut controller, first) = Controller::new(stored, fastrand::Rng::new(), moment)
        .map_err(|problems| RunError::Stored { revision, problems })?;
    if let Some(error) = unled {
        tracing::error!(%error, "the store fails; proxies are served all the same");
        controller.lead_later(error.to_string());
    }
    let share = Share::of(raise_descriptor_limit());
    controller.set_room_for_probes(share.concurrent);
    let prober = Prober::start(share).map_err(RunError::Prober)?;
    let (handle, running) =
        owner::spawn(controller, first, Arc::new(store), prober, backups, trace_ratio);
    Ok(Started { handle, running, is_new: revision == 0 })
}

fn listener(bound: net::TcpListener) -> Result<TcpListener, RunError> {
    bound
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(bound))
        .map_err(RunError::Listener)
}

/// Wall time as the API says it.
fn timestamp(wall: Duration) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(wall.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(wall.subsec_nanos()).unwrap_or(0),
    }
}
