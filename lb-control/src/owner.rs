//! The shell around the [`Controller`]: one task that feeds it events and performs its effects,
//! and the [`Handle`] that everybody else has of it.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use futures_util::Stream;
use lb_common::{
    clock,
    map::changes,
    material::MaterialId,
    spec::{DesiredState, UNVERIFIED},
    telemetry::{sampling::Ratio, span::context_of, trace_context::TraceContext},
};
use lb_proto::{parse, update::Sealed, v1};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    backup::{BackupError, Backups},
    controller::{
        Applied, Change, Controller, Effect, Event, Moment, Mutation, PACE, Refused, Unwritten,
    },
    desired::Batch,
    files,
    health::prober::{Probed, Prober},
    news::News,
    publisher::Publisher,
    store::{Store, StoreError, StoredState},
    trace,
    vault::Found,
};

/// So many events wait for the owner; whoever brings more waits with them.
const INBOX: usize = 1024;
/// So many events are applied in one go.
const BATCH: usize = 256;

/// How to reach the controller. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    events: mpsc::Sender<Event>,
    news: News,
    publisher: Arc<Publisher>,
    store: Arc<dyn Store>,
    /// None without a data directory.
    backups: Option<Arc<Backups>>,
    trace_ratio: Option<Ratio>,
}

/// The running owner.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Option<Failed>>,
}

/// Why an owner ended by itself.
#[derive(Debug)]
pub enum Failed {
    /// A part of it did, which is a bug; the log says where.
    Core,
    /// Another controller has led meanwhile: how that was found out.
    Overtaken(String),
}

/// How a change is to be made.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    pub expected_revision: Option<u64>,
    pub dry_run: bool,
    pub comment: String,
    /// Who asks for it, in his own words.
    pub author: String,
    pub file_digest: Option<u64>,
    /// Where in a trace it is asked for.
    pub cause: Option<TraceContext>,
}

struct Owner {
    controller: Controller,
    inbox: mpsc::Receiver<Event>,
    news: News,
    publisher: Arc<Publisher>,
    store: Arc<dyn Store>,
    prober: Prober,
    writes: JoinSet<Event>,
    /// The state that was looked at for what is unwise in it.
    warned_of: DesiredState,
    /// Why it is to end, if it is.
    overtaken: Option<String>,
}

/// Starts the owner; `first` is published already when this returns. `trace_ratio` says how many of
/// the calls that come without a trace begin one.
pub fn spawn(
    controller: Controller,
    first: Sealed,
    store: Arc<dyn Store>,
    prober: Prober,
    backups: Option<Backups>,
    trace_ratio: Option<Ratio>,
) -> (Handle, Running) {
    let warned_of = first.snapshot.desired.clone();
    warn(&DesiredState::default(), &warned_of);
    let (events, inbox) = mpsc::channel(INBOX);
    let (stop, stopped) = oneshot::channel();
    let handle = Handle {
        events,
        news: News::new(),
        publisher: Arc::new(Publisher::new(first)),
        store,
        backups: backups.map(Arc::new),
        trace_ratio,
    };
    let owner = Owner {
        controller,
        inbox,
        news: handle.news.clone(),
        publisher: Arc::clone(&handle.publisher),
        store: Arc::clone(&handle.store),
        prober,
        writes: JoinSet::new(),
        warned_of,
        overtaken: None,
    };
    (handle, Running { stop, task: tokio::spawn(owner.run(stopped)) })
}

// === impl Handle ===

