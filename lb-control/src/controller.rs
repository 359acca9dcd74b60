//! The one owner of the state, as a pure core: events in, effects out.
//!
//! ```text
//!   Mutate ──► candidate ──► Commit ──► (store) ──► Committed ──► Publish, Announce, Answer
//!   Probed ──► tracker flips ─────────────────────────────────► Publish, Announce, CommitHealth
//!   Proxy  ──► who runs what ─────────────────────────────────► Announce, End
//!         └──► is ahead of this controller ──► Campaign ──► (store) ──► Led ──► Publish
//! ```
//!
//! No I/O, no clock and no random source of its own: [`crate::owner`] performs the effects and
//! brings their results back as events.
//!
//! # Invariants
//!
//! - A change is published and acknowledged only after the store has it. If the store fails,
//!   nothing changed, and nobody is told so before that is known.
//! - One change is written at a time; those behind it wait, and nothing else waits for them.
//! - Who finds that another controller has led meanwhile ends: a change of that one's must not be undone.
//! - What changes nothing is not published, and versions only grow.
//! - What comes in a storm is published together: at once when it was quiet, then once in `PACE`. A change is
//!   acknowledged when it is published.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use lb_common::{
    id::{CertificateName, ProxyId},
    material::{MaterialId, Materials},
    snapshot::{Snapshot, SnapshotId, Version},
    spec::DesiredState,
    telemetry::trace_context::TraceContext,
};
use lb_proto::{MAX_MESSAGE_BYTES, error::Problems, parse, update::Sealed, v1};
use tokio::sync::oneshot;
use v1::event::Event as News;

use crate::{
    acme,
    asked::{Asked, Hand, InForce, Setting},
    desired::Batch,
    health::{
        monitor::{Job, Monitor},
        probe::Finding,
        schedule::TargetId,
    },
    metrics::Counters,
    proxies::{Began, ConnectionId, End, Ended, Hello, Proxies, Refusal, Report, Runs},
    publisher::Publication,
    resolve::resolve,
    store::{Accepted, Head, Revision, StoreError, Stored, Term, Verdict, parts},
    timestamp,
    vault::{Found, Vault},
};

use self::{
    condition::{Condition, Conditions},
    lead::Lead,
    outage::Outage,
    storing::{Kept, Storing},
    tracks::{Now, Tracks},
};

pub use self::keeping::Unwritten;
pub use crate::proxies::Moment;

mod condition;
mod keeping;
pub mod lead;
mod orders;
mod outage;
mod storing;
mod tracks;
mod views;

/// So many changes may wait for the one that is being written,
const MOST_WAITING: usize = 256;
/// and of so many bytes.
const MOST_WAITING_BYTES: usize = 128 * 1024 * 1024;
/// Of the largest message to proxies, in bytes: for what is around the state, and for what comes by itself,
/// like certificates and who is unhealthy.
const ROOM: usize = 4 * 1024 * 1024;
/// So long proxies take to come back at the most, as a rule: they wait up to 5 s between attempts.
const COMING_BACK: Duration = Duration::from_secs(10);
/// Between two publications there is so much time at the least.
pub const PACE: Duration = Duration::from_millis(20);
/// The times of so many publications are kept, to tell how long proxies take for them.
const MOST_PUBLICATIONS: usize = 64;

/// What happened.
pub enum Event {
    Mutate(Box<Mutation>),
    /// Somebody wants to read the state.
    Look(Box<dyn FnOnce(&Controller) + Send>),
    /// [`Effect::Commit`] is through.
    Committed {
        result: Result<(), StoreError>,
        took: Duration,
    },
    /// [`Effect::CommitHealth`] is through.
    HealthCommitted(Result<(), Unwritten<Vec<Verdict>>>),
    /// [`Effect::CommitMaterials`] is through.
    MaterialsCommitted(Result<(), Unwritten<Materials>>),
    /// [`Effect::ProbeStore`] is through.
    StoreProbed {
        number: u64,
        result: Result<Head, StoreError>,
    },
    /// [`Effect::Campaign`] is through.
    Led(Result<Term, StoreError>),
    /// Somebody who read from the store could not.
    StoreFailed(String),
    /// Why the configuration file is not in force, if it is not.
    File {
        problem: Option<String>,
    },
    /// Somebody looked for what the state needs besides itself.
    Found(Found),
    /// The same, and who brings it waits until it is stored.
    Keep {
        materials: Materials,
        kept: Kept,
    },
    /// Something happened to the order of a certificate.
    Ordered {
        certificate: CertificateName,
        what: acme::News,
    },
    Probed {
        id: TargetId,
        /// How long after it was due it was begun.
        late: Duration,
        finding: Finding,
    },
    /// [`Effect::Recall`] is through.
    Recalled {
        revision: u64,
        /// And what that needs; nothing if it could not be read.
        spec: Option<(DesiredState, Materials)>,
    },
    Proxy {
        id: ProxyId,
        connection: ConnectionId,
        said: ProxyEvent,
    },
}

