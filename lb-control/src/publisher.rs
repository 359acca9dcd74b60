//! The snapshot that proxies are to run, encoded once for all of them.
//!
//! Subscribers see the latest one, never a queue. It is encoded when the first proxy asks: whole, and as
//! the deltas to it from a bounded number of earlier snapshots.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use lb_common::{
    snapshot::{Snapshot, SnapshotId},
    telemetry::trace_context::TraceContext,
};
use lb_proto::{
    update::{self, Sealed},
    v1,
};
use prost::Message;
use tokio::sync::watch;

use crate::session::Offers;

/// So many earlier snapshots are kept to start deltas from.
const MOST_BASES: usize = 64;

/// Written by the controller's owner only.
#[derive(Debug)]
pub struct Publisher {
    current: watch::Sender<Arc<Published>>,
}

/// What is to be published.
#[derive(Debug)]
pub struct Publication {
    pub current: Sealed,
    /// The revision that brought its spec: later ones set things by hand.
    pub spec: u64,
    /// All that are in use besides.
    pub tracks: Vec<Sealed>,
}

/// What is to be run: by most proxies the current revision, by who refuses it another one.
#[derive(Debug)]
pub struct Published {
    current: Arc<Line>,
    /// The revision that brought its spec.
    spec: u64,
    /// By revision.
    tracks: BTreeMap<u64, Arc<Line>>,
    /// Where in a trace it was published.
    cause: Option<TraceContext>,
}

/// One snapshot, and everything that is sent of it.
#[derive(Debug)]
pub struct Line {
    sealed: Sealed,
    full: OnceLock<Bytes>,
    /// Oldest first.
    bases: VecDeque<Base>,
}

#[derive(Debug)]
struct Base {
    sealed: Sealed,
    /// Encoded by whoever asks first; the others wait for it.
    delta: OnceLock<Bytes>,
}

// === impl Publisher ===

impl Publisher {
    pub fn new(first: Sealed) -> Self {
        let current = Arc::new(Line::new(first, VecDeque::new()));
        let spec = current.sealed.snapshot.revision;
        let published = Published { current, spec, tracks: BTreeMap::new(), cause: None };
        Self { current: watch::Sender::new(Arc::new(published)) }
    }

    pub fn publish(&self, next: Publication, cause: Option<TraceContext>) {
        self.current.send_modify(|current| *current = Arc::new(current.followed_by(next, cause)));
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.current.subscribe()
    }

    /// What proxies are to run now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow().current.sealed.snapshot)
    }
}

// === impl Published ===

impl Published {
    /// Of what is current.
    pub fn id(&self) -> SnapshotId {
        self.current.id()
    }

    pub fn cause(&self) -> Option<TraceContext> {
        self.cause
    }

    /// What there is for a proxy that runs this revision.
    pub fn offers(&self, running: u64) -> Offers {
        let track = self.tracks.get(&running).map(|line| line.id());
        Offers { current: self.id(), spec: self.spec, track }
    }

    /// What leads to `id`, which is one of the offers: from `base` if that has the same in it, or if it is a
    /// snapshot that was published and it takes less than all of this one. Returns also whether it is
    /// all.
    pub fn update(&self, id: SnapshotId, base: Option<SnapshotId>) -> (v1::Update, bool) {
        let tracks = || self.tracks.values().find(|line| line.id() == id);
        let line = if id == self.id() { &self.current } else { tracks().unwrap_or(&self.current) };
        let delta = base.and_then(|base| line.delta_from(base).or_else(|| self.across(base, line)));
        let (content, full) = match delta {
            Some(delta) => (v1::update::Content::Delta(delta), false),
            None => {
                let full = line.full.get_or_init(|| line.sealed.resources.encode());
                (v1::update::Content::Full(full.clone()), true)
            }
        };
        let update = v1::Update {
            snapshot: Some(update::snapshot_id(line.id())),
            revision: line.sealed.snapshot.revision,
            content: Some(content),
        };
        (update, full)
    }