impl Handle {
    /// Asks for a change and waits until it is in force.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn mutate(&self, change: Change, terms: Terms) -> Result<Applied, Refused> {
        let Terms { expected_revision, dry_run, comment, author, file_digest, cause } = terms;
        let found = match &change {
            Change::Batch(batch) => self.find(batch).await.map_err(Refused::Store)?,
            Change::Set(_) | Change::Undrain { .. } => Found::default(),
        };
        let (reply, answer) = oneshot::channel();
        let mutation = Mutation {
            change,
            expected_revision,
            dry_run,
            comment,
            author,
            file_digest,
            found,
            cause,
            reply,
        };
        self.send(Event::Mutate(Box::new(mutation))).await?;
        answer.await.unwrap_or(Err(Refused::Ending))
    }

    /// What the batch needs besides itself: it has keys itself, files have others, and the store has what
    /// was given or issued before.
    async fn find(&self, batch: &Batch) -> Result<Found, StoreError> {
        let (ids, keys) = (batch.materials(), batch.keys().clone());
        if ids.is_empty() {
            return Ok(Found::default());
        }
        let nowhere_else: Vec<_> = ids.iter().filter(|id| id.is_nowhere_else()).cloned().collect();
        let mut found = read(ids).await;
        if !nowhere_else.is_empty() {
            found.materials.extend(self.told(self.store.materials(nowhere_else).await).await?);
        }
        found.materials.extend(keys);
        Ok(found)
    }

    /// The controller hears of a store that fails from whoever notices.
    async fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result
            && error.is_outage()
        {
            // One that ends looks after no store any more.
            let _ = self.send(Event::StoreFailed(error.to_string())).await;
        }
        result
    }

    /// Reads the state.
    ///
    /// # Errors
    /// If the controller is ending.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Controller) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Look(Box::new(move |controller| {
            // Who asked may have left.
            let _ = reply.send(look(controller));
        })))
        .await?;
        answer.await.map_err(|_| Refused::Ending)
    }

    /// # Errors
    /// If the controller is ending.
    pub async fn send(&self, event: Event) -> Result<(), Refused> {
        self.events.send(event).await.map_err(|_| Refused::Ending)
    }

    /// As [`Store::history`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn history(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<v1::Revision>, StoreError> {
        self.told(self.store.history(before, limit).await).await
    }

    /// As [`Store::state`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn state(&self, revision: u64) -> Result<StoredState, StoreError> {
        self.told(self.store.state(revision).await).await
    }

    /// Writes a backup of all that is stored into the data directory.
    ///
    /// # Errors
    /// If there is none, or if it cannot be read or written.
    pub async fn back_up(&self) -> Result<v1::BackupResponse, BackupError> {
        let backups = self.backups.as_ref().ok_or(BackupError::NoDirectory)?;
        backups.write(async { self.told(self.store.contents().await).await }).await
    }

    /// What happens from now on.
    pub fn watch(&self) -> impl Stream<Item = v1::Event> + Send + 'static {
        self.news.watch()
    }

    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub fn trace_ratio(&self) -> Option<Ratio> {
        self.trace_ratio
    }
}

// === impl Running ===

impl Running {
    /// Ends the owner once what it is writing is written.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }

    /// Completes only if the owner fails, or the thread that makes its probes, or if another controller
    /// leads.
    pub async fn failed(&mut self) -> Failed {
        (&mut self.task).await.ok().flatten().unwrap_or(Failed::Core)
    }
}

// === impl Owner ===

