//! One tracker for each backend that is probed, kept in step with the desired state.
//!
//! # Invariants
//!
//! - A backend is a target exactly while its set has a health check and it is not disabled.
//! - A change that is not about a backend's address or how its set is asked leaves its target alone.
//! - What is touched is what changed: neither a change nor a flip looks at other sets.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    health::Health,
    id::{BackendName, BackendSetName},
    map::{changes, differ},
    material::Materials,
    snapshot::UnhealthyBackends,
    spec::{Backend, BackendSet, BackendState, DesiredState, HealthCheck, ProxyVersion},
};
use lb_proto::{duration, v1};

use super::{
    HealthTracker, Outcome, Transition,
    probe::Finding,
    schedule::{Schedule, Start, TargetId},
    tls::ProbeTls,
};
use crate::{metrics::Tally, store::Verdict, timestamp};

type Key = (BackendSetName, BackendName);

#[derive(Debug)]
pub struct Monitor {
    sets: BTreeMap<BackendSetName, Checked>,
    keys: HashMap<TargetId, Key>,
    schedule: Schedule,
    rng: fastrand::Rng,
    unhealthy: UnhealthyBackends,
    /// What was decided, or forgotten, since the store had it last.
    unstored: BTreeSet<Key>,
    /// What the targets are in step with.
    synced: (DesiredState, Materials),
    /// What an earlier controller decided; used up by the first [`Monitor::sync`].
    stored: HashMap<Key, Stored>,
    tallies: BTreeMap<BackendSetName, Tally>,
}

/// A set whose backends are probed.
#[derive(Debug, Default)]
struct Checked {
    /// How, if they are spoken to by TLS.
    tls: Option<Arc<ProbeTls>>,
    targets: BTreeMap<BackendName, Target>,
}

/// A probe to be made now.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: TargetId,
    /// Since when it is to be made.
    pub due: Instant,
    pub address: SocketAddr,
    pub asking: Asking,
}

/// How a backend is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    pub check: Arc<HealthCheck>,
    pub tls: Option<Arc<ProbeTls>>,
    pub proxy_protocol: Option<ProxyVersion>,
}

#[derive(Debug)]
struct Target {
    id: TargetId,
    address: SocketAddr,
    asking: Asking,
    tracker: HealthTracker,
    since: Option<prost_types::Timestamp>,
    why: String,
    last_probe: Option<v1::Probe>,
}

#[derive(Debug)]
struct Stored {
    address: String,
    health: Health,
    since: Option<prost_types::Timestamp>,
    why: String,
}

// === impl Monitor ===

impl Monitor {
    pub fn new(stored: Vec<v1::BackendStatus>, rng: fastrand::Rng) -> Self {
        Self {
            sets: BTreeMap::new(),
            keys: HashMap::new(),
            schedule: Schedule::default(),
            rng,
            unhealthy: UnhealthyBackends::default(),
            unstored: BTreeSet::new(),
            synced: Default::default(),
            stored: stored.into_iter().filter_map(parse_stored).collect(),
            tallies: BTreeMap::new(),
        }
    }

    /// Takes the desired state's backends over.
    pub fn sync(&mut self, desired: &DesiredState, materials: &Materials, now: Instant) {
        let next = (desired.clone(), materials.clone());
        let (former, known) = std::mem::replace(&mut self.synced, next);
        let to = &desired.backend_sets;
        let mut touched: BTreeSet<_> =
            changes(&former.backend_sets, to).map(|change| change.key).collect();
        let has_new_material =
            differ(&known, materials) || differ(&former.certificates, &desired.certificates);
        if has_new_material {
            touched.extend(to.iter().filter(|(_, set)| set.tls.is_some()).map(|(name, _)| name));
        }
        for name in touched {
            let old = self.sets.remove(name).unwrap_or_default();
            match to.get(name) {
                Some(set) => self.sync_set(set, old, desired, materials, now),
                None => {
                    self.tallies.remove(name);
                    self.forget_all(name, old.targets);
                }
            }
            self.note_unhealthy(name);
        }
        // Of backends that are gone.
        self.unstored.extend(self.stored.drain().map(|(key, _)| key));
    }

