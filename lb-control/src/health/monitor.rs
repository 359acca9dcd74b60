//! One tracker for each backend that is probed, kept in step with the desired state.
//!
//! # Invariants
//!
//! - A backend is a target exactly while its set has a health check and it is not disabled.
//! - A change that is not about a backend's address or how its set is asked leaves its target alone.
//! - What is touched is what changed: neither a change nor a flip looks at other sets, but where the
//!   controller finds itself cut off, or reaches somebody again.
//! - What checks find and what proxies go by are two things: [`cap`] is between them.

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
    spec::{Backend, BackendSet, BackendState, DesiredState},
};
use lb_proto::{duration, v1};
use v1::event::Event as News;

use super::{
    HealthTracker, Outcome, Transition,
    asking::Asking,
    cap::{self, Reach, Standing},
    probe::Finding,
    schedule::{Schedule, Start, TargetId},
    tls::ProbeTls,
};
use crate::{metrics::ProbeCounts, store::Verdict, timestamp};

type Key = (BackendSetName, BackendName);

const CUT_OFF: &str =
    "every check of every set fails: the controller is cut off, or the checks are wrong";

#[derive(Debug)]
pub struct Monitor {
    /// Not in order, because each probe looks here.
    sets: HashMap<BackendSetName, Checked>,
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
    reach: Reach,
    /// How many backends were found to fail.
    failures: u64,
    /// What is to be told.
    news: Vec<News>,
}

/// A set whose backends are probed.
#[derive(Debug, Default)]
struct Checked {
    /// How, if they are spoken to by TLS.
    tls: Option<Arc<ProbeTls>>,
    targets: BTreeMap<BackendName, Target>,
    max_unhealthy_percent: u32,
    /// So many that fail are not out.
    held: usize,
    is_told_held: bool,
    counts: ProbeCounts,
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

#[derive(Debug)]
struct Target {
    id: TargetId,
    address: SocketAddr,
    asking: Asking,
    tracker: HealthTracker,
    /// It is to get traffic.
    is_in_service: bool,
    /// It was seen well.
    is_proven: bool,
    /// Proxies are to leave it alone.
    is_out: bool,
    /// When it was found to fail, among all that were.
    order: u64,
    since: Option<prost_types::Timestamp>,
    why: String,
    last_probe: Option<v1::Probe>,
    latest: Latest,
    /// It was told to fail, and to be held.
    is_told_held: bool,
}

/// What the latest check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latest {
    /// None was made.
    Nothing,
    /// It could not be made, and none was before.
    NotMade,
    Found(Outcome),
}

#[derive(Debug)]
struct Stored {
    address: String,
    health: Health,
    is_proven: bool,
    since: Option<prost_types::Timestamp>,
    why: String,
}

// === impl Monitor ===

