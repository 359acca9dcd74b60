//! The snapshot that proxies are to run, encoded once for all of them.
//!
//! Subscribers see the latest one, never a queue. The deltas to it are encoded when the first
//! proxy asks, from a bounded number of earlier snapshots.

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
    snapshot: Arc<Snapshot>,
    bytes: Bytes,
    /// Where in a trace it was published.
    cause: Option<TraceContext>,
    /// Oldest first.
    bases: VecDeque<Base>,
}

#[derive(Debug)]
struct Base {
    snapshot: Arc<Snapshot>,
    /// Encoded by whoever asks first; the others wait for it.
    delta: OnceLock<Bytes>,
}

// === impl Publisher ===

impl Publisher {
    pub fn new(first: Sealed) -> Self {
        let published = Published {
            snapshot: Arc::new(first.snapshot),
            bytes: first.bytes,
            cause: None,
            bases: VecDeque::new(),
        };
        Self { current: watch::Sender::new(Arc::new(published)) }
    }

    pub fn publish(&self, next: Sealed, cause: Option<TraceContext>) {
        self.current.send_modify(|current| *current = Arc::new(current.followed_by(next, cause)));
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.current.subscribe()
    }

    /// What proxies are to run now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow().snapshot)
    }
}

// === impl Published ===

impl Published {
    pub fn id(&self) -> SnapshotId {
        self.snapshot.id
    }

    pub fn cause(&self) -> Option<TraceContext> {
        self.cause
    }

    /// What leads here: from `base` if that is a snapshot that was published, and if it takes less
    /// than all of it. Returns also whether it is all.
    pub fn update(&self, base: Option<SnapshotId>) -> (v1::Update, bool) {
        let base = self.bases.iter().find(|known| Some(known.snapshot.id) == base);
        let delta = base.map(|base| base.delta_to(&self.snapshot));
        let (content, full) = match delta.filter(|delta| delta.len() < self.bytes.len()) {
            Some(delta) => (v1::update::Content::Delta(delta.clone()), false),
            None => (v1::update::Content::Full(self.bytes.clone()), true),
        };
        let update = v1::Update {
            snapshot: Some(update::snapshot_id(self.snapshot.id)),
            revision: self.snapshot.revision,
            content: Some(content),
        };
        (update, full)
    }

    fn followed_by(&self, next: Sealed, cause: Option<TraceContext>) -> Self {
        let earlier = self.bases.iter().map(|base| &base.snapshot).chain([&self.snapshot]);
        let surplus = (self.bases.len() + 1).saturating_sub(MOST_BASES);
        Self {
            snapshot: Arc::new(next.snapshot),
            bytes: next.bytes,
            cause,
            bases: earlier.skip(surplus).map(Base::new).collect(),
        }
    }
}

// === impl Base ===

impl Base {
    fn new(snapshot: &Arc<Snapshot>) -> Self {
        Self { snapshot: Arc::clone(snapshot), delta: OnceLock::new() }
    }

    fn delta_to(&self, next: &Snapshot) -> &Bytes {
        self.delta.get_or_init(|| update::delta(&self.snapshot, next).encode_to_vec().into())
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
        let content = Content { desired: state(&text), ..Content::default() };
        update::seal(version, version.version, content)
    }

    fn publisher(versions: u64) -> (Publisher, Vec<Snapshot>) {
        let publisher = Publisher::new(sealed(1));
        for version in 2..=versions {
            publisher.publish(sealed(version), None);
        }
        (publisher, (1..=versions).map(|version| sealed(version).snapshot).collect())
    }

    fn current(publisher: &Publisher) -> Arc<Published> {
        publisher.subscribe().borrow().clone()
    }

    #[test]
    fn a_delta_leads_from_a_known_snapshot_to_the_current_one() {
        let (publisher, snapshots) = publisher(3);
        for base in &snapshots[..2] {
            let (update, full) = current(&publisher).update(Some(base.id));
            let Some(v1::update::Content::Delta(delta)) = update.content else {
                panic!("not a delta: {update:?}")
            };
            let reached = update::follow(base, snapshots[2].id, 3, &delta).expect("is valid");
            assert_eq!((reached.snapshot, full), (snapshots[2].clone(), false));
        }
    }

    #[test]
    fn a_base_counts_only_with_its_digest_and_while_it_is_kept() {
        let versions = MOST_BASES as u64 + 2;
        let (publisher, snapshots) = publisher(versions);
        let full = |id| current(&publisher).update(id).1;
        assert!(full(None));
        assert!(full(Some(snapshots[0].id)), "it is too long ago");
        assert!(!full(Some(snapshots[1].id)));
        assert!(full(Some(SnapshotId { digest: Digest(1), ..snapshots[1].id })));
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
        let base = Some(snapshots[0].id);
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