/// What happened to a proxy's connection.
pub enum ProxyEvent {
    Connected {
        hello: Hello,
        end: End,
    },
    Applied {
        snapshot: SnapshotId,
        revision: u64,
    },
    Rejected {
        snapshot: SnapshotId,
        reason: String,
        /// None if it is to be sent the same whole.
        refusal: Option<Refusal>,
    },
    /// What of it does not work there.
    Problems(Vec<v1::Problem>),
    Reported(Report),
    Disconnected,
}

/// What is to be done.
pub enum Effect {
    /// Write to the store; exactly one [`Event::Committed`] follows.
    Commit {
        term: Term,
        /// The last that is there.
        knows: Head,
        accepted: Accepted,
        cause: Option<TraceContext>,
    },
    /// Write to the store; exactly one [`Event::HealthCommitted`] follows.
    CommitHealth {
        term: Term,
        verdicts: Vec<Verdict>,
    },
    /// Write to the store, so that a controller that starts again has them; exactly one
    /// [`Event::MaterialsCommitted`] follows.
    CommitMaterials {
        term: Term,
        materials: Materials,
    },
    /// Look whether the store works; exactly one [`Event::StoreProbed`] follows.
    ProbeStore {
        term: Term,
        /// Each has a higher one.
        number: u64,
    },
    /// Lead for a later epoch, of at least this; exactly one [`Event::Led`] follows.
    Campaign {
        least: u64,
        knows: Head,
    },
    /// End: another controller has led meanwhile, and what is known here is not what is stored.
    Yield(String),
    /// Say so.
    StoreFails(String),
    StoreWorks {
        after: Duration,
    },
    LeadsFor {
        epoch: u64,
    },
    Tell(Vec<Kept>),
    /// Exactly one [`Event::Probed`] follows.
    Probe(Job),
    /// Read from the store what was asked for; exactly one [`Event::Recalled`] follows.
    Recall(u64),
    Publish {
        publication: Box<Publication>,
        cause: Option<TraceContext>,
    },
    Announce(v1::Event),
    Answer(Reply, Result<Applied, Refused>),
    End(End, Ended),
}

/// A change that is asked for.
pub struct Mutation {
    pub change: Change,
    pub expected_revision: Option<u64>,
    pub dry_run: bool,
    pub comment: String,
    /// Who asks, in his own words.
    pub author: String,
    /// Of the configuration file that it comes from.
    pub file_digest: Option<u64>,
    /// What the change needs besides itself, as far as it was there.
    pub found: Found,
    /// Where in a trace it was asked for; handed on with what is done because of it.
    pub cause: Option<TraceContext>,
    pub reply: Reply,
}

pub enum Change {
    Batch(Box<Batch>),
    Set(Setting),
    Undrain { backend_set: String, backend: String },
}

pub type Reply = oneshot::Sender<Result<Applied, Refused>>;

