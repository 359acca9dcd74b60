//! What one connected proxy is sent next: the latest state, one update at a time.
//!
//! Pure. The next update waits for the answer to the last one, so a proxy that is slow skips
//! versions, and a delta always starts from what the proxy said it runs. A proxy that never answers
//! gets full snapshots, seldom, and so does one that refuses: what it lacked may be there later.

use std::time::{Duration, Instant};

use lb_common::snapshot::SnapshotId;

/// How long an answer is waited for.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a snapshot that was refused is not offered again.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Session {
    running: Option<SnapshotId>,
    /// Sent and not answered yet.
    offered: Option<Offered>,
    /// Refused; not to be offered again before that time.
    refused: Option<(SnapshotId, Instant)>,
    /// The last answer was not what a delta could start from.
    full_next: bool,
}

#[derive(Debug)]
struct Offered {
    id: SnapshotId,
    full: bool,
    at: Instant,
}

/// What to do about the current snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Until the next snapshot or the next answer.
    Nothing,
    /// Look again then, if nothing happens before.
    WaitUntil(Instant),
    /// Send all of it, or what leads to it from here.
    Send { base: Option<SnapshotId> },
}

// === impl Session ===

impl Session {
    pub fn new(running: Option<SnapshotId>) -> Self {
        Self { running, offered: None, refused: None, full_next: false }
    }

    pub fn next(&self, current: SnapshotId, now: Instant) -> Next {
        if self.running == Some(current) {
            return Next::Nothing;
        }
        if let Some((refused, until)) = self.refused
            && refused == current
            && now < until
        {
            return Next::WaitUntil(until);
        }
        match &self.offered {
            Some(offered) if offered.id == current => Next::Nothing,
            Some(offered) if now < offered.at + ANSWER_TIMEOUT => {
                Next::WaitUntil(offered.at + ANSWER_TIMEOUT)
            }
            Some(_) => Next::Send { base: None },
            None => Next::Send { base: self.running.filter(|_| !self.full_next) },
        }
    }

    pub fn sent(&mut self, id: SnapshotId, full: bool, now: Instant) {
        self.offered = Some(Offered { id, full, at: now });
    }

    pub fn applied(&mut self, id: SnapshotId, now: Instant) {
        self.running = Some(id);
        if let Some(offered) = self.answered(id) {
            self.full_next = offered.id != id;
            // If it made something else of it, again would hardly help.
            self.refused = self.full_next.then_some((offered.id, now + REFUSED_PAUSE));
        }
    }

    /// A delta that was rejected is worth the whole snapshot at once, a whole snapshot the next one.
    pub fn rejected(&mut self, id: SnapshotId, now: Instant) {
        if let Some(offered) = self.answered(id) {
            self.full_next = true;
            self.refused = offered.full.then_some((offered.id, now + REFUSED_PAUSE));
        }
    }

    fn answered(&mut self, id: SnapshotId) -> Option<Offered> {
        self.offered.take_if(|offered| offered.id.version == id.version)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::snapshot::{Digest, Version};

    use super::*;

    fn id(version: u64) -> SnapshotId {
        SnapshotId { version: Version { epoch: 1, version }, digest: Digest(version.into()) }
    }

    struct Fixture {
        session: Session,
        now: Instant,
    }

    impl Fixture {
        fn new(running: Option<u64>) -> Self {
            Self { session: Session::new(running.map(id)), now: lb_common::clock::now() }
        }

        fn next(&self, current: u64) -> Next {
            self.session.next(id(current), self.now)
        }

        fn send(&mut self, version: u64, full: bool) {
            self.session.sent(id(version), full, self.now);
        }
    }

    const FULL: Next = Next::Send { base: None };

    fn from(version: u64) -> Next {
        Next::Send { base: Some(id(version)) }
    }

    #[test]
    fn a_proxy_is_brought_from_what_it_runs_to_what_it_should() {
        assert_eq!(Fixture::new(None).next(7), FULL);
        assert_eq!(Fixture::new(Some(5)).next(7), from(5));
        assert_eq!(Fixture::new(Some(7)).next(7), Next::Nothing);
        let mut f = Fixture::new(None);
        f.send(7, true);
        assert_eq!(f.next(7), Next::Nothing, "it is on its way");
        f.session.applied(id(7), f.now);
        assert_eq!((f.next(7), f.next(8)), (Next::Nothing, from(7)));
    }

    #[test]
    fn a_slow_proxy_skips_versions() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        let deadline = Next::WaitUntil(f.now + ANSWER_TIMEOUT);
        assert_eq!((f.next(3), f.next(4)), (deadline, deadline));
        f.session.applied(id(2), f.now);
        assert_eq!(f.next(5), from(2));
    }

    #[test]
    fn a_proxy_that_never_answers_gets_the_whole_snapshot_now_and_then() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        f.now += ANSWER_TIMEOUT;
        assert_eq!(f.next(2), Next::Nothing, "it has that one");
        assert_eq!(f.next(3), FULL);
        f.send(3, true);
        assert_eq!(f.next(4), Next::WaitUntil(f.now + ANSWER_TIMEOUT));
    }

    #[test]
    fn a_rejected_delta_is_followed_by_the_whole_snapshot_at_once() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        f.session.rejected(id(2), f.now);
        assert_eq!(f.next(2), FULL);
    }

    #[test]
    fn a_rejected_snapshot_is_followed_by_another_version_or_after_a_pause_and_whole() {
        let mut f = Fixture::new(Some(1));
        f.send(2, true);
        f.session.rejected(id(2), f.now);
        assert_eq!((f.next(2), f.next(3)), (Next::WaitUntil(f.now + REFUSED_PAUSE), FULL));
        f.now += REFUSED_PAUSE;
        assert_eq!(f.next(2), FULL);
        f.send(3, true);
        f.session.applied(id(3), f.now);
        assert_eq!(f.next(4), from(3));
    }

    #[test]
    fn a_proxy_that_makes_something_else_of_a_snapshot_is_not_sent_it_again() {
        let mut f = Fixture::new(None);
        f.send(2, true);
        f.session.applied(SnapshotId { digest: Digest(666), ..id(2) }, f.now);
        assert_eq!((f.next(2), f.next(3)), (Next::WaitUntil(f.now + REFUSED_PAUSE), FULL));
    }

    #[test]
    fn an_answer_to_something_older_changes_nothing() {
        let mut f = Fixture::new(None);
        f.send(3, true);
        f.session.rejected(id(2), f.now);
        assert_eq!(f.next(3), Next::Nothing);
    }
}
