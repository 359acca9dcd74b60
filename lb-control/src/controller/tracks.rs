//! Revisions that are in use besides the current one. A proxy that refuses the current revision stays on
//! the one that it runs, and gets all the rest: who is there to serve, with what weights, and who is well.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lb_common::{
    map::{Change, changes},
    material::Materials,
    snapshot::{Snapshot, SnapshotId, UnhealthyBackends, Version},
    spec::{BackendSet, DesiredState},
};
use lb_proto::update::Sealed;

use crate::resolve::resolve;

/// So many revisions that were current are known without a look into the store.
const MOST_RECENT: usize = 8;

#[derive(Debug, Default)]
pub struct Tracks {
    by_revision: BTreeMap<u64, Track>,
    /// What was asked for, and what proxies had of what it needs; newest last.
    recent: VecDeque<(u64, DesiredState, Materials)>,
    /// Those that the store was asked for.
    recalled: BTreeSet<u64>,
}

#[derive(Debug)]
struct Track {
    /// What was asked for.
    spec: DesiredState,
    /// That, with who is there now.
    state: DesiredState,
    /// What is in force now, of which `state` has the backends.
    of: DesiredState,
    /// What only this revision needs.
    materials: Materials,
    sealed: Sealed,
}

/// What all tracks have in common.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    pub in_force: &'a DesiredState,
    pub unhealthy: &'a UnhealthyBackends,
    pub materials: &'a Materials,
}

// === impl Tracks ===

impl Tracks {
    /// A revision was current.
    pub fn was_current(&mut self, revision: u64, spec: DesiredState, materials: Materials) {
        if self.recent.len() == MOST_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((revision, spec, materials));
    }

    pub fn has(&self, revision: u64) -> bool {
        self.by_revision.contains_key(&revision)
    }

    /// Begins a track, if its revision is known. It is published with the next turn.
    pub fn begin_recent(&mut self, revision: u64) -> bool {
        let found = self.recent.iter().find(|(known, ..)| *known == revision);
        let Some((_, spec, materials)) = found else { return false };
        let (spec, needed) = (spec.clone(), spec.materials_of_proxies());
        let of_it = materials.iter().filter(|(id, _)| needed.contains(*id));
        let of_it = of_it.map(|(id, content)| (id.clone(), content.clone())).collect();
        self.begin(revision, spec, of_it);
        true
    }

    /// Whether the store is to be asked for it; once is enough, until [`Tracks::recalled`].
    pub fn recall(&mut self, revision: u64) -> bool {
        self.recalled.insert(revision)
    }

    pub fn recalled(&mut self, revision: u64) {
        self.recalled.remove(&revision);
    }

    pub fn begin(&mut self, revision: u64, spec: DesiredState, materials: Materials) {
        self.by_revision.entry(revision).or_insert_with(|| Track {
            state: spec.clone(),
            spec,
            of: DesiredState::default(),
            materials,
            sealed: Sealed::default(),
        });
    }

    /// Ends those that nobody is on.
    pub fn retain(&mut self, is_used: impl Fn(u64) -> bool) {
        self.by_revision.retain(|revision, _| is_used(*revision));
    }

    /// Brings all of them up to date. Returns whether any has something new, even if that is only itself.
    pub fn turn(&mut self, now: Now<'_>) -> bool {
        let mut has_news = false;
        for (revision, track) in &mut self.by_revision {
            has_news |= track.turn(*revision, now);
        }
        has_news
    }

    /// Gives each the next version, though nothing in it is new: who runs it then runs what is decided by
    /// now. Returns what they are.
    pub fn date(&mut self, version: &mut Version) -> Vec<SnapshotId> {
        let mut ids = Vec::new();
        for track in self.by_revision.values_mut() {
            version.version += 1;
            track.sealed = track.sealed.dated(*version);
            ids.push(track.sealed.snapshot.id);
        }
        ids
    }

    /// As they are now.
    pub fn sealed(&self) -> Vec<Sealed> {
        self.by_revision.values().map(|track| track.sealed.clone()).collect()
    }
}

// === impl Track ===