/// The change is in force, or was already.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub revision: u64,
    /// Of a snapshot that has it; so do all later ones.
    pub version: Version,
    pub changes: Vec<v1::Change>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Invalid(#[source] Problems),
    #[error("{0}")]
    NotFound(#[source] Problems),
    #[error("expected_revision: {expected} is not current; the current revision is {current}")]
    Stale { expected: u64, current: u64 },
    #[error("too many changes are waiting for the store already; try again later")]
    Busy,
    #[error("the change could not be stored, and is not in force: {0}")]
    Store(#[source] StoreError),
    #[error(
        "whether the change is stored, and so will be in force, is not known yet: {0}; the history \
         tells it once the store works"
    )]
    Unknown(String),
    #[error(
        "the store fails, and what became of a change before this one is not known yet; this one \
         is not in force, try it again later"
    )]
    Unsettled,
    #[error(
        "the store fails, and this controller is to be written down as the one that leads first; this \
         change is not in force, try it again later"
    )]
    NoLead,
    #[error("the controller is shutting down")]
    Ending,
}

pub struct Controller {
    in_force: InForce,
    revision: u64,
    /// The latest one that changed the spec.
    spec_revision: u64,
    file_digest: Option<u64>,
    file_problem: Option<String>,
    vault: Vault,
    published: Sealed,
    /// From this version on, a snapshot has all of that in it, of whatever track.
    since: Version,
    tracks: Tracks,
    /// Who followed an earlier controller has come by then.
    all_back_at: Instant,
    /// What is to be published.
    unpublished: Option<Unpublished>,
    /// When the latest snapshots were published.
    publications: VecDeque<(SnapshotId, Instant)>,
    writing: Option<Writing>,
    waiting: VecDeque<Mutation>,
    health: Monitor,
    health_changed: bool,
    is_health_written: bool,
    storing: Storing,
    outage: Outage,
    /// So many were begun.
    store_probes: u64,
    lead: Lead,
    orders: acme::Ledger,
    proxies: Proxies,
    counters: Counters,
    effects: Vec<Effect>,
    /// Of the latest [`Controller::apply`]; views are as of then.
    moment: Moment,
}

/// What was decided and is not published yet.
#[derive(Default)]
struct Unpublished {
    cause: Option<TraceContext>,
    /// Who waits for it still, and with which change, if it is one.
    waiting: Vec<(Option<Reply>, Option<v1::Revision>)>,
}

/// A change on its way to the store.
struct Writing {
    /// The next state, unless only the file's digest is new.
    next: Option<Next>,
    file_digest: Option<u64>,
    cause: Option<TraceContext>,
    /// Unless they were told that it is not known what became of it.
    reply: Option<Reply>,
    /// Whether it is stored is not known.
    unknown: Option<Unknown>,
}

struct Unknown {
    error: StoreError,
    since: Instant,
    /// So many probes of the store were begun before, which tell nothing about it.
    probes: u64,
}

struct Next {
    in_force: InForce,
    materials: Option<Materials>,
    /// What was in force when `materials` was made.
    base: Materials,
    about: v1::Revision,
}

// === impl Controller ===

impl Controller {
    /// Goes on from what is stored, with the snapshot to publish first.
    ///
    /// # Errors
    /// If the stored state is not valid.
    pub fn new(
        stored: Stored,
        rng: fastrand::Rng,
        moment: Moment,
    ) -> Result<(Self, Sealed), Problems> {
        let mut problems = Problems::default();
        let overrides = parse::overrides(&stored.state.overrides, &mut problems);
        let spec = parse::desired_state(&stored.state.spec)?;
        let in_force = InForce::new(problems.or(Asked { spec, overrides })?);
        let desired = in_force.state.clone();
        let mut health = Monitor::new(stored.health, rng);
        let mut vault = Vault::new(stored.materials, &desired, moment.wall);
        health.sync(&desired, vault.materials(), moment.now);
        let version = Version { epoch: stored.epoch, version: 1 };
        // Proxies have answered CAs all the while, and are not to stop now.
        for name in desired.certificates.keys() {
            let answers = acme::answers(vault.materials().get(&MaterialId::acme_order(name)));
            vault.answer(&desired, name.clone(), answers);
        }
        let (unhealthy, materials) = (health.unhealthy().clone(), vault.handed_out().clone());
        let content = resolve(&Snapshot::default(), desired.clone(), unhealthy, materials);
        let sealed = Sealed::new(version, stored.revision, content);
        let controller = Self {
            in_force,
            revision: stored.revision,
            spec_revision: stored.revision,
            file_digest: stored.file_digest,
            file_problem: None,
            vault,
            published: sealed.clone(),
            since: version,
            tracks: Tracks::default(),
            all_back_at: moment.now
                + if stored.revision > 0 { COMING_BACK } else { Duration::ZERO },
            unpublished: None,
            publications: [(sealed.snapshot.id, moment.now)].into(),
            writing: None,
            waiting: VecDeque::new(),
            health,
            health_changed: false,
            is_health_written: false,
            storing: Storing::default(),
            outage: Outage::default(),
            store_probes: 0,
            lead: Lead::default(),
            orders: acme::Ledger::default(),
            proxies: Proxies::default(),
            counters: Counters::default(),
            effects: Vec::new(),
            moment,
        };
        Ok((controller, sealed))
    }