    /// From another line. Few go this way, so it is encoded for each.
    fn across(&self, base: SnapshotId, to: &Line) -> Option<Bytes> {
        let lines = self.tracks.values().chain([&self.current]);
        let known =
            lines.flat_map(|line| line.bases.iter().map(|base| &base.sealed).chain([&line.sealed]));
        let from = known.into_iter().find(|known| known.snapshot.id == base)?;
        let delta = Bytes::from(from.delta(&to.sealed).encode_to_vec());
        (delta.len() < to.sealed.resources.encoded_len()).then_some(delta)
    }

    fn followed_by(&self, next: Publication, cause: Option<TraceContext>) -> Self {
        let Publication { current, spec, tracks } = next;
        let line = |sealed: Sealed| {
            let revision = sealed.snapshot.revision;
            let line = match self.tracks.get(&revision) {
                Some(line) if line.id() == sealed.snapshot.id => Arc::clone(line),
                Some(line) => Arc::new(line.followed_by(sealed)),
                None => Arc::new(Line::new(sealed, VecDeque::new())),
            };
            (revision, line)
        };
        let tracks = tracks.into_iter().map(line).collect();
        Self { current: Arc::new(self.current.followed_by(current)), spec, tracks, cause }
    }
}

// === impl Line ===

impl Line {
    fn new(sealed: Sealed, bases: VecDeque<Base>) -> Self {
        Self { sealed, full: OnceLock::new(), bases }
    }

    fn id(&self) -> SnapshotId {
        self.sealed.snapshot.id
    }

    fn delta_from(&self, base: SnapshotId) -> Option<Bytes> {
        if base.digest == self.id().digest {
            // Whoever published it: an earlier controller, as a rule.
            let nothing = v1::Delta { base: Some(update::snapshot_id(base)), ..<_>::default() };
            return Some(nothing.encode_to_vec().into());
        }
        let known = self.bases.iter().find(|known| known.sealed.snapshot.id == base)?;
        let delta = known.delta_to(&self.sealed);
        (delta.len() < self.sealed.resources.encoded_len()).then(|| delta.clone())
    }

    fn followed_by(&self, next: Sealed) -> Self {
        let earlier = self.bases.iter().map(|base| &base.sealed).chain([&self.sealed]);
        let surplus = (self.bases.len() + 1).saturating_sub(MOST_BASES);
        Self::new(next, earlier.skip(surplus).map(Base::new).collect())
    }
}

// === impl Base ===

impl Base {
    fn new(sealed: &Sealed) -> Self {
        Self { sealed: sealed.clone(), delta: OnceLock::new() }
    }

