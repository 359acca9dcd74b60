//! The snapshot that proxies are to run, encoded once for all of them.
//!
//! Subscribers see the latest one, never a queue. It is encoded when the first proxy asks: whole, and as
//! the deltas to it from a bounded number of earlier snapshots.

use std::{
    collections::VecDeque,
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

/// So many earlier snapshots are kept to start deltas from.
const MOST_BASES: usize = 64;

/// Written by the controller's owner only.
#[derive(Debug)]
pub struct Publisher {
    current: watch::Sender<Arc<Published>>,
}

/// One snapshot, and everything that is sent of it.
#[derive(Debug)]
pub struct Published {
    sealed: Sealed,
    full: OnceLock<Bytes>,
    /// Where in a trace it was published.
    cause: Option<TraceContext>,
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
        Self { current: watch::Sender::new(Arc::new(Published::new(first, None, VecDeque::new()))) }
    }

    pub fn publish(&self, next: Sealed, cause: Option<TraceContext>) {
        self.current.send_modify(|current| *current = Arc::new(current.followed_by(next, cause)));
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.current.subscribe()
    }

    /// What proxies are to run now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow().sealed.snapshot)
    }
}

// === impl Published ===

impl Published {
    fn new(sealed: Sealed, cause: Option<TraceContext>, bases: VecDeque<Base>) -> Self {
        Self { sealed, full: OnceLock::new(), cause, bases }
    }

    pub fn id(&self) -> SnapshotId {
        self.sealed.snapshot.id
    }

    pub fn cause(&self) -> Option<TraceContext> {
        self.cause
    }

    /// What leads here: from `base` if that has the same in it, or if it is a snapshot that was published
    /// and it takes less than all of this one. Returns also whether it is all.
    pub fn update(&self, base: Option<SnapshotId>) -> (v1::Update, bool) {
        let (content, full) = match base.and_then(|base| self.delta_from(base)) {
            Some(delta) => (v1::update::Content::Delta(delta), false),
            None => {
                let full = self.full.get_or_init(|| self.sealed.resources.encode());
                (v1::update::Content::Full(full.clone()), true)
            }
        };
        let update = v1::Update {
            snapshot: Some(update::snapshot_id(self.id())),
            revision: self.sealed.snapshot.revision,
            content: Some(content),
        };
        (update, full)
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

    fn followed_by(&self, next: Sealed, cause: Option<TraceContext>) -> Self {
        let earlier = self.bases.iter().map(|base| &base.sealed).chain([&self.sealed]);
        let surplus = (self.bases.len() + 1).saturating_sub(MOST_BASES);
        Self::new(next, cause, earlier.skip(surplus).map(Base::new).collect())
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
            publisher.publish(sealed(version), None);
        }
        (publisher, (1..=versions).map(sealed).collect())
    }

    fn current(publisher: &Publisher) -> Arc<Published> {
        publisher.subscribe().borrow().clone()
    }

    #[test]
    fn a_delta_leads_from_a_known_snapshot_to_the_current_one() {
        let (publisher, snapshots) = publisher(3);
        for base in &snapshots[..2] {
            let (update, full) = current(&publisher).update(Some(base.snapshot.id));
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
        let full = |id| current(&publisher).update(id).1;
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
        let (update, full) = current(&publisher).update(Some(running));
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
        let pointer = |id| match published.update(id).0.content {
            Some(v1::update::Content::Delta(bytes) | v1::update::Content::Full(bytes)) => {
                bytes.as_ptr()
            }
            None => panic!("no content"),
        };
        let base = Some(snapshots[0].snapshot.id);
        assert_eq!((pointer(base), pointer(None)), (pointer(base), pointer(None)));
    }

    #[test]
    fn subscribers_see_only_the_latest() {
        let (publisher, _) = publisher(1);
        let mut subscriber = publisher.subscribe();
        subscriber.mark_unchanged();
        publisher.publish(sealed(2), None);
        publisher.publish(sealed(3), None);
        assert!(subscriber.has_changed().expect("is published to"));
        assert_eq!(subscriber.borrow_and_update().id().version.version, 3);
        assert!(!subscriber.has_changed().expect("is published to"));
    }
}
