//! Random histories of a fleet against the [`model`]: changes of all sorts, backends that fail, a disk that
//! does, connections that end, messages that are slow, proxies and controllers that start again with clocks
//! that jump. The controller, its store, what is published, the sessions and what is sent are the real ones;
//! time, the order of things and who refuses what are drawn from a seed.
//!
//! At every step: what was acknowledged is stored, what is refused is not, and what is published is what
//! the model makes of the revision. Whenever it becomes quiet: what the controller shows, and what each
//! proxy runs, is what the model says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use fastrand::Rng;
use lb_common::{
    id::ProxyId,
    snapshot::{Snapshot, SnapshotId},
    spec::BackendState,
};
use lb_proto::{
    update::{self, Sealed},
    v1,
};
use tokio::{runtime::Runtime, sync::oneshot};

use super::{
    model::{self, Ask, BACKENDS, Backend, Backends, Model, ODD, Out, ROUTES, SETS, Spec},
    *,
};
use crate::{
    asked::To,
    health::{Outcome, probe::Finding},
    publisher::Publisher,
    session::{Next as Sending, Session},
    store::{Store, redb::Redb},
};

/// So many are run; `LB_TEST_HISTORIES` says how many instead, and `LB_TEST_SEED` which is the first.
const HISTORIES: u64 = 100;
const STEPS: usize = 120;
const PROXIES: usize = 3;
/// Longer than a proxy is left alone with what it refused.
const QUIET: Duration = Duration::from_secs(200);

#[test]
fn what_is_shown_and_run_after_any_history_is_what_the_model_says() {
    let number = |name| {
        let given: Option<u64> =
            std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        given
    };
    let first = number("LB_TEST_SEED").unwrap_or(0);
    let histories = number("LB_TEST_HISTORIES").unwrap_or(HISTORIES);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("can be made");
    for seed in first..first + histories {
        let mut world = World::new(seed, &runtime);
        for step in 0..STEPS {
            world.step();
            if step % 40 == 39 {
                world.rest();
            }
        }
    }
}

struct World<'a> {
    seed: u64,
    rng: Rng,
    runtime: &'a Runtime,
    store: Redb,
    now: Instant,
    wall: Duration,
    controller: Controller,
    publisher: Publisher,
    /// To be done, in any order.
    writes: Vec<Write>,
    probes: Vec<Job>,
    proxies: Vec<Proxy>,
    connections: u64,
    /// The disk takes nothing while it is broken.
    is_disk_broken: bool,
    /// Nothing goes wrong any more, and nothing is asked for.
    is_resting: bool,
    fails: BTreeMap<String, bool>,
    /// By revision, as the store has them.
    models: BTreeMap<u64, Model>,
    file_digest: Option<u64>,
    asks: Vec<Asking>,
}

/// Something asked for.
struct Asking {
    ask: Ask,
    digest: Option<u64>,
    /// The last revision before.
    after: u64,
    /// The revision that it became.
    stored: Option<u64>,
    answer: Option<oneshot::Receiver<Result<Applied, Refused>>>,
}

/// What the controller wants of its store.
enum Write {
    Commit { term: Term, knows: Head, accepted: Accepted },
    Verdicts { term: Term, verdicts: Vec<Verdict> },
    Probe { term: Term, number: u64 },
    Campaign { least: u64, knows: Head },
    Recall(u64),
}

struct Proxy {
    id: ProxyId,
    /// It refuses the odd listener.
    is_picky: bool,
    running: Option<Sealed>,
    link: Option<Link>,
}

struct Link {
    connection: ConnectionId,
    session: Session,
    /// On their way.
    down: VecDeque<v1::Update>,
    up: VecDeque<Said>,
}

enum Said {
    /// And of which revision that is.
    Applied(SnapshotId, u64),
    Rejected(SnapshotId),
}

// === impl World ===