    /// Takes what happened and returns what is to be done, in this order. Probes that became due
    /// are started even if nothing happened. Health that changes in one go is published in one go.
    pub fn apply(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        moment: Moment,
    ) -> Vec<Effect> {
        self.moment = moment;
        for event in events {
            match event {
                Event::Mutate(mutation) => self.mutate(*mutation, moment),
                Event::Look(look) => look(self),
                Event::Committed { result, took } => self.committed(result, took, moment),
                Event::HealthCommitted(result) => self.health_committed(result, moment),
                Event::MaterialsCommitted(result) => {
                    let failed = result.err().map(|Unwritten { values, error }| {
                        self.store_failed(&error, moment);
                        values
                    });
                    let kept = self.storing.done(failed.unwrap_or_default());
                    self.tell(kept);
                    self.go_on(moment);
                }
                Event::File { problem } => self.file_problem = problem,
                Event::StoreProbed { number, result } => {
                    self.store_probed(number, result, moment);
                }
                Event::Led(result) => self.led(result, moment),
                Event::StoreFailed(why) => self.store_fails(why, moment),
                Event::Found(found) => self.found(found, moment),
                Event::Keep { materials, kept } => {
                    self.storing.ask(kept);
                    self.found(Found { materials, ..Found::default() }, moment);
                }
                Event::Ordered { certificate, what } => self.ordered(certificate, what),
                Event::Probed { id, late, finding } => {
                    self.counters.probe_lateness.observe(late);
                    self.counters.probes_took.observe(finding.took);
                    self.probed(id, finding, moment);
                }
                Event::Recalled { revision, spec } => {
                    self.tracks.recalled(revision);
                    if let Some((spec, materials)) = spec {
                        self.tracks.begin(revision, spec, materials);
                        self.publish(None);
                    }
                }
                Event::Proxy { id, connection, said } => self.proxy(&id, connection, said, moment),
            }
        }
        let health_changed = std::mem::take(&mut self.health_changed);
        if health_changed {
            self.publish(None);
        }
        self.publish_if_due(moment);
        if health_changed {
            self.store_health();
        }
        self.attend_store(moment);
        while let Some(job) = self.health.start(moment.now) {
            self.effects.push(Effect::Probe(job));
        }
        std::mem::take(&mut self.effects)
    }

    /// No more probes than this are made at a time.
    pub fn set_room_for_probes(&mut self, room: usize) {
        self.health.set_room(room);
    }

    /// When [`Controller::apply`] is to be called even if nothing happens before.
    pub fn next_due(&self) -> Option<Instant> {
        let publish = self.unpublished.as_ref().map(|_| self.next_publication());
        [publish, self.health.next_due(), self.store_due()].into_iter().flatten().min()
    }

    /// Whether something is to be published in a moment.
    pub fn has_unpublished(&self) -> bool {
        self.unpublished.is_some()
    }

    fn next_publication(&self) -> Instant {
        self.publications.front().map_or(self.moment.now, |(_, at)| *at + PACE)
    }

    fn mutate(&mut self, mutation: Mutation, moment: Moment) {
        if mutation.dry_run || self.may_begin() {
            self.begin(mutation, moment);
        } else if self.is_stuck() {
            self.refuse_stuck(mutation.reply);
        } else if self.has_room_for(&mutation) {
            self.waiting.push_back(mutation);
        } else {
            self.answer(mutation.reply, Err(Refused::Busy));
        }
    }

