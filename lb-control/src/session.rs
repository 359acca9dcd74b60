//! What one connected proxy is sent next: the latest state, one update at a time.
//!
//! Pure. The next update waits for the answer to the last one, so a proxy that is slow skips
//! versions, and a delta always starts from what the proxy said it runs. A proxy that never answers
//! gets full snapshots, seldom. One that refuses the current revision is offered it again, because what
//! it lacked may be there later, less and less often; meanwhile it follows the track of the revision that
//! it runs.

use std::time::{Duration, Instant};

use lb_common::snapshot::SnapshotId;

/// How long an answer is waited for.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a revision that was refused is not offered again, at first.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// And at last.
const MOST_PAUSE: Duration = Duration::from_secs(160);

#[derive(Debug)]
pub struct Session {
    running: Option<SnapshotId>,
    /// The revision of that; 0 if it is not known.
    revision: u64,
    /// Sent and not answered yet.
    sent: Option<Sent>,
    refused: Option<Refused>,
    /// The last answer was not what a delta could start from.
    full_next: bool,
}

/// What there is to send.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    pub current: SnapshotId,
    /// The revision that brought its spec: with what is set by hand it would be refused as before.
    pub spec: u64,
    /// Of the revision that the proxy runs, if that is another one and in use.
    pub track: Option<SnapshotId>,
}

#[derive(Debug)]
struct Sent {
    id: SnapshotId,
    revision: u64,
    spec: u64,
    full: bool,
    at: Instant,
}

/// Not to be offered for a while.
#[derive(Clone, Copy, Debug)]
struct Refused {
    spec: u64,
    /// What came from an earlier epoch may have been refused for that.
    epoch: u64,
    until: Instant,
    pause: Duration,
    /// The track, too, was refused: until then, and after so long a pause.
    of_track: Option<(Instant, Duration)>,
}

/// What to do about what there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Until the next snapshot or the next answer.
    Nothing,
    /// Look again then, if nothing happens before.
    WaitUntil(Instant),
    /// Send all of it, or what leads to it from here.
    Send { id: SnapshotId, base: Option<SnapshotId> },
}

// === impl Session ===

impl Session {
    pub fn new(running: Option<SnapshotId>, revision: u64) -> Self {
        Self { running, revision, sent: None, refused: None, full_next: false }
    }