impl<'a> World<'a> {
    fn new(seed: u64, runtime: &'a Runtime) -> Self {
        let store = Redb::in_memory().expect("there is memory");
        let (now, wall) = (lb_common::clock::now(), Duration::from_secs(1_700_000_000));
        let (controller, publisher) = start(runtime, &store, seed, Moment { now, wall });
        let proxy = |i| Proxy {
            id: ProxyId::new(&format!("p{i}")).expect("is an id"),
            is_picky: i == 0,
            running: None,
            link: None,
        };
        Self {
            seed,
            rng: Rng::with_seed(seed),
            runtime,
            store,
            now,
            wall,
            controller,
            publisher,
            writes: Vec::new(),
            probes: Vec::new(),
            proxies: (0..PROXIES).map(proxy).collect(),
            connections: 0,
            is_disk_broken: false,
            is_resting: false,
            fails: BTreeMap::new(),
            models: [(0, Model::default())].into(),
            file_digest: None,
            asks: Vec::new(),
        }
    }

    fn revision(&self) -> u64 {
        self.models.keys().next_back().copied().unwrap_or_default()
    }

    fn model(&self) -> &Model {
        &self.models[&self.revision()]
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..25 => self.ask(),
            25..40 => self.write(),
            40..55 => self.probe(),
            55..80 => {
                let which = self.rng.usize(..PROXIES);
                self.attend(which);
            }
            80..86 => {
                let most = [20, 2_000, 20_000][self.rng.usize(..3)];
                let millis = self.rng.u64(1..most);
                self.pass(Duration::from_millis(millis));
            }
            86..90 => {
                let (set, backend) = (self.pick(&SETS), self.pick(&BACKENDS));
                let fails = self.rng.bool();
                self.fails.insert(model::address(set, backend), fails);
            }
            90..94 => {
                let which = self.rng.usize(..PROXIES);
                self.disconnect(which);
                match self.rng.u8(..4) {
                    // It lost its disk, too.
                    0 => self.proxies[which].running = None,
                    1 => {}
                    _ => self.connect(which),
                }
            }
            94..96 => self.is_disk_broken = !self.is_disk_broken,
            96..97 => self.start_again(),
            _ => self.apply([]),
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(..of.len())]
    }

    /// Nothing goes wrong for a while; then all is as it should be.
    fn rest(&mut self) {
        (self.is_resting, self.is_disk_broken) = (true, false);
        for which in 0..PROXIES {
            if self.proxies[which].link.is_none() {
                self.connect(which);
            }
        }
        let until = self.now + QUIET;
        while self.now < until {
            while !self.writes.is_empty() {
                self.write();
            }
            while !self.probes.is_empty() {
                self.probe();
            }
            while (0..PROXIES).any(|which| self.attend(which)) {}
            if self.writes.is_empty() && self.probes.is_empty() {
                let due = self.due().map_or(until, |due| due.min(until));
                let least = Duration::from_millis(1);
                self.pass(due.saturating_duration_since(self.now).max(least));
            }
        }
        self.is_resting = false;
        self.check();
    }

    /// When something happens by itself.
    fn due(&self) -> Option<Instant> {
        let links = self.proxies.iter().filter_map(|proxy| {
            let link = proxy.link.as_ref()?;
            let published = self.publisher.subscribe().borrow().clone();
            let offers = published.offers(link.session.revision());
            match link.session.next(&offers, self.now) {
                Sending::WaitUntil(at) => Some(at),
                Sending::Nothing | Sending::Send { .. } => None,
            }
        });
        links.chain(self.controller.next_due()).min()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
        self.apply([]);
    }

    /// The controller crashes, with all that is under way, and another one starts.
    fn start_again(&mut self) {
        for write in std::mem::take(&mut self.writes) {
            if self.rng.bool() && !self.is_disk_broken {
                self.perform(write);
            }
        }
        self.probes.clear();
        for asking in &mut self.asks {
            asking.answer = None;
        }
        for which in 0..PROXIES {
            self.disconnect_from_nobody(which);
        }
        let year = Duration::from_secs(365 * 24 * 3600);
        match self.rng.u8(..6) {
            0 => self.wall += year,
            1 => self.wall = self.wall.saturating_sub(year),
            _ => {}
        }
        let moment = Moment { now: self.now, wall: self.wall };
        let seed = self.rng.u64(..);
        (self.controller, self.publisher) = start(self.runtime, &self.store, seed, moment);
        self.check_asked();
    }

    // --- what operators do

    fn ask(&mut self) {
        let ask = self.some_ask();
        let digest = matches!(ask, Ask::Replace(_)).then(|| self.rng.u64(..4)).filter(|d| *d > 0);
        let is_file_again = digest.is_some() && digest == self.controller.file_digest();
        if is_file_again {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let mutation = Mutation {
            change: ask.change(),
            expected_revision: None,
            dry_run: false,
            comment: self.asks.len().to_string(),
            author: "ann".into(),
            file_digest: digest,
            found: Found::default(),
            cause: None,
            reply,
        };
        let (after, answer) = (self.revision(), Some(answer));
        self.asks.push(Asking { ask, digest, after, stored: None, answer });
        self.apply([Event::Mutate(Box::new(mutation))]);
    }

    fn some_ask(&mut self) -> Ask {
        let (set, backend) = (self.pick(&SETS), self.pick(&BACKENDS));
        match self.rng.u8(..20) {
            0..4 => Ask::Put { set, backends: self.some_backends() },
            4 => Ask::Delete { set },
            5..8 => {
                let (weight, state) = (self.rng.bool(), self.rng.bool());
                let Backend { weight: heavy, state: other } = self.some_backend();
                let (weight, state) = (weight.then_some(heavy), state.then_some(other));
                Ask::Give { set, backend, weight, state }
            }
            8 => Ask::Remove { set, backend },
            9 => {
                let to = Some(set).filter(|_| self.rng.u8(..3) > 0);
                Ask::Route { route: self.pick(&ROUTES), to }
            }
            10 => Ask::Odd(self.rng.bool()),
            11 | 12 => Ask::Replace(self.some_spec()),
            13 => {
                let revisions: Vec<_> = self.models.keys().copied().collect();
                let back = self.pick(&revisions);
                Ask::Replace(self.models[&back].spec.clone())
            }
            14 | 15 => Ask::Undrain { set, backend },
            _ => {
                let Backend { weight, state } = self.some_backend();
                let weight = self.pick(&[To::Stay, To::Stay, To::Reset, To::Be(weight)]);
                let state = self.pick(&[To::Stay, To::Reset, To::Be(state), To::Be(state)]);
                Ask::Set { set, backend, weight, state }
            }
        }
    }

    fn some_spec(&mut self) -> Spec {
        let mut spec = Spec { is_odd: self.rng.u8(..4) == 0, ..Spec::default() };
        for set in SETS {
            if self.rng.u8(..4) > 0 {
                spec.sets.insert(set, self.some_backends());
            }
        }
        let sets: Vec<_> = spec.sets.keys().copied().collect();
        for route in ROUTES.iter().filter(|_| !sets.is_empty()) {
            spec.routes.insert(route, self.pick(&sets));
        }
        spec
    }

    fn some_backends(&mut self) -> Backends {
        let mut backends = Backends::new();
        for name in BACKENDS {
            if self.rng.u8(..3) > 0 {
                backends.insert(name, self.some_backend());
            }
        }
        backends
    }

    fn some_backend(&mut self) -> Backend {
        let states = [BackendState::Active, BackendState::Draining, BackendState::Disabled];
        let state = states[self.rng.usize(..8).saturating_sub(5)];
        Backend { weight: self.rng.u32(..4), state }
    }

    // --- the controller and what it wants done

    fn apply(&mut self, events: impl IntoIterator<Item = Event>) {
        let moment = Moment { now: self.now, wall: self.wall };
        for effect in self.controller.apply(events, moment) {
            match effect {
                Effect::Commit { term, knows, accepted, .. } => {
                    self.writes.push(Write::Commit { term, knows, accepted });
                }
                Effect::CommitHealth { term, verdicts } => {
                    self.writes.push(Write::Verdicts { term, verdicts });
                }
                Effect::ProbeStore { term, number } => {
                    self.writes.push(Write::Probe { term, number });
                }
                Effect::Campaign { least, knows } => {
                    self.writes.push(Write::Campaign { least, knows });
                }
                Effect::Recall(revision) => self.writes.push(Write::Recall(revision)),
                Effect::Probe(job) => self.probes.push(job),
                Effect::Publish { publication, cause } => {
                    self.check_published(&publication);
                    self.publisher.publish(*publication, cause);
                }
                Effect::Answer(reply, result) => drop(reply.send(result)),
                Effect::End(end, why) => drop(end.send(why)),
                Effect::Yield(why) => panic!("seed {}: nobody else leads: {why}", self.seed),
                Effect::CommitMaterials { .. } => panic!("seed {}: there is none", self.seed),
                Effect::StoreFails(_)
                | Effect::StoreWorks { .. }
                | Effect::LeadsFor { .. }
                | Effect::Tell(_)
                | Effect::Announce(_) => {}
            }
        }
        self.check_answers();
    }

    /// The store does one of the things that it was asked for.
    fn write(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let write = self.writes.swap_remove(self.rng.usize(..self.writes.len()));
        if self.is_disk_broken {
            let path = "disk".into();
            let source = "it is full".into();
            let error = StoreError::Failed { path, source };
            return self.failed(write, error);
        }
        let is_unsure = !self.is_resting && self.rng.u8(..10) == 0;
        if is_unsure && matches!(write, Write::Commit { .. }) {
            let (path, source) = ("disk".into(), "it did not come back".into());
            let again = match &write {
                Write::Commit { term, knows, accepted } => {
                    let (term, knows, accepted) = (*term, *knows, accepted.clone());
                    Write::Commit { term, knows, accepted }
                }
                _ => return,
            };
            if self.rng.bool() {
                self.perform(again);
            }
            return self.failed(write, StoreError::Unknown { path, source });
        }
        if let Some(event) = self.perform(write) {
            self.apply([event]);
        }
    }

    fn failed(&mut self, write: Write, error: StoreError) {
        let event = match write {
            Write::Commit { .. } => Event::Committed { result: Err(error), took: Duration::ZERO },
            Write::Verdicts { verdicts: values, .. } => {
                Event::HealthCommitted(Err(Unwritten { values, error }))
            }
            Write::Probe { number, .. } => Event::StoreProbed { number, result: Err(error) },
            Write::Campaign { .. } => Event::Led(Err(error)),
            Write::Recall(revision) => Event::Recalled { revision, spec: None },
        };
        self.apply([event]);
    }

    fn perform(&mut self, write: Write) -> Option<Event> {
        let store = &self.store;
        Some(match write {
            Write::Commit { term, knows, accepted } => {
                let result = self.runtime.block_on(store.commit(term, knows, accepted.clone()));
                if result.is_ok() {
                    self.stored(&accepted);
                }
                Event::Committed { result, took: Duration::ZERO }
            }
            Write::Verdicts { term, verdicts } => {
                let result = self.runtime.block_on(store.put_verdicts(term, verdicts.clone()));
                let unwritten = |error| Unwritten { values: verdicts, error };
                Event::HealthCommitted(result.map_err(unwritten))
            }
            Write::Probe { term, number } => {
                Event::StoreProbed { number, result: self.runtime.block_on(store.probe(term)) }
            }
            Write::Campaign { least, knows } => {
                Event::Led(self.runtime.block_on(store.campaign(least, Some(knows))))
            }
            Write::Recall(revision) => {
                let state = self.runtime.block_on(store.state(revision)).expect("it is kept");
                let spec = parse::desired_state(&state.spec).expect("is valid");
                Event::Recalled { revision, spec: Some((spec, Materials::new())) }
            }
        })
    }

    /// The model goes with the store.
    fn stored(&mut self, accepted: &Accepted) {
        self.file_digest = accepted.file_digest.or(self.file_digest);
        let Some(revision) = &accepted.revision else { return };
        let v1::Revision { revision, comment, .. } = &revision.about;
        assert_eq!(*revision, self.revision() + 1, "seed {}", self.seed);
        let ask: usize = comment.parse().expect("is a place");
        let next = self.model().after(&self.asks[ask].ask);
        let next = next.unwrap_or_else(|| panic!("seed {}: ask {ask} is stored", self.seed));
        assert_eq!(accepted.file_digest, self.asks[ask].digest, "seed {}", self.seed);
        self.asks[ask].stored = Some(*revision);
        self.models.insert(*revision, next);
    }

    fn probe(&mut self) {
        if self.probes.is_empty() {
            return;
        }
        let job = self.probes.swap_remove(self.rng.usize(..self.probes.len()));
        let fails = self.fails.get(&job.address.to_string()).copied().unwrap_or_default();
        let outcome = Some(if fails { Outcome::Fail } else { Outcome::Pass });
        // It lacks something itself, now and then.
        let outcome = outcome.filter(|_| self.is_resting || self.rng.u8(..8) > 0);
        let finding = Finding { outcome, detail: String::new(), took: Duration::ZERO };
        self.apply([Event::Probed { id: job.id, late: Duration::ZERO, finding }]);
    }

    // --- proxies and their connections

    fn connect(&mut self, which: usize) {
        self.disconnect(which);
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let proxy = &mut self.proxies[which];
        let running = proxy.running.as_ref().map(|running| running.snapshot.id);
        let revision = proxy.running.as_ref().map_or(0, |running| running.snapshot.revision);
        let session = Session::new(running, revision);
        let (down, up) = <_>::default();
        proxy.link = Some(Link { connection, session, down, up });
        let (end, _) = oneshot::channel();
        let (zone, build) = <_>::default();
        let hello = Hello { zone, build, address: None, running, revision };
        self.say(which, connection, ProxyEvent::Connected { hello, end });
    }

    fn disconnect(&mut self, which: usize) {
        if let Some(link) = self.proxies[which].link.take() {
            self.say(which, link.connection, ProxyEvent::Disconnected);
        }
    }

    /// The controller is gone as well.
    fn disconnect_from_nobody(&mut self, which: usize) {
        self.proxies[which].link = None;
    }

    fn say(&mut self, which: usize, connection: ConnectionId, said: ProxyEvent) {
        let id = self.proxies[which].id.clone();
        self.apply([Event::Proxy { id, connection, said }]);
    }

    /// Something of a proxy's connection goes on. Returns whether there was something.
    fn attend(&mut self, which: usize) -> bool {
        let Proxy { link: Some(link), .. } = &mut self.proxies[which] else { return false };
        let what = self.rng.u8(..3);
        if (what == 0 || self.is_resting)
            && let Some(said) = link.up.pop_front()
        {
            self.answered(which, &said);
            return true;
        }
        if (what == 1 || self.is_resting)
            && let Some(update) = link.down.pop_front()
        {
            let proxy = &mut self.proxies[which];
            let said = proxy.take(&update);
            proxy.link.as_mut().expect("it is there").up.push_back(said);
            return true;
        }
        let published = self.publisher.subscribe().borrow().clone();
        let offers = published.offers(link.session.revision());
        if let Sending::Send { id, base } = link.session.next(&offers, self.now) {
            let (update, full) = published.update(id, base);
            link.session.sent(id, update.revision, &offers, full, self.now);
            link.session.is_sent(self.now);
            link.down.push_back(update);
            return true;
        }
        false
    }

    /// As the service makes of it.
    fn answered(&mut self, which: usize, said: &Said) {
        let Some(link) = &mut self.proxies[which].link else { return };
        let connection = link.connection;
        let said = match *said {
            Said::Applied(snapshot, revision) => {
                link.session.applied(snapshot, revision, self.now);
                ProxyEvent::Applied { snapshot, revision: link.session.revision() }
            }
            Said::Rejected(snapshot) => {
                let refused = link.session.rejected(snapshot, self.now);
                let runs = link.session.revision();
                let refusal = refused.map(|revision| Refusal { revision, runs });
                ProxyEvent::Rejected { snapshot, reason: "it is odd".into(), refusal }
            }
        };
        self.say(which, connection, said);
    }

    // --- what is to hold

    fn check_answers(&mut self) {
        for i in 0..self.asks.len() {
            let Asking { ask, after, stored, answer, .. } = &mut self.asks[i];
            let Some(result) = answer.as_mut().and_then(|answer| answer.try_recv().ok()) else {
                continue;
            };
            *answer = None;
            let seed = self.seed;
            let since = self.models.range(*after..);
            let mut made = since.map(|(revision, model)| (*revision, model, model.after(ask)));
            match (result, *stored) {
                (Ok(applied), Some(stored)) => {
                    assert!(stored <= applied.revision, "seed {seed}: {ask:?}");
                }
                (Ok(_), None) => {
                    let is_done = made.any(|(_, model, next)| next.as_ref() == Some(model));
                    assert!(is_done, "seed {seed}: {ask:?} is acknowledged and not stored");
                }
                (Err(Refused::Invalid(_) | Refused::NotFound(_)), stored) => {
                    assert_eq!(stored, None, "seed {seed}: {ask:?}");
                    let is_wrong = made.any(|(.., next)| next.is_none());
                    assert!(is_wrong, "seed {seed}: {ask:?} is refused");
                }
                (Err(Refused::Unknown(_)), _) => {}
                (Err(why), stored) => assert_eq!(stored, None, "seed {seed}: {ask:?}: {why}"),
            }
        }
    }

    fn check_published(&self, publication: &Publication) {
        let seed = self.seed;
        let Publication { current, tracks, .. } = publication;
        let Snapshot { revision, desired, members, .. } = &*current.snapshot;
        let model = self.models.get(revision);
        let model = model.unwrap_or_else(|| panic!("seed {seed}: {revision} is not stored"));
        let spec = Spec::of(desired);
        let in_force = model.in_force();
        assert_eq!((spec.routes, spec.is_odd), (model.spec.routes.clone(), model.spec.is_odd));
        assert_eq!(spec.sets, in_force, "seed {seed}: revision {revision}");
        assert_eq!(present(members), filled(&in_force), "seed {seed}: revision {revision}");
        for track in tracks {
            self.check_track(&track.snapshot, model);
        }
    }

    /// What is run of an earlier revision, beside the one that is current.
    fn check_track(&self, track: &Snapshot, current: &Model) {
        let seed = self.seed;
        let own = &self.models[&track.revision].spec;
        let spec = Spec::of(&track.desired);
        assert_eq!((&spec.routes, spec.is_odd), (&own.routes, own.is_odd), "seed {seed}");
        assert!(spec.sets.keys().eq(own.sets.keys()), "seed {seed}");
        let members = present(&track.members);
        for (set, backends) in current.in_force() {
            if own.sets.contains_key(set) {
                let found = members.get(set).cloned().unwrap_or_default();
                assert_eq!(found, backends, "seed {seed}: {set} of {}", track.revision);
            }
        }
    }

    /// What is asked for is what the model says.
    fn check_asked(&self) {
        let (revision, asked) = self.controller.asked();
        assert_eq!(revision, self.revision(), "seed {}", self.seed);
        assert_eq!(&Model::of(&asked), self.model(), "seed {}", self.seed);
        assert_eq!(self.controller.file_digest(), self.file_digest, "seed {}", self.seed);
    }

    /// All is quiet.
    fn check(&self) {
        let seed = self.seed;
        self.check_asked();
        let waiting = self.asks.iter().filter(|asking| asking.answer.is_some()).count();
        assert_eq!(waiting, 0, "seed {seed}: somebody waits for an answer");
        let model = self.model();
        let current = self.publisher.snapshot();
        assert_eq!(current.revision, self.revision(), "seed {seed}");
        self.check_health(&current, model);
        let listed = self.controller.proxies().proxies;
        for proxy in &self.proxies {
            let running = proxy.running.as_ref().map(|running| &*running.snapshot);
            if !(proxy.is_picky && model.spec.is_odd) {
                let running = running.unwrap_or_else(|| panic!("seed {seed}: {}", proxy.id));
                let what = |of: &Snapshot| (of.id, of.revision, of.desired.routes.clone());
                assert_eq!(what(running), what(&current), "seed {seed}: {}", proxy.id);
                let who = |of: &Snapshot| (of.members.clone(), of.unhealthy.clone());
                assert_eq!(who(running), who(&current), "seed {seed}: {}", proxy.id);
            } else if let Some(running) = running {
                assert!(!self.models[&running.revision].spec.is_odd, "seed {seed}");
                self.check_track(running, model);
                let unhealthy = |set| running.unhealthy.of(set) == current.unhealthy.of(set);
                assert!(running.desired.backend_sets.keys().all(unhealthy), "seed {seed}");
            }
            let shown = listed.iter().find(|shown| shown.id == proxy.id.as_str());
            let shown = shown.map(|shown| (shown.epoch, shown.version, shown.hash.clone()));
            let runs = running.map(|running| running.id).map(|SnapshotId { version, digest }| {
                (version.epoch, version.version, digest.to_string())
            });
            assert_eq!(shown, Some(runs.unwrap_or_default()), "seed {seed}: {}", proxy.id);
        }
    }

    /// Checks take out what fails, as far as they may.
    fn check_health(&self, current: &Snapshot, model: &Model) {
        let seed = self.seed;
        let fails = |set, backend| {
            self.fails.get(&model::address(set, backend)).copied().unwrap_or_default()
        };
        for (set, backends) in model.in_force() {
            let out = current.unhealthy.by_set().get(set).map(|names| names.as_ref().clone());
            let out: Vec<_> = out.iter().flatten().map(|name| model::known(name)).collect();
            let (serving, others): (Vec<_>, Vec<_>) = out.into_iter().partition(|name| {
                backends[name].state == BackendState::Active && backends[name].weight > 0
            });
            assert!(serving.iter().chain(&others).all(|name| fails(set, name)), "seed {seed}");
            let expected = Out::of(set, &backends, fails);
            assert_eq!(others.into_iter().collect::<BTreeSet<_>>(), expected.others, "seed {seed}");
            if self.controller.health.is_cut_off() {
                assert!(serving.len() <= expected.serving, "seed {seed}: {set}");
            } else {
                assert_eq!(serving.len(), expected.serving, "seed {seed}: {set}");
            }
        }
    }
}