    fn sync_set(
        &mut self,
        set: &BackendSet,
        old: Checked,
        desired: &DesiredState,
        materials: &Materials,
        now: Instant,
    ) {
        let Checked { tls: old_tls, targets: mut old } = old;
        let Some(check) = &set.health_check else { return self.forget_all(&set.name, old) };
        let tls = ProbeTls::of(set, &check.probe, desired, materials, old_tls.as_ref());
        let proxy_protocol = set.proxy_protocol;
        let asking = Asking { check: Arc::new(check.clone()), tls: tls.clone(), proxy_protocol };
        let mut targets = BTreeMap::new();
        for backend in set.backends.iter().filter(|b| b.state != BackendState::Disabled) {
            let key = (set.name.clone(), backend.name.clone());
            let target = match old.remove(&backend.name) {
                Some(kept) if kept.address == backend.address && kept.asking.is(&asking) => kept,
                Some(kept) if kept.address == backend.address => {
                    self.recheck(&key, kept, &asking, now)
                }
                Some(moved) => {
                    self.forget(&key, &moved);
                    self.target(&key, backend, &asking, now)
                }
                None => self.target(&key, backend, &asking, now),
            };
            self.keys.insert(target.id, key);
            targets.insert(backend.name.clone(), target);
        }
        self.sets.insert(set.name.clone(), Checked { tls, targets });
        self.forget_all(&set.name, old);
    }

    /// The next probe to make, if one is due and there is room for it.
    pub fn start(&mut self, now: Instant) -> Option<Job> {
        let Start { id, due } = self.schedule.start(now)?;
        let target = self.keys.get(&id).and_then(|key| self.target_of(key));
        let target = target.expect("what is scheduled is a target");
        let address = target.asking.check.goes_to.of(target.address);
        Some(Job { id, due, address, asking: target.asking.clone() })
    }

    /// No more probes than this are made at a time.
    pub fn set_room(&mut self, room: usize) {
        self.schedule.set_room(room);
    }

    /// Probes under way.
    pub fn in_flight(&self) -> usize {
        self.schedule.in_flight()
    }

    /// When [`Monitor::start`] will have something, unless a probe ends before.
    pub fn next_due(&self) -> Option<Instant> {
        self.schedule.next_due()
    }

    /// Takes a probe's finding, and returns what it decided, if it did.
    pub fn observe(
        &mut self,
        id: TargetId,
        finding: Finding,
        now: Instant,
        wall: Duration,
    ) -> Option<v1::HealthChanged> {
        self.schedule.finish(id, now, &mut self.rng);
        // A target may go while it is probed.
        let key = self.keys.get(&id)?.clone();
        let target = self.sets.get_mut(&key.0)?.targets.get_mut(&key.1)?;
        let Finding { outcome, detail, took } = finding;
        let tally = self.tallies.entry(key.0.clone()).or_default();
        match outcome {
            Some(Outcome::Pass) => tally.passed += 1,
            Some(Outcome::Fail) => tally.failed += 1,
            None => tally.not_made += 1,
        }
        tally.took.observe(took);
        target.last_probe = Some(v1::Probe {
            time: Some(timestamp(wall)),
            passed: outcome == Some(Outcome::Pass),
            detail: detail.clone(),
            took: Some(duration::to_wire(took)),
        });
        let Transition::Decided(health) = target.tracker.observe(outcome?) else { return None };
        tally.decisions += 1;
        target.since = Some(timestamp(wall));
        target.why.clone_from(&detail);
        let change = v1::HealthChanged {
            backend_set: key.0.to_string(),
            backend: key.1.to_string(),
            health: wire(Some(health)).into(),
            why: detail,
        };
        self.note_unhealthy(&key.0);
        self.unstored.insert(key);
        Some(change)
    }

    /// The backends that proxies are to leave alone.
    pub fn unhealthy(&self) -> &UnhealthyBackends {
        &self.unhealthy
    }

    fn note_unhealthy(&mut self, set: &BackendSetName) {
        let targets = self.sets.get(set).into_iter().flat_map(|set| &set.targets);
        let unhealthy = targets.filter(|(_, target)| target.tracker.health() == Health::Unhealthy);
        let unhealthy = unhealthy.map(|(backend, _)| backend.clone()).collect();
        self.unhealthy.set(set.clone(), unhealthy);
    }

    /// By set, for metrics.
    pub fn tallies(&self) -> &BTreeMap<BackendSetName, Tally> {
        &self.tallies
    }

