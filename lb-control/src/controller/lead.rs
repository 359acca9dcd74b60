//! The epoch that proxies follow: later than all that any of them runs.
//!
//! A proxy refuses what is older than what it runs. After a backup was restored, or where a clock went
//! back and nothing is stored, that is all that this controller has, until it leads for a later epoch than
//! the proxy has seen. It does so by itself.
//!
//! An epoch is a time of day in milliseconds, or a little later. One that is [`FAR`] from now is a proxy's
//! mistake, or somebody's who wants to use up all epochs: nobody follows it, and the proxy's data directory
//! is to be removed.

use std::time::Duration;

use lb_common::snapshot::SnapshotId;

/// Longer than clocks are wrong by, and than a fleet takes to count so many milliseconds up.
pub const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Whether nobody follows this epoch.
pub fn is_far(epoch: u64, wall: Duration) -> bool {
    u64::try_from((wall + FAR).as_millis()).is_ok_and(|latest| epoch >= latest)
}

#[derive(Debug, Default)]
pub struct Lead {
    /// The least that is needed.
    wanted: Option<u64>,
    is_asked: bool,
    /// Something was asked for, and may be stored although it seemed to fail.
    is_in_doubt: bool,
}

// === impl Lead ===

impl Lead {
    /// A proxy came that runs this.
    pub fn hello(&mut self, running: SnapshotId, current: SnapshotId, wall: Duration) {
        let is_ahead = running != current && running.version >= current.version;
        if is_ahead && !is_far(running.version.epoch, wall) {
            self.want(running.version.epoch + 1);
        }
    }

    /// To lead for this epoch at the least.
    pub fn want(&mut self, epoch: u64) {
        self.wanted = self.wanted.max(Some(epoch));
    }

    /// Whether the epoch stays as it is.
    pub fn is_settled(&self) -> bool {
        self.wanted.is_none() && !self.is_asked
    }

    /// Whether the store may have a later epoch that was asked for here.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// What the store is to be asked for; exactly one [`Lead::done`] or [`Lead::failed`] follows.
    pub fn ask(&mut self) -> Option<u64> {
        if self.is_asked {
            return None;
        }
        self.is_asked = self.wanted.is_some();
        self.is_in_doubt |= self.is_asked;
        self.wanted
    }

    pub fn done(&mut self, epoch: u64) {
        (self.is_asked, self.is_in_doubt) = (false, false);
        self.wanted = self.wanted.filter(|wanted| *wanted > epoch);
    }

    pub fn failed(&mut self) {
        self.is_asked = false;
    }
}

#[cfg(test)]
mod tests {
    use lb_common::snapshot::{Digest, Version};

    use super::*;

    fn id(epoch: u64, version: u64, digest: u128) -> SnapshotId {
        SnapshotId { version: Version { epoch, version }, digest: Digest(digest) }
    }

    const WALL: Duration = Duration::from_millis(1_800_000_000_000);

    /// What is wanted of a controller at 50.7 if a proxy runs this.
    fn wanted(running: SnapshotId) -> Option<u64> {
        let mut lead = Lead::default();
        lead.hello(running, id(50, 7, 1), WALL);
        lead.ask()
    }

    #[test]
    fn a_proxy_that_is_ahead_is_followed_by_a_later_epoch() {
        assert_eq!(wanted(id(50, 7, 1)), None, "it runs what is published");
        assert_eq!(wanted(id(50, 6, 2)), None, "it runs what was published");
        assert_eq!(wanted(id(49, 900, 2)), None, "an earlier controller's");
        assert_eq!(wanted(id(50, 7, 2)), Some(51), "another one was at 50, too");
        assert_eq!(wanted(id(50, 8, 2)), Some(51));
        assert_eq!(wanted(id(70, 1, 2)), Some(71));
    }

    #[test]
    fn a_clock_that_is_a_year_off_is_followed_and_an_absurd_epoch_is_not() {
        let year = 365 * 24 * 3600 * 1000;
        let now = 1_800_000_000_000;
        assert_eq!(wanted(id(now + year, 1, 2)), Some(now + year + 1));
        assert_eq!(wanted(id(now + 11 * year, 1, 2)), None);
        assert_eq!(wanted(id(u64::MAX, u64::MAX, 2)), None);
    }

    #[test]
    fn the_latest_of_several_counts_and_is_asked_for_once() {
        let mut lead = Lead::default();
        for epoch in [60, 80, 70] {
            lead.hello(id(epoch, 1, 2), id(50, 7, 1), WALL);
        }
        assert_eq!((lead.ask(), lead.ask()), (Some(81), None));
        lead.hello(id(90, 1, 2), id(50, 7, 1), WALL);
        lead.done(81);
        assert_eq!(lead.ask(), Some(91), "it came while 81 was asked for");
        lead.failed();
        assert_eq!(lead.ask(), Some(91), "again");
        lead.done(100);
        assert!(lead.is_settled());
    }
}