    /// The revision that the proxy runs; 0 if it is not known.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn next(&self, offers: &Offers, now: Instant) -> Next {
        let is_refused = |refused: &Refused| {
            let (spec, epoch) = (offers.spec, offers.current.version.epoch);
            (refused.spec, refused.epoch) == (spec, epoch) && now < refused.until
        };
        let Some(refused) = self.refused.filter(is_refused) else {
            return self.towards(offers.current, now);
        };
        let track = offers.track.filter(|_| refused.of_track.is_none_or(|(until, _)| until <= now));
        match track.map_or(Next::Nothing, |track| self.towards(track, now)) {
            Next::Nothing => {
                let of_track =
                    refused.of_track.map(|(until, _)| until).filter(|until| now < *until);
                Next::WaitUntil(of_track.map_or(refused.until, |until| until.min(refused.until)))
            }
            Next::WaitUntil(at) => Next::WaitUntil(at.min(refused.until)),
            send @ Next::Send { .. } => send,
        }
    }

    fn towards(&self, id: SnapshotId, now: Instant) -> Next {
        if self.running == Some(id) {
            return Next::Nothing;
        }
        match &self.sent {
            Some(sent) if sent.id == id => Next::Nothing,
            Some(sent) if now < sent.at + ANSWER_TIMEOUT => {
                Next::WaitUntil(sent.at + ANSWER_TIMEOUT)
            }
            Some(_) => Next::Send { id, base: None },
            None => Next::Send { id, base: self.running.filter(|_| !self.full_next) },
        }
    }

    /// `revision` is what is sent, which is all of it or what leads there.
    pub fn sent(
        &mut self,
        id: SnapshotId,
        revision: u64,
        offers: &Offers,
        full: bool,
        now: Instant,
    ) {
        let spec = if id == offers.current { offers.spec } else { revision };
        self.sent = Some(Sent { id, revision, spec, full, at: now });
    }

    /// The last of it is on its way; the time for an answer begins.
    pub fn is_sent(&mut self, now: Instant) {
        if let Some(sent) = &mut self.sent {
            sent.at = now;
        }
    }

    /// `revision` is what the proxy says that this is of; 0 if it does not.
    pub fn applied(&mut self, id: SnapshotId, revision: u64, now: Instant) {
        let is_other = self.running.replace(id) != Some(id);
        let Some(sent) = self.answered(id) else {
            // The answer to something that was overtaken.
            if is_other {
                self.revision = revision;
            }
            return;
        };
        self.full_next = sent.id != id;
        if self.full_next {
            // If it made something else of it, again would hardly help.
            self.refuse(&sent, now);
        } else {
            self.refused = self.refused.filter(|refused| refused.spec != sent.spec);
            self.revision = sent.revision;
        }
    }

    /// A delta that was rejected is worth the whole snapshot at once. Returns the revision that is refused,
    /// if it was a whole one.
    pub fn rejected(&mut self, id: SnapshotId, now: Instant) -> Option<u64> {
        let sent = self.answered(id)?;
        self.full_next = true;
        if sent.full {
            self.refuse(&sent, now);
        }
        sent.full.then_some(sent.revision)
    }

    fn refuse(&mut self, sent: &Sent, now: Instant) {
        if sent.revision == self.revision
            && let Some(refused) = &mut self.refused
        {
            let pause = refused.of_track.map_or(REFUSED_PAUSE, |(_, last)| longer(last));
            refused.of_track = Some((now + pause, pause));
            return;
        }
        let again = self.refused.filter(|refused| refused.spec == sent.spec);
        let pause = again.map_or(REFUSED_PAUSE, |refused| longer(refused.pause));
        let (spec, epoch, until) = (sent.spec, sent.id.version.epoch, now + pause);
        let of_track = again.and_then(|refused| refused.of_track);
        self.refused = Some(Refused { spec, epoch, until, pause, of_track });
    }

    fn answered(&mut self, id: SnapshotId) -> Option<Sent> {
        self.sent.take_if(|sent| sent.id.version == id.version)
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(MOST_PAUSE)
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
            let session = Session::new(running.map(id), running.unwrap_or_default());
            Self { session, now: lb_common::clock::now() }
        }

        /// Each version is a revision of its own.
        fn next(&self, current: u64) -> Next {
            self.next_of(current, current, None)
        }

        fn next_of(&self, current: u64, spec: u64, track: Option<u64>) -> Next {
            let offers = Offers { current: id(current), spec, track: track.map(id) };
            self.session.next(&offers, self.now)
        }

        fn send(&mut self, version: u64, full: bool) {
            let offers = Offers { current: id(version), spec: version, track: None };
            self.session.sent(id(version), version, &offers, full, self.now);
        }

        /// The track of revision 1.
        fn send_track(&mut self, version: u64) {
            let offers = Offers { current: id(version + 1), spec: 2, track: Some(id(version)) };
            self.session.sent(id(version), 1, &offers, true, self.now);
        }
    }

    fn full(version: u64) -> Next {
        Next::Send { id: id(version), base: None }
    }

    fn from(base: u64, version: u64) -> Next {
        Next::Send { id: id(version), base: Some(id(base)) }
    }

    #[test]
    fn a_proxy_is_brought_from_what_it_runs_to_what_it_should() {
        assert_eq!(Fixture::new(None).next(7), full(7));
        assert_eq!(Fixture::new(Some(5)).next(7), from(5, 7));
        assert_eq!(Fixture::new(Some(7)).next(7), Next::Nothing);
        let mut f = Fixture::new(None);
        f.send(7, true);
        assert_eq!(f.next(7), Next::Nothing, "it is on its way");
        f.session.applied(id(7), 0, f.now);
        assert_eq!((f.next(7), f.next(8)), (Next::Nothing, from(7, 8)));
    }

    #[test]
    fn a_slow_proxy_skips_versions() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        let deadline = Next::WaitUntil(f.now + ANSWER_TIMEOUT);
        assert_eq!((f.next(3), f.next(4)), (deadline, deadline));
        f.session.applied(id(2), 0, f.now);
        assert_eq!(f.next(5), from(2, 5));
    }

    #[test]
    fn a_proxy_that_never_answers_gets_the_whole_snapshot_now_and_then() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        f.now += ANSWER_TIMEOUT;
        assert_eq!(f.next(2), Next::Nothing, "it has that one");
        assert_eq!(f.next(3), full(3));
        f.send(3, true);
        assert_eq!(f.next(4), Next::WaitUntil(f.now + ANSWER_TIMEOUT));
    }

    #[test]
    fn a_rejected_delta_is_followed_by_the_whole_snapshot_at_once() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        f.session.rejected(id(2), f.now);
        assert_eq!(f.next(2), full(2));
    }

    #[test]
    fn a_refused_revision_is_followed_by_another_one_or_after_a_pause_and_whole() {
        let mut f = Fixture::new(Some(1));
        f.send(2, true);
        f.session.rejected(id(2), f.now);
        assert_eq!((f.next(2), f.next(3)), (Next::WaitUntil(f.now + REFUSED_PAUSE), full(3)));
        f.now += REFUSED_PAUSE;
        assert_eq!(f.next(2), full(2));
        f.send(3, true);
        f.session.applied(id(3), 0, f.now);
        assert_eq!(f.next(4), from(3, 4));
    }

    #[test]
    fn a_proxy_that_makes_something_else_of_a_snapshot_is_not_sent_it_again() {
        let mut f = Fixture::new(None);
        f.send(2, true);
        f.session.applied(SnapshotId { digest: Digest(666), ..id(2) }, 0, f.now);
        assert_eq!((f.next(2), f.next(3)), (Next::WaitUntil(f.now + REFUSED_PAUSE), full(3)));
    }

    #[test]
    fn an_answer_to_something_older_changes_nothing() {
        let mut f = Fixture::new(None);
        f.send(3, true);
        f.session.rejected(id(2), f.now);
        assert_eq!(f.next(3), Next::Nothing);
    }

    #[test]
    fn a_revision_that_is_refused_again_and_again_is_offered_less_often() {
        let mut f = Fixture::new(Some(1));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            f.send(2, true);
            f.session.rejected(id(2), f.now);
            let Next::WaitUntil(at) = f.next(2) else { panic!("it is not to be offered at once") };
            pauses.push((at - f.now).as_secs());
            f.now = at;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 160]);
    }

    #[test]
    fn a_proxy_that_refuses_a_revision_follows_the_track_of_the_one_that_it_runs() {
        let mut f = Fixture::new(Some(1));
        f.send(2, true);
        assert_eq!(f.session.rejected(id(2), f.now), Some(2));
        let pause = Next::WaitUntil(f.now + REFUSED_PAUSE);
        assert_eq!(f.next_of(4, 2, Some(3)), Next::Send { id: id(3), base: None });
        f.send_track(3);
        f.session.applied(id(3), 0, f.now);
        assert_eq!((f.session.revision(), f.next_of(4, 2, Some(3))), (1, pause));
        assert_eq!(f.next_of(6, 2, Some(5)), from(3, 5));
        f.now += REFUSED_PAUSE;
        assert_eq!(f.next_of(6, 2, Some(5)), from(3, 6), "it is tried again");
        assert_eq!(f.next_of(7, 7, None), from(3, 7), "and another one is");
    }

    #[test]
    fn a_track_that_is_refused_as_well_is_sent_again_after_a_pause_of_its_own() {
        let mut f = Fixture::new(Some(1));
        f.send(2, true);
        f.session.rejected(id(2), f.now);
        f.now += REFUSED_PAUSE / 2;
        f.send_track(3);
        assert_eq!(f.session.rejected(id(3), f.now), Some(1));
        let pause = Next::WaitUntil(f.now + REFUSED_PAUSE / 2);
        assert_eq!(f.next_of(4, 2, Some(3)), pause);
        assert_eq!(f.next_of(6, 2, Some(5)), pause, "however often it is published");
        f.send(4, true);
        f.session.sent.as_mut().expect("it is sent").spec = 2;
        f.now += REFUSED_PAUSE / 2;
        f.session.rejected(id(4), f.now);
        assert_eq!(f.next_of(8, 2, Some(7)), Next::WaitUntil(f.now + REFUSED_PAUSE / 2));
        f.now += REFUSED_PAUSE / 2;
        assert_eq!(f.next_of(8, 2, Some(7)), full(7));
    }

    #[test]
    fn what_was_refused_is_offered_at_once_by_a_later_epoch() {
        let mut f = Fixture::new(Some(9));
        f.send(2, true);
        f.session.rejected(id(2), f.now);
        assert_eq!(f.next(2), Next::WaitUntil(f.now + REFUSED_PAUSE));
        let version = Version { epoch: 2, version: 1 };
        let current = SnapshotId { version, ..id(2) };
        let offers = Offers { current, spec: 2, track: None };
        assert_eq!(f.session.next(&offers, f.now), Next::Send { id: current, base: None });
    }

    #[test]
    fn a_late_answer_says_itself_which_revision_runs() {
        let mut f = Fixture::new(Some(1));
        f.send(2, false);
        f.now += ANSWER_TIMEOUT;
        f.send(3, true);
        f.session.applied(id(2), 2, f.now);
        assert_eq!(f.session.revision(), 2);
        f.session.applied(id(3), 0, f.now);
        assert_eq!(f.session.revision(), 3);
    }
}