    /// What is known about a backend; its load is for others to fill in.
    pub fn status(&self, set: &BackendSet, backend: &Backend) -> v1::BackendStatus {
        let status = v1::BackendStatus {
            backend_set: set.name.to_string(),
            backend: backend.name.to_string(),
            address: backend.address.to_string(),
            weight: backend.weight,
            state: backend.state.as_str().into(),
            health: wire(None).into(),
            ..v1::BackendStatus::default()
        };
        match self.of(set, backend) {
            Some(target) => v1::BackendStatus {
                health: wire(target.tracker.decided()).into(),
                since: target.since,
                why: target.why.clone(),
                last_probe: target.last_probe.clone(),
                ..status
            },
            None if set.health_check.is_none() => {
                v1::BackendStatus { why: "no health check".into(), ..status }
            }
            None => v1::BackendStatus { why: "disabled".into(), ..status },
        }
    }

    /// What was decided about a backend.
    pub fn health(&self, set: &BackendSet, backend: &Backend) -> v1::Health {
        wire(self.of(set, backend).and_then(|target| target.tracker.decided()))
    }

    /// What the store does not have yet.
    pub fn unstored(&mut self) -> Vec<Verdict> {
        let unstored = std::mem::take(&mut self.unstored).into_iter();
        unstored
            .map(|(backend_set, backend)| {
                let key = (backend_set, backend);
                let status = self.target_of(&key).and_then(|target| target.decided(&key));
                Verdict { backend_set: key.0, backend: key.1, status }
            })
            .collect()
    }

    /// What the store could not take after all.
    pub fn put_back(&mut self, verdicts: Vec<Verdict>) {
        self.unstored.extend(verdicts.into_iter().map(|one| (one.backend_set, one.backend)));
    }

    fn of(&self, set: &BackendSet, backend: &Backend) -> Option<&Target> {
        self.sets.get(&set.name)?.targets.get(&backend.name)
    }

    fn target_of(&self, (set, backend): &Key) -> Option<&Target> {
        self.sets.get(set)?.targets.get(backend)
    }

    fn target(&mut self, key: &Key, backend: &Backend, asking: &Asking, now: Instant) -> Target {
        let (address, check) = (backend.address, &asking.check);
        let stored = self.stored.remove(key).filter(|stored| {
            let is_same = stored.address == address.to_string();
            if !is_same {
                self.unstored.insert(key.clone());
            }
            is_same
        });
        let tracker = HealthTracker::resume(check, stored.as_ref().map(|stored| stored.health));
        let (since, why) = match stored {
            Some(stored) => (stored.since, stored.why),
            None => (None, "no probe has concluded yet".into()),
        };
        let id = self.schedule.add(&key.0, check.interval, now);
        Target { id, address, asking: asking.clone(), tracker, since, why, last_probe: None }
    }

    /// The same backend under another check: what was decided stands until that one's streak.
    fn recheck(&mut self, key: &Key, target: Target, asking: &Asking, now: Instant) -> Target {
        self.leave(target.id);
        let check = &asking.check;
        Target {
            id: self.schedule.add(&key.0, check.interval, now),
            asking: asking.clone(),
            tracker: HealthTracker::resume(check, target.tracker.decided()),
            ..target
        }
    }

    fn forget_all(&mut self, set: &BackendSetName, targets: BTreeMap<BackendName, Target>) {
        for (backend, target) in targets {
            self.forget(&(set.clone(), backend), &target);
        }
    }

    fn forget(&mut self, key: &Key, target: &Target) {
        self.leave(target.id);
        if target.tracker.decided().is_some() {
            self.unstored.insert(key.clone());
        }
    }

    fn leave(&mut self, id: TargetId) {
        self.schedule.remove(id);
        self.keys.remove(&id);
    }
}

impl Target {
    fn decided(&self, (set, backend): &Key) -> Option<v1::BackendStatus> {
        let decided = self.tracker.decided()?;
        Some(v1::BackendStatus {
            backend_set: set.to_string(),
            backend: backend.to_string(),
            address: self.address.to_string(),
            health: wire(Some(decided)).into(),
            since: self.since,
            why: self.why.clone(),
            ..v1::BackendStatus::default()
        })
    }
}

impl Asking {
    /// Whether it asks the same, in the same way.
    fn is(&self, other: &Self) -> bool {
        let tls = |asking: &Self| asking.tls.as_ref().map(Arc::as_ptr);
        self.check == other.check
            && tls(self) == tls(other)
            && self.proxy_protocol == other.proxy_protocol
    }
}

fn wire(decided: Option<Health>) -> v1::Health {
    match decided {
        None => v1::Health::Unknown,
        Some(Health::Healthy) => v1::Health::Healthy,
        Some(Health::Unhealthy) => v1::Health::Unhealthy,
    }
}