    /// Nothing is to be changed; but what there is may not be published yet.
    fn answer_unchanged(&mut self, reply: Reply) {
        if let Some(unpublished) = &mut self.unpublished {
            return unpublished.waiting.push((Some(reply), None));
        }
        let (revision, version) = (self.revision, self.since);
        let applied = Applied { revision, version, changes: Vec::new() };
        self.effects.push(Effect::Answer(reply, Ok(applied)));
    }

    fn has_room_for(&self, mutation: &Mutation) -> bool {
        let bytes = |mutation: &Mutation| match &mutation.change {
            Change::Batch(batch) => batch.bytes(),
            Change::Set(_) | Change::Undrain { .. } => 0,
        };
        let waiting: usize = self.waiting.iter().map(bytes).sum();
        self.waiting.len() < MOST_WAITING && waiting + bytes(mutation) <= MOST_WAITING_BYTES
    }

    fn begin(&mut self, mutation: Mutation, moment: Moment) {
        let Mutation { dry_run, file_digest, .. } = &mutation;
        let candidate = self.candidate(&mutation, moment);
        let (in_force, materials) = match candidate {
            Ok(candidate) => candidate,
            Err(refused) => return self.answer(mutation.reply, Err(refused)),
        };
        // A file is remembered even if it changes nothing, lest it undo later changes when the
        // controller starts again.
        let new_file = file_digest.is_some() && *file_digest != self.file_digest;
        let parts = parts(&self.in_force.asked, &in_force.asked);
        let changes = self.in_force.changes_to(&in_force);
        let is_same = parts.is_empty();
        if *dry_run {
            self.counters.count_apply("dry_run");
            let applied = Applied { revision: self.revision, version: self.since, changes };
            return self.effects.push(Effect::Answer(mutation.reply, Ok(applied)));
        }
        if is_same && !new_file {
            self.counters.count_apply("unchanged");
            return self.answer_unchanged(mutation.reply);
        }
        let Mutation { comment, author, file_digest, cause, reply, .. } = mutation;
        let revision = (!is_same).then(|| {
            let time = Some(timestamp(moment.wall));
            let about =
                v1::Revision { revision: self.revision + 1, time, comment, changes, author };
            Box::new(Revision { about, parts })
        });
        let next = revision.as_ref().map(|revision| Next {
            in_force,
            materials: materials.clone(),
            base: self.vault.materials().clone(),
            about: revision.about.clone(),
        });
        let accepted = Accepted { revision, materials, file_digest };
        let (term, knows) = (self.term(), self.head());
        self.effects.push(Effect::Commit { term, knows, accepted, cause });
        let reply = Some(reply);
        self.writing = Some(Writing { next, file_digest, cause, reply, unknown: None });
    }

    /// What a change leads to, and what that needs.
    fn candidate(
        &self,
        mutation: &Mutation,
        moment: Moment,
    ) -> Result<(InForce, Option<Materials>), Refused> {
        if let Some(expected) = mutation.expected_revision
            && expected != self.revision
        {
            return Err(Refused::Stale { expected, current: self.revision });
        }
        let asked = &self.in_force.asked;
        let hand = Hand { author: &mutation.author, time: moment.wall };
        let next = match &mutation.change {
            Change::Batch(batch) => batch.onto(asked).map_err(Refused::Invalid)?,
            Change::Set(setting) => asked.set(setting, hand).map_err(Refused::NotFound)?,
            Change::Undrain { backend_set, backend } => {
                asked.undrain(backend_set, backend, hand).map_err(Refused::NotFound)?
            }
        };
        let in_force = self.in_force.followed_by(next);
        let materials = self
            .vault
            .admit(&self.in_force.state, &in_force.state, &mutation.found, moment.wall)
            .map_err(Refused::Invalid)?;
        self.fits(&in_force).map_err(Refused::Invalid)?;
        Ok((in_force, materials))
    }

