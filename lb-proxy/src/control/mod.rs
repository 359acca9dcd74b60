//! The control stream: what a controller decides comes in here, and what this proxy runs and sees
//! goes out.
//!
//! ```text
//!   last-known-good file ─► install      first, before any network
//!   controller ─► update ─► offer: take it? ─► install ─► applied ─► last-known-good file
//!                               └────────────────┴─► rejected; what ran runs on
//! ```
//!
//! # Invariants
//!
//! - (epoch, version) of what runs never goes backwards, over restarts too.
//! - A controller that is gone, slow or wrong never disturbs what runs.
//! - Nothing here queues: answers and reports that nobody reads are replaced by later ones, and so
//!   are snapshots that wait for the disk.

mod client;
pub mod last_good;
mod offer;
mod outbox;
mod reporter;
pub mod status;

use std::{collections::BTreeMap, sync::Arc};

use http::Uri;
use lb_common::{clock, drain::Drain, id::ProxyId, snapshot::Snapshot};
use lb_proto::{
    update::{self, Sealed},
    v1,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::{
    client::Follower,
    last_good::LastGood,
    offer::{Offer, Refusal},
    status::{ControlStatus, LastGoodStatus, Rejection, Running},
};

pub use crate::observe::report::{BackendSeen, Seen};

/// What does not work, by resource, and why.
pub type Problems = BTreeMap<String, String>;

/// What takes snapshots into service.
pub trait Install: Send + 'static {
    /// # Errors
    /// Says why the snapshot cannot be served; the one before it serves on.
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), InstallError>;

    /// What of the snapshot that runs does not work here.
    fn problems(&self) -> watch::Receiver<Problems>;

    /// What goes on in this proxy right now, with all that it has counted if `totals`.
    fn look(&mut self, totals: bool) -> Seen;
}

/// Why a valid snapshot cannot be served here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {reason}")]
pub struct InstallError {
    /// Like `listeners[web]`.
    pub resource: String,
    pub reason: String,
}

/// Who this proxy is, and whom it asks.
#[derive(Clone, Debug)]
pub struct Settings {
    pub proxy_id: ProxyId,
    pub zone: String,
    /// Equals: the first one to ask is drawn. Without any the proxy runs what the disk has.
    pub controllers: Vec<Uri>,
    /// For that draw and for the waits between attempts.
    pub rng: fastrand::Rng,
}

/// What runs, and the one who changes it.
struct Control<'a, I> {
    install: I,
    running: Option<Sealed>,
    status: &'a watch::Sender<ControlStatus>,
    good: watch::Sender<Option<Sealed>>,
}

/// Longest reason that is sent to a controller, in bytes.
const MAX_REASON: usize = 4096;

/// Installs what the disk has and then follows the controllers until the drain starts. Returns when
/// the stream is closed and what is to be on disk is there; the data directory is free then.
pub async fn run(
    settings: Settings,
    last_good: LastGood,
    install: impl Install,
    status: watch::Sender<ControlStatus>,
    drain: Drain,
) {
    let (good, newest) = watch::channel(None);
    let mut control = Control { install, running: None, status: &status, good };
    control.restore(&last_good);
    let (problem, of_disk) = watch::channel(None);
    let client = Follower::new(settings, control, of_disk);
    // Side by side, so that a slow disk delays no update.
    tokio::join!(client.run(drain), last_good::keep(last_good, newest, &status, problem));
}

// === impl Control ===

impl<I: Install> Control<'_, I> {
    /// The disk is read in place: nothing else is to be done before.
    fn restore(&mut self, last_good: &LastGood) {
        let file = last_good.path().display();
        let last_good::Found { sealed, cut } = match last_good.read() {
            Ok(Some(read)) => read,
            Ok(None) => {
                info!(%file, "no last-known-good snapshot; waiting for a controller");
                return;
            }
            Err(error) => return self.refuse_last_good(error.to_string()),
        };
        if let Some(problem) = cut {
            warn!("the end of {file} does not count: {problem}; what was there before it does");
        }
        let snapshot = &sealed.snapshot;
        match self.install.install(snapshot) {
            Ok(()) => {
                info!(
                    version = %snapshot.id.version,
                    revision = snapshot.revision,
                    "serving the last-known-good snapshot"
                );
                let loaded = LastGoodStatus::Loaded { snapshot: snapshot.id };
                self.status.send_modify(|status| status.last_good = loaded);
                self.runs(sealed);
            }
            Err(error) => {
                self.refuse_last_good(format!("{file}: {error}"));
            }
        }
    }

    fn refuse_last_good(&self, reason: String) {
        warn!("{reason}; waiting for a controller");
        self.status.send_modify(|status| status.last_good = LastGoodStatus::Refused { reason });
    }

    /// Takes an update into service, or says why not.
    fn take(&mut self, update: &v1::Update) -> Result<v1::Applied, v1::Rejected> {
        match self.try_take(update) {
            Ok(()) => Ok(v1::Applied { snapshot: update.snapshot, revision: update.revision }),
            Err(refusal) => Err(self.refuse(update, &refusal)),
        }
    }

    fn try_take(&mut self, update: &v1::Update) -> Result<(), Refusal> {
        let sealed = match offer::judge(self.running.as_ref(), update)? {
            Offer::Running => return Ok(()),
            Offer::New(sealed) => *sealed,
        };
        self.install.install(&sealed.snapshot)?;
        let Snapshot { id, revision, .. } = *sealed.snapshot;
        if self.running.as_ref().is_some_and(|running| running.snapshot.revision == revision) {
            debug!(version = %id.version, revision, "applied");
        } else {
            info!(version = %id.version, revision, "applied");
        }
        self.good.send_replace(Some(sealed.clone()));
        self.status.send_modify(|status| status.counts.applied += 1);
        self.runs(sealed);
        Ok(())
    }

    fn runs(&mut self, sealed: Sealed) {
        let Snapshot { id, revision, .. } = *sealed.snapshot;
        let running = Running { id, revision, since: clock::wall() };
        self.status.send_modify(|status| status.running = Some(running));
        self.running = Some(sealed);
    }

    fn refuse(&self, update: &v1::Update, refusal: &Refusal) -> v1::Rejected {
        let mut reason = refusal.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let rejection = Rejection {
            snapshot: update.snapshot.as_ref().map(update::parse_snapshot_id).unwrap_or_default(),
            resource: refusal.resource().to_owned(),
            reason: reason.clone(),
            at: clock::wall(),
        };
        let known = |last: &Rejection| {
            last.snapshot == rejection.snapshot && last.reason == rejection.reason
        };
        // A controller that insists is logged once.
        if !self.status.borrow().last_rejection.as_ref().is_some_and(known) {
            let (version, resource) = (rejection.snapshot.version, &rejection.resource);
            warn!(%version, resource, reason, "refused a snapshot; what ran before runs on");
        }
        let resource = rejection.resource.clone();
        self.status.send_modify(|status| {
            status.counts.rejected += 1;
            status.last_rejection = Some(rejection);
        });
        v1::Rejected { snapshot: update.snapshot, resource, reason }
    }

    /// Of what runs; 0 if nothing does.
    fn revision(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.snapshot.revision)
    }

    fn running(&self) -> Option<v1::SnapshotId> {
        self.running.as_ref().map(|running| update::snapshot_id(running.snapshot.id))
    }
}
