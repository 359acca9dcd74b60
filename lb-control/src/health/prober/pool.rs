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
    /// Probes under way that have a place for their connection.
    away: usize,
    most: usize,
    rng: fastrand::Rng,
}

/// What a probe goes by.
#[derive(Debug)]
pub struct Lent {
    /// The target's connection, if there is one.
    pub kept: Option<Kept>,
    /// So many probes a new connection is to serve. Only with a place in the pool it is more than one: a backend
    /// is told that its connection ends, and not left with one that nobody has room for.
    pub uses: u8,
}

// === impl Pool ===

impl Pool {
    pub fn new(most: usize, rng: fastrand::Rng) -> Self {
        Self { idle: HashMap::new(), away: 0, most, rng }
    }

    /// For one probe, which is to be followed by [`Pool::put`].
    pub fn take(&mut self, id: TargetId, interval: Duration) -> Lent {
        let kept = self.idle.remove(&id).map(|(kept, _)| kept);
        let has_place = interval <= MOST_IDLE && self.idle.len() + self.away < self.most;
        self.away += usize::from(has_place);
        Lent { kept, uses: if has_place { self.rng.u8(USES) } else { 1 } }
    }

    /// What became of the connection of a probe that was to make its new one for so many uses.
    pub fn put(&mut self, id: TargetId, uses: u8, kept: Option<Kept>, now: Instant) {
        let has_place = uses > 1;
        self.away -= usize::from(has_place);
        match kept {
            Some(kept) if has_place => drop(self.idle.insert(id, (kept, now))),
            Some(kept) => kept.stream.close_at_once(),
            None => {}
        }
    }

    /// Closes those of targets that are gone, or that are not probed in time.
    pub fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, (_, since)| now.saturating_duration_since(*since) <= MOST_IDLE * 3);
    }
}
