//! Connections that answered a probe and wait for the next one of the same target.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::health::{probe::connection::Kept, schedule::TargetId};

/// No more are kept, however many descriptors there are: each costs memory here and there.
pub const MOST: usize = 65_536;
/// A connection serves so many probes. Differently many, so that those that were opened together are not
/// replaced together.
const USES: std::ops::RangeInclusive<u8> = 5..=10;
/// Backends close connections that are idle for longer, so that nothing is gained by keeping them.
const MOST_IDLE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Pool {
    idle: HashMap<TargetId, (Kept, Instant)>,
    most: usize,
    rng: fastrand::Rng,
}

impl Pool {
    pub fn new(most: usize, rng: fastrand::Rng) -> Self {
        Self { idle: HashMap::new(), most, rng }
    }

    /// The target's connection, if there is one; and so many probes a new one is to serve.
    pub fn take(&mut self, id: TargetId, interval: Duration) -> (Option<Kept>, u8) {
        let kept = self.idle.remove(&id).map(|(kept, _)| kept);
        let is_kept = self.idle.len() < self.most && interval <= MOST_IDLE;
        (kept, if is_kept { self.rng.u8(USES) } else { 1 })
    }

    pub fn put(&mut self, id: TargetId, kept: Kept, now: Instant) {
        if self.idle.len() < self.most {
            self.idle.insert(id, (kept, now));
        }
    }

    /// Closes those of targets that are gone, or that are not probed in time.
    pub fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, (_, since)| now.saturating_duration_since(*since) <= MOST_IDLE * 3);
    }
}