impl Owner {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Option<Failed> {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            let due = self.controller.next_due();
            tokio::select! {
                _ = &mut stopped => break,
                _ = self.inbox.recv_many(&mut events, BATCH) => {}
                Some(done) = self.writes.join_next() => events.extend(done),
                // Outcomes that came together are published together.
                probed = self.prober.probed() => match probed {
                    Some(probed) => events.extend(probed.into_iter().map(probed_event)),
                    None => {
                        tracing::error!("the thread that makes probes has failed");
                        return Some(Failed::Core);
                    }
                },
                () = sleep_until(due) => {}
            }
            self.turn(events.drain(..));
            if let Some(how) = self.overtaken {
                return Some(Failed::Overtaken(how));
            }
        }
        self.inbox.close();
        while let Some(done) = self.writes.join_next().await {
            self.turn(done);
        }
        // Who waits for what is stored hears of it.
        if self.controller.has_unpublished() {
            tokio::time::sleep(PACE).await;
            self.turn([]);
        }
        None
    }

    fn turn(&mut self, events: impl IntoIterator<Item = Event>) {
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        for effect in self.controller.apply(events, moment) {
            self.perform(effect);
        }
    }

    /// Whoever is told something may have left; that is no error.
    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Commit { term, knows, accepted, cause } => {
                let store = Arc::clone(&self.store);
                let span = trace::commit(cause);
                self.writes.spawn(async move {
                    let started = clock::now();
                    let result = store.commit(term, knows, accepted).await;
                    if let Err(error) = &result {
                        tracing::error!(%error, "a change could not be stored");
                        trace::failed(&span, error);
                    }
                    drop(span);
                    Event::Committed { result, took: clock::now() - started }
                });
            }
            Effect::CommitHealth { term, verdicts } => {
                let store = Arc::clone(&self.store);
                self.writes.spawn(async move {
                    let result = store.put_verdicts(term, verdicts.clone()).await;
                    let unwritten = |error| Unwritten { values: verdicts, error };
                    Event::HealthCommitted(result.map_err(unwritten))
                });
            }
            Effect::CommitMaterials { term, materials } => {
                let store = Arc::clone(&self.store);
                self.writes.spawn(async move {
                    let result = store.put_materials(term, materials.clone()).await;
                    let unwritten = |error| Unwritten { values: materials, error };
                    Event::MaterialsCommitted(result.map_err(unwritten))
                });
            }
            Effect::ProbeStore { term, number } => {
                let store = Arc::clone(&self.store);
                self.writes.spawn(async move {
                    Event::StoreProbed { number, result: store.probe(term).await }
                });
            }
            Effect::Campaign { least, knows } => {
                let store = Arc::clone(&self.store);
                let campaign = async move { store.campaign(least, Some(knows)).await };
                self.writes.spawn(async move { Event::Led(campaign.await) });
            }
            Effect::Yield(how) => self.overtaken = Some(how),
            Effect::StoreFails(why) => {
                tracing::error!(why, "the store fails; proxies are served all the same");
            }
            Effect::StoreWorks { after } => tracing::info!(?after, "the store works again"),
            Effect::LeadsFor { epoch } => {
                tracing::info!(
                    epoch,
                    "this controller leads for a later epoch, for what a proxy runs or because the store works now"
                );
            }
            Effect::Tell(kept) => {
                for kept in kept {
                    let _ = kept.send(());
                }
            }
            Effect::Probe(job) => self.prober.probe(job),
            Effect::Recall(revision) => {
                let store = Arc::clone(&self.store);
                self.writes.spawn(async move { recall(&*store, revision).await });
            }
            Effect::Publish { publication, cause } => {
                let snapshot = &publication.current.snapshot;
                let former = std::mem::replace(&mut self.warned_of, snapshot.desired.clone());
                warn(&former, &snapshot.desired);
                let span = trace::publish(cause, snapshot.id, snapshot.revision);
                self.publisher.publish(*publication, context_of(&span));
            }
            Effect::Announce(event) => {
                log(&event);
                self.news.tell(event);
            }
            Effect::Answer(reply, result) => {
                let _ = reply.send(result);
            }
            Effect::End(end, why) => {
                let _ = end.send(why);
            }
        }
    }
}

/// What was asked for at a revision.
async fn recall(store: &dyn Store, revision: u64) -> Event {
    let read = async {
        let unreadable = |error: StoreError| error.to_string();
        let StoredState { spec, .. } = store.state(revision).await.map_err(unreadable)?;
        let spec = parse::desired_state(&spec).map_err(|problems| problems.to_string())?;
        let needed = spec.materials_of_proxies().into_iter().collect();
        let materials = store.materials(needed).await.map_err(unreadable)?;
        Ok((spec, materials))
    };
    let spec: Result<_, String> = read.await;
    if let Err(error) = &spec {
        let what = "a proxy stays on an earlier revision, which cannot be read, and so gets no news of backends and health";
        tracing::error!(revision, %error, "{what}");
    }
    Event::Recalled { revision, spec: spec.ok() }
}

/// What is in those that are files, read off the runtime's threads.
async fn read(ids: BTreeSet<MaterialId>) -> Found {
    tokio::task::spawn_blocking(move || files::read(&ids)).await.unwrap_or_default()
}