    /// Whether a proxy can be sent all of it in one message.
    fn fits(&self, next: &InForce) -> Result<(), Problems> {
        let (unhealthy, materials) = (self.health.unhealthy(), self.vault.handed_out());
        let former = &self.published.snapshot;
        let content = resolve(former, next.state.clone(), unhealthy.clone(), materials.clone());
        let sealed = self.published.followed_by(former.id.version, self.revision, content);
        let (size, most) = (sealed.resources.encoded_len(), MAX_MESSAGE_BYTES - ROOM);
        let mut problems = Problems::default();
        if size > most {
            let is = format!("takes {size} bytes on its way to a proxy, and {most} is the most");
            problems.add("the state as a whole", format!("{is}; make it smaller"));
        }
        problems.or(())
    }

    fn committed(&mut self, result: Result<(), StoreError>, took: Duration, moment: Moment) {
        self.counters.commits.observe(took);
        match result {
            Ok(()) => self.store_worked(moment),
            Err(error) => {
                self.store_failed(&error, moment);
                if let StoreError::Unknown { .. } = error {
                    return self.unknown(error, moment);
                }
                return self.conclude(Err(error), moment);
            }
        }
        self.conclude(Ok(()), moment);
    }

    /// What became of the change that was written is known.
    fn conclude(&mut self, result: Result<(), StoreError>, moment: Moment) {
        let Some(Writing { next, file_digest, cause, reply, .. }) = self.writing.take() else {
            return self.go_on(moment);
        };
        let error = match (result, next) {
            (Err(error), _) => error,
            (Ok(()), None) => {
                self.file_digest = file_digest.or(self.file_digest);
                if let Some(reply) = reply {
                    self.answer_unchanged(reply);
                }
                return self.go_on(moment);
            }
            (Ok(()), Some(next)) => {
                self.file_digest = file_digest.or(self.file_digest);
                return self.advance(next, cause, reply, moment);
            }
        };
        if let Some(reply) = reply {
            self.answer(reply, Err(Refused::Store(error)));
        }
        self.go_on(moment);
    }

    /// Puts a stored change in force.
    fn advance(
        &mut self,
        next: Next,
        cause: Option<TraceContext>,
        reply: Option<Reply>,
        moment: Moment,
    ) {
        let Next { in_force, materials, base, about } = next;
        let handed_out = self.vault.handed_out().clone();
        self.vault.advance(&in_force.state, materials, &base, moment.wall);
        self.orders.retain(&in_force.state);
        let former = std::mem::replace(&mut self.in_force, in_force);
        let former_spec = former.asked.spec;
        self.tracks.was_current(self.revision, former_spec.clone(), handed_out);
        self.revision = about.revision;
        if self.in_force.asked.spec != former_spec {
            self.spec_revision = self.revision;
        }
        self.sync_health(moment);
        self.publish(cause).waiting.push((reply, Some(about)));
        self.go_on(moment);
    }

    /// Probes what there is now, as it is to be asked now.
    fn sync_health(&mut self, moment: Moment) {
        self.health.sync(&self.in_force.state, self.vault.materials(), moment.now);
        self.tell_of_health(moment);
        self.store_health();
    }

    /// What holds now is to be published.
    fn publish(&mut self, cause: Option<TraceContext>) -> &mut Unpublished {
        let unpublished = self.unpublished.get_or_insert_default();
        unpublished.cause = cause.or(unpublished.cause.take());
        unpublished
    }

    fn publish_if_due(&mut self, moment: Moment) {
        if moment.now < self.next_publication() {
            return;
        }
        let Some(Unpublished { cause, waiting }) = self.unpublished.take() else { return };
        self.publish_now(cause);
        for (reply, about) in waiting {
            let (revision, changes) = match about {
                Some(about) => {
                    let done = (about.revision, about.changes.clone());
                    self.announce(News::Revision(about), moment);
                    done
                }
                None => (self.revision, Vec::new()),
            };
            if let Some(reply) = reply {
                self.answer(reply, Ok(Applied { revision, version: self.since, changes }));
            }
        }
    }

    /// Publishes what holds now, unless that is what was published last.
    fn publish_now(&mut self, cause: Option<TraceContext>) {
        self.publish_from(self.current().version, cause);
    }