    fn delta_to(&self, next: &Sealed) -> &Bytes {
        self.delta.get_or_init(|| self.sealed.delta(next).encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use lb_common::snapshot::{Digest, Version};
    use lb_proto::update::Content;

    use super::*;
    use crate::desired::tests::state;

    /// Versions differ in one of twenty sets.
    fn sealed(version: u64) -> Sealed {
        let sets: Vec<_> = (0..20).map(|i| format!("{{ name = 'set-{i}' }}")).collect();
        let text = format!("backend_sets = [{{ name = 'v{version}' }}, {}]", sets.join(", "));
        let version = Version { epoch: 1, version };
        Sealed::new(version, version.version, Content::of(state(&text)))
    }

    fn publisher(versions: u64) -> (Publisher, Vec<Sealed>) {
        let publisher = Publisher::new(sealed(1));
        for version in 2..=versions {
            publisher.publish(alone(version), None);
        }
        (publisher, (1..=versions).map(sealed).collect())
    }

    fn alone(version: u64) -> Publication {
        Publication { current: sealed(version), spec: version, tracks: vec![] }
    }

    /// What leads to what is current.
    fn update(publisher: &Publisher, base: Option<SnapshotId>) -> (v1::Update, bool) {
        let current = current(publisher);
        current.update(current.id(), base)
    }

    fn current(publisher: &Publisher) -> Arc<Published> {
        publisher.subscribe().borrow().clone()
    }

    #[test]
    fn a_delta_leads_from_a_known_snapshot_to_the_current_one() {
        let (publisher, snapshots) = publisher(3);
        for base in &snapshots[..2] {
            let (update, full) = update(&publisher, Some(base.snapshot.id));
            let Some(v1::update::Content::Delta(delta)) = update.content else {
                panic!("not a delta: {update:?}")
            };
            let (next, bytes) = (&snapshots[2].snapshot, base.resources.encode());
            let base = Sealed::open(base.snapshot.id, 3, &bytes).expect("is valid");
            let reached = base.follow(next.id, 3, &delta).expect("is valid");
            assert_eq!((reached.snapshot.id, full), (next.id, false));
        }
    }

    #[test]
    fn a_base_counts_only_with_its_digest_and_while_it_is_kept() {
        let versions = MOST_BASES as u64 + 2;
        let (publisher, snapshots) = publisher(versions);
        let full = |id| update(&publisher, id).1;
        assert!(full(None));
        assert!(full(Some(snapshots[0].snapshot.id)), "it is too long ago");
        assert!(!full(Some(snapshots[1].snapshot.id)));
        assert!(full(Some(SnapshotId { digest: Digest(1), ..snapshots[1].snapshot.id })));
    }

    #[test]
    fn who_has_the_same_of_another_controller_is_sent_next_to_nothing() {
        let (publisher, snapshots) = publisher(2);
        let SnapshotId { version, digest } = snapshots[1].snapshot.id;
        let running = SnapshotId { version: Version { epoch: 0, ..version }, digest };
        let (update, full) = update(&publisher, Some(running));
        let Some(v1::update::Content::Delta(delta)) = update.content else {
            panic!("not a delta: {update:?}")
        };
        assert!(!full && delta.len() < 40, "{} bytes", delta.len());
        let bytes = snapshots[1].resources.encode();
        let base = Sealed::open(running, 2, &bytes).expect("is valid");
        let reached = base.follow(snapshots[1].snapshot.id, 2, &delta).expect("is valid");
        assert_eq!(reached.snapshot.id, snapshots[1].snapshot.id);
    }

    #[test]
    fn an_update_is_encoded_once_for_everyone() {
        let (publisher, snapshots) = publisher(2);
        let published = current(&publisher);
        let pointer = |id| match published.update(published.id(), id).0.content {
            Some(v1::update::Content::Delta(bytes) | v1::update::Content::Full(bytes)) => {
                bytes.as_ptr()
            }
            Some(v1::update::Content::Part(_)) | None => panic!("no content"),
        };
        let base = Some(snapshots[0].snapshot.id);
        assert_eq!((pointer(base), pointer(None)), (pointer(base), pointer(None)));
    }

    #[test]
    fn subscribers_see_only_the_latest() {
        let (publisher, _) = publisher(1);
        let mut subscriber = publisher.subscribe();
        subscriber.mark_unchanged();
        publisher.publish(alone(2), None);
        publisher.publish(alone(3), None);
        assert!(subscriber.has_changed().expect("is published to"));
        assert_eq!(subscriber.borrow_and_update().id().version.version, 3);
        assert!(!subscriber.has_changed().expect("is published to"));
    }

    #[test]
    fn a_track_is_offered_to_who_runs_its_revision_and_left_by_what_differs() {
        let publisher = Publisher::new(sealed(1));
        publisher.publish(alone(2), None);
        let track = Sealed::new(
            Version { epoch: 1, version: 3 },
            1,
            Content::of(sealed(1).snapshot.desired.clone()),
        );
        let publication = Publication { tracks: vec![track.clone()], ..alone(4) };
        publisher.publish(publication, None);
        let published = current(&publisher);
        assert_eq!(published.offers(2).track, None);
        let offers = published.offers(1);
        assert_eq!((offers.spec, offers.track), (4, Some(track.snapshot.id)));
        let (onto, full) = published.update(track.snapshot.id, Some(sealed(2).snapshot.id));
        assert_eq!((onto.revision, full), (1, false));
        let Some(v1::update::Content::Delta(delta)) = &onto.content else { panic!("a delta") };
        let reached = sealed(2).follow(track.snapshot.id, 1, delta).expect("leads there");
        assert_eq!(reached.snapshot.id, track.snapshot.id);
        let (back, full) = published.update(published.id(), Some(track.snapshot.id));
        assert_eq!((back.revision, full), (4, false));
        // It did not change, and what was encoded for it serves on.
        publisher.publish(Publication { tracks: vec![track], ..alone(5) }, None);
        assert!(Arc::ptr_eq(&current(&publisher).tracks[&1], &published.tracks[&1]));
    }
}