fn probed_event(Probed { id, late, finding }: Probed) -> Event {
    Event::Probed { id, late, finding }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn warn(former: &DesiredState, desired: &DesiredState) {
    let changed = changes(&former.backend_sets, &desired.backend_sets);
    for set in changed.filter_map(|change| change.new).filter(|set| set.is_unverified()) {
        tracing::warn!(backend_set = %set.name, "{UNVERIFIED}");
    }
}

fn log(event: &v1::Event) {
    use v1::event::Event;
    match &event.event {
        Some(Event::Revision(v1::Revision { revision, comment, changes, .. })) => {
            tracing::info!(revision, comment, changes = changes.len(), "change accepted");
        }
        Some(Event::Health(change)) => {
            let v1::HealthChanged { backend_set, backend, why, held, .. } = change;
            let health = change.health().as_str_name();
            tracing::info!(backend_set, backend, health, why, held, "health decided");
        }
        Some(Event::Proxy(v1::ProxyChanged { proxy_id, what, epoch, version, reason, .. })) => {
            match what.as_str() {
                "rejected" | "problems" => {
                    tracing::warn!(proxy_id, epoch, version, reason, "proxy {what}");
                }
                "applied" => tracing::debug!(proxy_id, epoch, version, "proxy {what}"),
                _ => tracing::info!(proxy_id, epoch, version, "proxy {what}"),
            }
        }
        Some(Event::Certificate(v1::CertificateChanged { name, what, why })) => match what.as_str()
        {
            "problem" => tracing::warn!(name, why, "what was found is not in force"),
            "mended" => tracing::info!(name, "what is wrong with it no more is in force"),
            _ => tracing::info!(name, why, "another certificate is in force"),
        },
        Some(Event::Checks(v1::ChecksChanged { what, backend_set, why })) => match what.as_str() {
            "held" => tracing::warn!(backend_set, why, "not all that fail their checks are out"),
            _ => tracing::info!(backend_set, "checks are acted upon again"),
        },
        Some(Event::Missed(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redb::Redb;

    #[tokio::test]
    async fn the_owner_fails_when_its_probes_can_be_made_no_more() {
        let store = Redb::in_memory().expect("opens");
        store.campaign(1, None).await.expect("begins");
        let stored = store.load().await.expect("loads");
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        let (controller, first) = Controller::new(stored, fastrand::Rng::with_seed(1), moment)
            .expect("there is nothing in it");
        let (store, prober) = (Arc::new(store), Prober::failed());
        let (handle, mut running) = spawn(controller, first, store, prober, None, None);
        assert!(matches!(running.failed().await, Failed::Core));
        assert!(matches!(handle.look(|_| ()).await, Err(Refused::Ending)));
    }

    #[tokio::test]
    async fn a_controller_that_another_one_overtook_ends_and_says_so() {
        let store = Redb::in_memory().expect("opens");
        store.campaign(1, None).await.expect("begins");
        let stored = store.load().await.expect("loads");
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        let (controller, first) = Controller::new(stored, fastrand::Rng::with_seed(1), moment)
            .expect("there is nothing in it");
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let prober = Prober::start(crate::health::prober::Share::of(1_000)).expect("a thread");
        let (handle, mut running) = spawn(controller, first, shared, prober, None, None);
        store.campaign(1, None).await.expect("another one leads");
        let set = v1::BackendSet { name: "new".into(), ..<_>::default() };
        let request = v1::ApplyRequest { backend_sets: vec![set], ..<_>::default() };
        let batch = Batch::parse(request).expect("is valid");
        let change = Change::Batch(Box::new(batch));
        let refused = handle.mutate(change, Terms::default()).await.expect_err("it leads no more");
        assert!(matches!(refused, Refused::Store(StoreError::Fenced { .. })), "{refused}");
        let Failed::Overtaken(how) = running.failed().await else { panic!("it did not fail") };
        assert_eq!(
            how,
            "another controller leads, for epoch 2, and this one led for 1; ask that one"
        );
    }
}