impl Monitor {
    pub fn new(stored: Vec<v1::BackendStatus>, rng: fastrand::Rng) -> Self {
        Self {
            sets: HashMap::new(),
            keys: HashMap::new(),
            schedule: Schedule::default(),
            rng,
            unhealthy: UnhealthyBackends::default(),
            unstored: BTreeSet::new(),
            synced: Default::default(),
            stored: stored.into_iter().filter_map(parse_stored).collect(),
            reach: Reach::default(),
            failures: 0,
            news: Vec::new(),
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
                None => self.forget_all(name, old.targets),
            }
            self.settle(name);
        }
        self.look_around();
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
        let Checked { tls: old_tls, targets: mut old, held, is_told_held, counts, .. } = old;
        let Some(check) = &set.health_check else { return self.forget_all(&set.name, old) };
        let tls = ProbeTls::of(set, &check.probe, desired, materials, old_tls.as_ref());
        let proxy_protocol = set.proxy_protocol;
        let asking = Asking { check: Arc::new(check.clone()), tls: tls.clone(), proxy_protocol };
        let mut targets = BTreeMap::new();
        for backend in set.backends.iter().filter(|b| b.state != BackendState::Disabled) {
            let key = (set.name.clone(), backend.name.clone());
            let mut target = match old.remove(&backend.name) {
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
            target.is_in_service = backend.state == BackendState::Active && backend.weight > 0;
            self.keys.insert(target.id, key);
            targets.insert(backend.name.clone(), target);
        }
        let max_unhealthy_percent = check.max_unhealthy_percent;
        let checked = Checked { tls, targets, max_unhealthy_percent, held, is_told_held, counts };
        self.sets.insert(set.name.clone(), checked);
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

    /// Takes a probe's finding. Returns whether it decided something; [`Monitor::news`] says what.
    pub fn observe(
        &mut self,
        id: TargetId,
        finding: Finding,
        now: Instant,
        wall: Duration,
    ) -> bool {
        self.schedule.finish(id, now, &mut self.rng);
        // A target may go while it is probed.
        let Some(key) = self.keys.get(&id).cloned() else { return false };
        let Finding { outcome, detail, took } = finding;
        let Some(checked) = self.sets.get_mut(&key.0) else { return false };
        match outcome {
            Some(Outcome::Pass) => checked.counts.passed += 1,
            Some(Outcome::Fail) => checked.counts.failed += 1,
            None => checked.counts.not_made += 1,
        }
        let Some(target) = checked.targets.get_mut(&key.1) else { return false };
        target.last_probe = Some(v1::Probe {
            time: Some(timestamp(wall)),
            passed: outcome == Some(Outcome::Pass),
            detail: detail.clone(),
            took: Some(duration::to_wire(took)),
        });
        let latest = match outcome {
            Some(outcome) => Latest::Found(outcome),
            None if target.latest == Latest::Nothing => Latest::NotMade,
            None => target.latest,
        };
        let former = std::mem::replace(&mut target.latest, latest);
        *count(&mut self.reach, former) -= 1;
        *count(&mut self.reach, latest) += 1;
        let turned = self.look_around();
        let decided = outcome.is_some_and(|outcome| self.conclude(&key, outcome, detail, wall));
        decided || turned
    }

    /// What an outcome makes of what is known. Returns whether that decided something.
    fn conclude(&mut self, key: &Key, outcome: Outcome, why: String, wall: Duration) -> bool {
        let Some(checked) = self.sets.get_mut(&key.0) else { return false };
        let Some(target) = checked.targets.get_mut(&key.1) else { return false };
        let Transition::Decided(health) = target.tracker.observe(outcome) else { return false };
        checked.counts.decisions += 1;
        target.since = Some(timestamp(wall));
        target.why = why;
        match health {
            Health::Healthy => target.is_proven = true,
            Health::Unhealthy => {
                self.failures += 1;
                target.order = self.failures;
            }
        }
        target.is_told_held = false;
        self.settle(&key.0);
        let checked = self.sets.get_mut(&key.0);
        let Some(target) = checked.and_then(|checked| checked.targets.get_mut(&key.1)) else {
            return false;
        };
        let is_held = target.is_held();
        // Of all that fail then, one news is enough.
        if !is_held || !self.reach.is_cut_off() {
            target.is_told_held = is_held;
            let target = self.target_of(key);
            self.news.extend(target.map(|target| self.health_news(key, target)));
        }
        if !is_held {
            self.unstored.insert(key.clone());
        }
        true
    }

    /// What is to be told since this was called last.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// The backends that proxies are to leave alone.
    pub fn unhealthy(&self) -> &UnhealthyBackends {
        &self.unhealthy
    }

    /// Whether every check fails, so that the controller is taken to be cut off itself.
    pub fn is_cut_off(&self) -> bool {
        self.reach.is_cut_off()
    }

    /// How many of a set's backends fail and are not out.
    pub fn held(&self, set: &BackendSetName) -> usize {
        self.sets.get(set).map_or(0, |checked| checked.held)
    }

    /// Decides who of a set is out.
    fn settle(&mut self, set: &BackendSetName) {
        let Some(checked) = self.sets.get_mut(set) else {
            return self.unhealthy.set(set.clone(), <_>::default());
        };
        let standings: Vec<_> = checked.targets.values().map(Target::standing).collect();
        let out = cap::out(&standings, checked.max_unhealthy_percent, self.reach.is_cut_off());
        checked.held = 0;
        let mut let_go = Vec::new();
        for ((name, target), is_out) in checked.targets.iter_mut().zip(out) {
            let was_out = std::mem::replace(&mut target.is_out, is_out);
            let key = (set.clone(), name.clone());
            if was_out != is_out {
                self.unstored.insert(key.clone());
            }
            if target.is_held() {
                checked.held += 1;
            } else if std::mem::take(&mut target.is_told_held) {
                let_go.push(key);
            }
        }
        let out = checked.targets.iter().filter(|(_, target)| target.is_out);
        self.unhealthy.set(set.clone(), out.map(|(name, _)| name.clone()).collect());
        let is_held = checked.held > 0;
        let is_news = !self.reach.is_cut_off() && checked.is_told_held != is_held;
        if is_news {
            checked.is_told_held = is_held;
            let why = checked.why_held();
            self.news.push(checks_news(set.as_str(), is_held.then_some(why)));
        }
        for key in let_go {
            let target = self.target_of(&key);
            self.news.extend(target.map(|target| self.health_news(&key, target)));
        }
    }

    /// Notices whether the controller is cut off from all that it checks. Afterwards checks count anew:
    /// what failed meanwhile said nothing.
    fn look_around(&mut self) -> bool {
        if !self.reach.settle() {
            return false;
        }
        let is_cut_off = self.reach.is_cut_off();
        if !is_cut_off {
            let targets = self.sets.values_mut().flat_map(|set| set.targets.values_mut());
            for target in targets.filter(|target| !target.is_out) {
                let decided = target.is_proven.then_some(Health::Healthy);
                if target.tracker.decided() != decided {
                    // Why it was found to fail tells nothing about it.
                    (target.why, target.since) = (String::new(), None);
                }
                target.tracker = HealthTracker::resume(&target.asking.check, decided);
            }
        }
        let mut sets: Vec<_> = self.sets.keys().cloned().collect();
        sets.sort_unstable();
        for set in &sets {
            self.settle(set);
        }
        self.news.push(checks_news("", is_cut_off.then(|| CUT_OFF.into())));
        true
    }

    fn health_news(&self, key: &Key, target: &Target) -> News {
        News::Health(v1::HealthChanged {
            backend_set: key.0.to_string(),
            backend: key.1.to_string(),
            health: wire(target.tracker.decided()).into(),
            why: target.why.clone(),
            held: self.why_held(&key.0, target),
        })
    }

    /// Empty if it is not held.
    fn why_held(&self, set: &BackendSetName, target: &Target) -> String {
        match (target.is_held(), self.reach.is_cut_off()) {
            (false, _) => String::new(),
            (true, true) => CUT_OFF.into(),
            (true, false) => self.sets.get(set).map(Checked::why_held).unwrap_or_default(),
        }
    }

    /// By set, for metrics.
    pub fn probe_counts(&self) -> BTreeMap<&BackendSetName, &ProbeCounts> {
        self.sets.iter().map(|(name, checked)| (name, &checked.counts)).collect()
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
                held: self.why_held(&set.name, target),
                proven: target.is_proven,
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
        let health = stored.as_ref().map(|stored| stored.health);
        let is_proven = stored.as_ref().is_some_and(|stored| stored.is_proven);
        let tracker = HealthTracker::resume(check, health);
        let (since, why) = match stored {
            Some(stored) => (stored.since, stored.why),
            None => (None, "no probe has concluded yet".into()),
        };
        self.reach.unknown += 1;
        Target {
            id: self.schedule.add(&key.0, check.interval, now),
            address,
            asking: asking.clone(),
            tracker,
            is_in_service: true,
            is_proven,
            is_out: health == Some(Health::Unhealthy),
            order: 0,
            since,
            why,
            last_probe: None,
            latest: Latest::Nothing,
            is_told_held: false,
        }
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
        *count(&mut self.reach, target.latest) -= 1;
        if target.tracker.decided().is_some() {
            self.unstored.insert(key.clone());
        }
    }

    fn leave(&mut self, id: TargetId) {
        self.schedule.remove(id);
        self.keys.remove(&id);
    }
}

impl Checked {
    fn why_held(&self) -> String {
        let counting = self.targets.values().filter(|target| target.serves());
        let (out, all) =
            counting.fold((0, 0), |(out, all), target| (out + usize::from(target.is_out), all + 1));
        let percent = self.max_unhealthy_percent;
        format!("{out} of {all} are out already, and max_unhealthy_percent is {percent}")
    }
}

impl Target {
    /// Whether it counts among those of which some must stay.
    fn serves(&self) -> bool {
        self.is_in_service && (self.is_proven || !self.asking.check.prove_first)
    }