    /// The same, behind that version. For another epoch it is published in any case.
    fn publish_from(&mut self, mut version: Version, cause: Option<TraceContext>) {
        let former = self.current();
        let (unhealthy, materials) = (self.health.unhealthy(), self.vault.handed_out());
        let now = Now { in_force: &self.in_force.state, unhealthy, materials };
        self.tracks.retain(|revision| self.proxies.is_followed(revision));
        let have_tracks_news = self.tracks.turn(now);
        let content = resolve(
            &self.published.snapshot,
            self.in_force.state.clone(),
            unhealthy.clone(),
            materials.clone(),
        );
        let sealed = self.published.followed_by(version, self.revision, content);
        // A revision that changes nothing in force is known to proxies all the same.
        let is_news = sealed.snapshot.id.digest != former.digest
            || self.published.snapshot.revision != self.revision;
        if is_news || have_tracks_news || version.epoch != former.version.epoch {
            self.since = Version { version: version.version + 1, ..version };
            let of_tracks = self.tracks.date(&mut version);
            // What is current is the latest of all, so that whoever is on a track can be offered it.
            version.version += 1;
            let sealed = sealed.dated(version);
            self.published = sealed.clone();
            self.counters.publications += 1;
            for id in of_tracks.into_iter().chain([self.current()]) {
                self.publications.truncate(MOST_PUBLICATIONS - 1);
                self.publications.push_front((id, self.moment.now));
            }
            let (spec, tracks) = (self.spec_revision, self.tracks.sealed());
            let publication = Box::new(Publication { current: sealed, spec, tracks });
            self.effects.push(Effect::Publish { publication, cause });
        }
    }

    /// A proxy goes on with a revision that is not the current one.
    fn follow(&mut self, revision: u64) {
        if revision == self.revision || self.tracks.has(revision) {
            return;
        }
        match self.tracks.begin_recent(revision) {
            true => drop(self.publish(None)),
            false if self.tracks.recall(revision) => {
                self.effects.push(Effect::Recall(revision));
            }
            false => {}
        }
    }

    /// What proxies are to run.
    fn current(&self) -> SnapshotId {
        self.published.snapshot.id
    }

    fn published_at(&self, id: SnapshotId) -> Option<Instant> {
        let found = self.publications.iter().find(|(published, _)| *published == id);
        found.map(|(_, at)| *at)
    }

    /// When the first snapshot after this one was published, as far back as that is known: a proxy
    /// that is stuck lags from then on, however many more are published.
    fn overtaken_at(&self, running: Option<SnapshotId>) -> Instant {
        let newer =
            self.publications.iter().take_while(|(published, _)| Some(*published) != running);
        newer.last().map_or(self.moment.now, |(_, at)| *at)
    }

    /// What is new and of use is in force at once: it is no change of what was asked for.
    fn found(&mut self, found: Found, moment: Moment) {
        let before = self.conditions();
        let fresh = self.vault.find(&self.in_force.state, found, moment.wall);
        let after = self.conditions();
        for change in condition::changes(&before, &after) {
            self.announce(News::Certificate(change), moment);
        }
        let is_news = !fresh.is_empty();
        self.storing.put(fresh);
        self.store_materials();
        if is_news {
            self.sync_health(moment);
            self.publish(None);
        }
    }

    fn tell(&mut self, kept: Vec<Kept>) {
        if !kept.is_empty() {
            self.effects.push(Effect::Tell(kept));
        }
    }

    fn ordered(&mut self, certificate: CertificateName, what: acme::News) {
        let challenges = self.orders.take(&certificate, what);
        if let Some(challenges) = challenges
            && self.vault.answer(&self.in_force.state, certificate, challenges)
        {
            self.publish(None);
        }
    }

    /// What files are to be looked at.
    pub fn files(&self) -> Vec<MaterialId> {
        self.vault.files(&self.in_force.state)
    }

    /// What was found and is of no use yet: it may be by and by.
    pub fn waiting(&self) -> Vec<MaterialId> {
        self.vault.waiting().cloned().collect()
    }

    fn conditions(&self) -> Conditions {
        let of_certificates = self.vault.certificates().map(|(name, status)| {
            let fingerprint = status.facts.as_ref().map(|facts| facts.fingerprint.clone());
            (name.to_string(), Condition { fingerprint, problem: status.problem.clone() })
        });
        let of_cas = self.vault.broken_cas().iter().map(|(path, why)| {
            (path.clone(), Condition { fingerprint: None, problem: Some(why.clone()) })
        });
        of_certificates.chain(of_cas).collect()
    }