impl Track {
    /// Returns whether there is something new.
    fn turn(&mut self, revision: u64, now: Now<'_>) -> bool {
        let Now { in_force, unhealthy, materials } = now;
        for Change { key, new, .. } in changes(&self.of.backend_sets, &in_force.backend_sets) {
            // Of a set that is gone the last backends stay, as they were at last.
            if let Some((own, new)) = self.spec.backend_sets.get(key).zip(new) {
                let set = BackendSet { backends: new.backends.clone(), ..BackendSet::clone(own) };
                self.state.backend_sets.insert(key.clone(), set.into());
            }
        }
        self.of = in_force.clone();
        let all = materials.clone().union(self.materials.clone());
        let former: &Snapshot = &self.sealed.snapshot;
        let unhealthy = unhealthy.only(|set| self.state.backend_sets.contains_key(set));
        let content = resolve(former, self.state.clone(), unhealthy, all);
        let sealed = self.sealed.followed_by(former.id.version, revision, content);
        let is_new = former.id.version == Version::default();
        let is_news = is_new || sealed.snapshot.id.digest != former.id.digest;
        self.sealed = sealed;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{material::MaterialId, secret::Secret};

    use super::*;
    use crate::desired::tests::{APP, state};

    const NOW: Version = Version { epoch: 1, version: 7 };

    /// What there is on the tracks, if it is news.
    fn turn(tracks: &mut Tracks, in_force: &DesiredState, version: &mut Version) -> Vec<Sealed> {
        let (unhealthy, materials) = (UnhealthyBackends::default(), Materials::new());
        let now = Now { in_force, unhealthy: &unhealthy, materials: &materials };
        if !tracks.turn(now) {
            return Vec::new();
        }
        let ids = tracks.date(version);
        let sealed = tracks.sealed();
        assert_eq!(ids, sealed.iter().map(|one| one.snapshot.id).collect::<Vec<_>>());
        sealed
    }

    #[test]
    fn a_track_has_its_own_routes_and_the_backends_of_now() {
        let mut tracks = Tracks::default();
        tracks.was_current(3, state(APP), Materials::new());
        assert!(tracks.begin_recent(3) && !tracks.begin_recent(2));
        let now = state(
            r#"backend_sets = [
                 { name = "app", balance = "random", backends = [{ address = "1.1.1.1:1", weight = 5 }] },
                 { name = "new" },
               ]"#,
        );
        let mut version = NOW;
        let sealed = turn(&mut tracks, &now, &mut version).remove(0);
        let Snapshot { id, revision, desired, members, .. } = &*sealed.snapshot;
        assert_eq!((id.version.version, *revision, version.version), (8, 3, 8));
        assert_eq!(desired.routes, state(APP).routes);
        assert_eq!(desired.backend_sets["app"].balance, state(APP).backend_sets["app"].balance);
        assert_eq!(*members["app"], now.backend_sets["app"].backends);
        assert!(!desired.backend_sets.contains_key("new"));
        assert!(turn(&mut tracks, &now, &mut version).is_empty(), "nothing is new");
    }

    #[test]
    fn a_set_that_is_gone_now_keeps_what_it_had() {
        let mut tracks = Tracks::default();
        tracks.begin(3, state(APP), Materials::new());
        let mut version = NOW;
        let drained = state(&APP.replace(r#""1.1.1.1:1""#, r#""1.1.1.1:1", state = "draining""#));
        turn(&mut tracks, &drained, &mut version);
        let without = state("backend_sets = [{ name = 'other' }]");
        assert!(turn(&mut tracks, &without, &mut version).is_empty());
        let sealed = tracks.sealed().remove(0);
        assert_eq!(*sealed.snapshot.members["app"], drained.backend_sets["app"].backends);
        tracks.retain(|revision| revision != 3);
        assert!(!tracks.has(3) && tracks.sealed().is_empty());
    }

    #[test]
    fn what_only_an_earlier_revision_needs_goes_with_it() {
        let id = |name: &str| MaterialId::of(name);
        let secret = |text: &str| Secret::new(text.into());
        let spec = "certificates = [{ name = 'old', cert = '/old.pem', key = '/old.pem' }]
                    listeners = [{ name = 'web', address = '127.0.0.1:1', tls = { certificates = ['old'] } }]";
        let mut tracks = Tracks::default();
        let known =
            [(id("file:/old.pem"), secret("old")), (id("file:/other.pem"), secret("other"))];
        tracks.was_current(3, state(spec), known.into_iter().collect());
        assert!(tracks.begin_recent(3));
        let (mut version, now) = (NOW, state(""));
        let sealed = turn(&mut tracks, &now, &mut version).remove(0);
        let ids: Vec<_> = sealed.snapshot.materials.keys().collect();
        assert_eq!(ids, [&id("file:/old.pem")]);
    }

    #[test]
    fn the_store_is_asked_once() {
        let mut tracks = Tracks::default();
        assert!(tracks.recall(3) && !tracks.recall(3) && tracks.recall(4));
        tracks.recalled(3);
        assert!(tracks.recall(3));
    }
}