/// Names and values that mean nothing any more only make a backend unknown.
fn parse_stored(status: v1::BackendStatus) -> Option<(Key, Stored)> {
    let health = match status.health() {
        v1::Health::Healthy => Health::Healthy,
        v1::Health::Unhealthy => Health::Unhealthy,
        v1::Health::Unknown | v1::Health::Unspecified => return None,
    };
    let set = BackendSetName::new(&status.backend_set).ok()?;
    let backend = BackendName::new(&status.backend).ok()?;
    let v1::BackendStatus { address, since, why, .. } = status;
    Some(((set, backend), Stored { address, health, since, why }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::state;

    const WALL: Duration = Duration::from_secs(1_700_000_000);

    struct Fixture {
        monitor: Monitor,
        now: Instant,
    }

    impl Fixture {
        fn new(stored: Vec<v1::BackendStatus>, desired: &str) -> Self {
            let monitor = Monitor::new(stored, fastrand::Rng::with_seed(1));
            let mut fixture = Self { monitor, now: lb_common::clock::now() };
            fixture.sync(desired);
            fixture
        }

        fn sync(&mut self, desired: &str) {
            self.monitor.sync(&state(desired), &Materials::new(), self.now);
        }

        /// What the store would have after what it was not told yet.
        fn stored(&mut self) -> Vec<v1::BackendStatus> {
            self.monitor.unstored().into_iter().filter_map(|verdict| verdict.status).collect()
        }

        /// Lets time pass, makes every probe that is due, and returns the addresses.
        fn round(&mut self, outcome: impl Into<Option<Outcome>> + Copy) -> Vec<String> {
            self.now += Duration::from_secs(10);
            let jobs: Vec<_> = std::iter::from_fn(|| self.monitor.start(self.now)).collect();
            for job in &jobs {
                self.finish(job, outcome);
            }
            jobs.iter().map(|job| job.address.to_string()).collect()
        }

        fn finish(
            &mut self,
            job: &Job,
            outcome: impl Into<Option<Outcome>>,
        ) -> Option<v1::HealthChanged> {
            let outcome = outcome.into();
            let finding = Finding { outcome, detail: "said so".into(), took: Duration::ZERO };
            self.monitor.observe(job.id, finding, self.now, WALL)
        }

        fn unhealthy(&self) -> Vec<String> {
            let unhealthy = self.monitor.unhealthy();
            let names = unhealthy.iter().flat_map(|(_, names)| &**names);
            names.map(ToString::to_string).collect()
        }
    }

    /// One set of these backends, with a check that one failure decides.
    fn app(backends: &str) -> String {
        format!(
            "backend_sets = [{{ name = 'app', health_check = {{ tcp = true, unhealthy_after = 1, \
             healthy_after = 2 }}, backends = [{backends}] }}]"
        )
    }

    const ONE: &str = "{ name = 'one', address = '1.1.1.1:1' }";
    const TWO: &str = "{ name = 'two', address = '1.1.1.1:2' }";

    #[test]
    fn an_unrelated_change_leaves_a_target_alone() {
        let mut f = Fixture::new(vec![], &app(ONE));
        f.round(Outcome::Fail);
        let running = {
            f.now += Duration::from_secs(10);
            f.monitor.start(f.now).expect("is due")
        };
        f.monitor.unstored();
        f.sync(&app(&format!("{ONE}, {TWO}")));
        assert_eq!(f.monitor.unstored().len(), 0, "nothing is forgotten");
        assert_eq!(f.unhealthy(), ["one"]);
        f.finish(&running, Outcome::Pass);
        f.round(Outcome::Pass);
        assert_eq!(f.unhealthy(), [""; 0], "the probe under way counted");
    }

    #[test]
    fn a_probe_that_could_not_be_made_decides_nothing() {
        let mut f = Fixture::new(vec![], &app(ONE));
        f.round(None);
        assert_eq!(f.unhealthy(), [""; 0], "one failure would have decided it");
        f.round(Outcome::Fail);
        f.round(Outcome::Pass);
        f.round(None);
        f.round(Outcome::Pass);
        assert_eq!(f.unhealthy(), [""; 0], "it did not interrupt what two passes said");
        assert_eq!(f.monitor.tallies().values().map(|tally| tally.not_made).sum::<u64>(), 2);
    }

    #[test]
    fn another_address_is_another_backend() {
        let mut f = Fixture::new(vec![], &app(ONE));
        f.round(Outcome::Fail);
        f.sync(&app("{ name = 'one', address = '1.1.1.1:9' }"));
        assert_eq!(f.unhealthy(), [""; 0]);
        assert_eq!(f.round(Outcome::Pass), ["1.1.1.1:9"]);
    }

    #[test]
    fn another_check_keeps_what_was_decided_and_asks_at_once() {
        let mut f = Fixture::new(vec![], &app(ONE));
        f.round(Outcome::Fail);
        let late = {
            f.now += Duration::from_secs(10);
            f.monitor.start(f.now).expect("is due")
        };
        f.sync(&app(ONE).replace("tcp = true", "http = '/up'"));
        assert_eq!(f.unhealthy(), ["one"]);
        assert_eq!(f.finish(&late, Outcome::Pass), None, "it asked for something else");
        assert_eq!(f.monitor.next_due(), Some(f.now));
    }

    #[test]
    fn draining_backends_are_probed_and_disabled_ones_are_not() {
        let backends = format!(
            "{{ name = 'one', address = '1.1.1.1:1', state = 'draining' }}, {}",
            "{ name = 'two', address = '1.1.1.1:2', state = 'disabled' }"
        );
        let mut f = Fixture::new(vec![], &app(&backends));
        assert_eq!(f.round(Outcome::Pass), ["1.1.1.1:1"]);
    }

    #[test]
    fn what_was_stored_holds_until_a_full_streak_unless_the_address_is_another() {
        let mut f = Fixture::new(vec![], &app(&format!("{ONE}, {TWO}")));
        f.round(Outcome::Fail);
        let stored = f.stored();
        assert_eq!(stored.len(), 2);
        assert_eq!(f.monitor.unstored().len(), 0, "each is told once");

        let moved = "{ name = 'two', address = '1.1.1.1:9' }";
        let mut f = Fixture::new(stored, &app(&format!("{ONE}, {moved}")));
        assert_eq!(f.unhealthy(), ["one"]);
        f.round(Outcome::Pass);
        assert_eq!(f.unhealthy(), ["one"], "one pass is not two");
        f.round(Outcome::Pass);
        assert_eq!(f.unhealthy(), [""; 0]);
    }

    #[test]
    fn what_the_store_could_not_take_is_told_again_as_it_is_then() {
        let mut f = Fixture::new(vec![], &app(ONE));
        f.round(Outcome::Fail);
        let failed = f.monitor.unstored();
        f.round(Outcome::Pass);
        f.round(Outcome::Pass);
        f.monitor.put_back(failed);
        let told = f.stored();
        let health: Vec<_> = told.iter().map(v1::BackendStatus::health).collect();
        assert_eq!(health, [v1::Health::Healthy]);
    }

    #[test]
    fn a_set_that_loses_its_check_uses_all_of_its_backends() {
        let mut f = Fixture::new(vec![], &app(ONE));
        f.round(Outcome::Fail);
        f.monitor.unstored();
        f.sync(&format!("backend_sets = [{{ name = 'app', backends = [{ONE}] }}]"));
        let forgotten = f.monitor.unstored();
        assert!(forgotten.len() == 1 && forgotten[0].status.is_none(), "{forgotten:?}");
        assert_eq!((f.unhealthy(), f.monitor.next_due()), (vec![], None));
    }

    #[test]
    fn the_first_decision_and_flips_are_told_once() {
        let mut f = Fixture::new(vec![], &app(ONE));
        let mut told = Vec::new();
        for outcome in [Outcome::Pass, Outcome::Pass, Outcome::Fail, Outcome::Fail] {
            f.now += Duration::from_secs(10);
            let job = f.monitor.start(f.now).expect("is due");
            told.push(f.finish(&job, outcome).map(|change| change.health()));
        }
        use v1::Health::{Healthy, Unhealthy};
        assert_eq!(told, [Some(Healthy), None, Some(Unhealthy), None]);
    }

    #[test]
    fn a_status_says_why_nothing_is_known() {
        let desired = state(&app(ONE));
        let f = Fixture::new(vec![], &app(ONE));
        let set = &desired.backend_sets["app"];
        let status = f.monitor.status(set, &set.backends[0]);
        assert_eq!(status.health(), v1::Health::Unknown);
        assert_eq!(status.why, "no probe has concluded yet");
        let unchecked = BackendSet { health_check: None, ..BackendSet::clone(set) };
        let f = Fixture::new(vec![], "");
        let status = f.monitor.status(&unchecked, &set.backends[0]);
        assert_eq!(status.why, "no health check");
    }
}