    /// What is in force besides the state.
    pub fn materials(&self) -> &Materials {
        self.vault.materials()
    }

    fn probed(&mut self, id: TargetId, finding: Finding, moment: Moment) {
        if self.health.observe(id, finding, moment.now, moment.wall) {
            self.health_changed = true;
            self.tell_of_health(moment);
        }
    }

    fn tell_of_health(&mut self, moment: Moment) {
        for news in self.health.news() {
            self.announce(news, moment);
        }
    }

    fn proxy(&mut self, id: &ProxyId, connection: ConnectionId, said: ProxyEvent, moment: Moment) {
        let news = |what: &str, snapshot: Option<SnapshotId>, reason: String| {
            let SnapshotId { version, digest } = snapshot.unwrap_or_default();
            News::Proxy(v1::ProxyChanged {
                proxy_id: id.to_string(),
                what: what.into(),
                epoch: version.epoch,
                version: version.version,
                hash: snapshot.map(|_| digest.to_string()).unwrap_or_default(),
                reason,
            })
        };
        let news = match said {
            ProxyEvent::Connected { hello, end } => {
                let running = hello.running;
                if let Some(running) = running {
                    self.lead.hello(running, self.current(), moment.wall);
                }
                let ended = self.proxies.connect(id, (connection, end), hello, moment);
                let refused = matches!(ended, Some((_, Ended::TooMany)));
                self.effects.extend(ended.map(|(end, why)| Effect::End(end, why)));
                (!refused).then(|| news("connected", running, String::new()))
            }
            ProxyEvent::Applied { snapshot, revision } => {
                let is_current = !self.tracks.has(revision);
                let runs = Runs { snapshot, revision, is_current };
                let began = self.proxies.applied(id, connection, runs, moment.wall);
                if let Some(Began::New { connected }) = began
                    && let Some(published) = self.published_at(snapshot)
                {
                    // It cannot have it before it is there.
                    self.counters.pushes.observe(moment.now - published.max(connected));
                }
                began.map(|_| news("applied", Some(snapshot), String::new()))
            }
            ProxyEvent::Rejected { snapshot, reason, refusal } => {
                let is_news = self.proxies.rejected(id, connection, &reason, refusal);
                if let Some(Refusal { runs, .. }) = refusal.filter(|refusal| refusal.runs > 0)
                    && is_news
                {
                    self.follow(runs);
                }
                is_news.then(|| {
                    self.counters.proxy_rejections += 1;
                    news("rejected", Some(snapshot), reason)
                })
            }
            ProxyEvent::Problems(problems) => {
                let told = self.proxies.problems(id, connection, problems);
                told.map(|why| match why.is_empty() {
                    true => news("mended", None, why),
                    false => news("problems", None, why),
                })
            }
            ProxyEvent::Reported(report) => {
                self.proxies.report(id, connection, report, moment.now);
                None
            }
            ProxyEvent::Disconnected => self
                .proxies
                .disconnect(id, connection, moment)
                .then(|| news("disconnected", None, String::new())),
        };
        if let Some(news) = news {
            self.announce(news, moment);
        }
    }

    fn announce(&mut self, news: News, moment: Moment) {
        let time = Some(timestamp(moment.wall));
        self.effects.push(Effect::Announce(v1::Event { time, event: Some(news) }));
    }

    fn answer(&mut self, reply: Reply, result: Result<Applied, Refused>) {
        self.counters.count_apply(match &result {
            Ok(_) => "accepted",
            Err(Refused::Invalid(_)) => "invalid",
            Err(Refused::NotFound(_)) => "not_found",
            Err(Refused::Stale { .. }) => "stale",
            Err(Refused::Busy) => "busy",
            Err(
                Refused::Store(_)
                | Refused::Unknown(_)
                | Refused::Unsettled
                | Refused::NoLead
                | Refused::Ending,
            ) => "store_failed",
        });
        self.effects.push(Effect::Answer(reply, result));
    }
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