    fn standing(&self) -> Standing {
        Standing {
            fails: self.tracker.health() == Health::Unhealthy,
            serves: self.serves(),
            is_out: self.is_out,
            order: self.order,
        }
    }

    /// It fails, and proxies are not told.
    fn is_held(&self) -> bool {
        !self.is_out && self.tracker.health() == Health::Unhealthy
    }

    /// For another controller: what is held is as it was before.
    fn decided(&self, (set, backend): &Key) -> Option<v1::BackendStatus> {
        let decided = match self.is_held() {
            true => self.is_proven.then_some(Health::Healthy)?,
            false => self.tracker.decided()?,
        };
        Some(v1::BackendStatus {
            backend_set: set.to_string(),
            backend: backend.to_string(),
            address: self.address.to_string(),
            health: wire(Some(decided)).into(),
            since: self.since,
            why: self.why.clone(),
            proven: self.is_proven,
            ..v1::BackendStatus::default()
        })
    }
}

fn count(reach: &mut Reach, latest: Latest) -> &mut usize {
    match latest {
        Latest::Nothing => &mut reach.unknown,
        Latest::NotMade => &mut reach.not_made,
        Latest::Found(Outcome::Pass) => &mut reach.passed,
        Latest::Found(Outcome::Fail) => &mut reach.failed,
    }
}

/// Of a set, or of all of them; `why` they are held, or that they are not any more.
fn checks_news(set: &str, why: Option<String>) -> News {
    let what = if why.is_some() { "held" } else { "mended" };
    let why = why.unwrap_or_default();
    News::Checks(v1::ChecksChanged { what: what.into(), backend_set: set.into(), why })
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
    let is_proven = status.proven || health == Health::Healthy;
    let v1::BackendStatus { address, since, why, .. } = status;
    Some(((set, backend), Stored { address, health, is_proven, since, why }))
}

#[cfg(test)]
mod tests;