/// As a process does.
fn start(runtime: &Runtime, store: &Redb, seed: u64, moment: Moment) -> (Controller, Publisher) {
    let least = u64::try_from(moment.wall.as_millis()).expect("is not that late");
    runtime.block_on(store.campaign(least, None)).expect("takes the lead");
    let stored = runtime.block_on(store.load()).expect("is readable");
    let (controller, first) =
        Controller::new(stored, Rng::with_seed(seed), moment).expect("is valid");
    (controller, Publisher::new(first))
}

fn present(members: &lb_common::snapshot::Members) -> model::Sets {
    members.iter().map(|(set, of)| (model::known(set), model::backends(of))).collect()
}

fn filled(sets: &model::Sets) -> model::Sets {
    let filled = sets.iter().filter(|(_, backends)| !backends.is_empty());
    filled.map(|(set, backends)| (*set, backends.clone())).collect()
}

// === impl Proxy ===

impl Proxy {
    /// What it says to an update.
    fn take(&mut self, update: &v1::Update) -> Said {
        let id = update.snapshot.as_ref().map(update::parse_snapshot_id).expect("is named");
        let running = self.running.clone().unwrap_or_default();
        if self.running.is_some() && running.snapshot.id == id {
            return Said::Applied(id, update.revision);
        }
        if id.version <= running.snapshot.id.version {
            return Said::Rejected(id);
        }
        let next = match &update.content {
            Some(v1::update::Content::Full(bytes)) => Sealed::open(id, update.revision, bytes),
            Some(v1::update::Content::Delta(bytes)) => running.follow(id, update.revision, bytes),
            Some(v1::update::Content::Part(_)) | None => panic!("it is whole"),
        };
        match next {
            Ok(next) if !(self.is_picky && next.snapshot.desired.listeners.contains_key(ODD)) => {
                self.running = Some(next);
                Said::Applied(id, update.revision)
            }
            Ok(_) | Err(_) => Said::Rejected(id),
        }
    }
}
