//! When to probe what: a pure queue of due times.
//!
//! A probe that gets no answer is in flight for its whole timeout. So that a set of such backends
//! delays itself alone, a set may have as many probes in flight as there is room left: a set that
//! wants all of it gets half, two of them a third each, and the last part is never taken (dynamic
//! thresholds; Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
//! Switches", 1998). What is due meanwhile waits in its set, in order.
//!
//! # Invariants
//!
//! - A target is waiting, held back by its set's share, or in flight, so it has at most one probe at a
//!   time.
//! - At most `room` probes are in flight, those of targets that are gone included.
//! - What is held back is held back by probes in flight, so the end of one of them lets it go on.
//! - Each operation takes O(log n) of the targets.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use lb_common::id::BackendSetName;

/// So many probes at a time, if there are descriptors for them.
pub const CONCURRENT: usize = 4096;

/// First probes follow each other so closely at most: those of a whole fleet are spread over a while,
/// and with them all that follow.
const PACE: Duration = Duration::from_micros(40);

/// One backend under one health check. Never used again for another one, so a late outcome cannot
/// be taken for somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(u64);

/// Belongs to one set as long as that has targets or probes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SetId(u64);

/// A probe to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub id: TargetId,
    /// Since when it is due.
    pub due: Instant,
}

#[derive(Debug)]
pub struct Schedule {
    room: usize,
    targets: HashMap<TargetId, Target>,
    waiting: BTreeSet<(Instant, TargetId)>,
    sets: HashMap<SetId, Set>,
    ids: HashMap<BackendSetName, SetId>,
    /// Sets that hold targets back, the one with the fewest probes in flight first.
    holding: BTreeSet<(usize, SetId)>,
    /// By target, the set of each probe under way: a target may go meanwhile.
    in_flight: HashMap<TargetId, SetId>,
    last_id: u64,
    /// When the latest first probe is due.
    first_due: Option<Instant>,
}

#[derive(Debug)]
struct Set {
    name: BackendSetName,
    targets: usize,
    in_flight: usize,
    /// What would be in flight if that were not as many as it may have.
    held: BTreeSet<(Instant, TargetId)>,
}

#[derive(Debug)]
struct Target {
    set: SetId,
    interval: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting { due: Instant },
    Held { due: Instant },
    InFlight { since: Instant },
}

// === impl TargetId ===

impl TargetId {
    /// Which of so many this one belongs to. Each gets its part of the targets, whatever pattern their
    /// numbers have: multiples of the golden ratio are spread over [0, 1), which is divided (Knuth, "The Art of
    /// Computer Programming", volume 3, 6.4).
    pub fn of(self, many: usize) -> usize {
        const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15; // of 2^64
        let point = self.0.wrapping_mul(GOLDEN_RATIO);
        ((u128::from(point) * many as u128) >> 64) as usize
    }
}

// === impl Schedule ===

impl Default for Schedule {
    fn default() -> Self {
        Self {
            room: CONCURRENT,
            targets: HashMap::new(),
            waiting: BTreeSet::new(),
            sets: HashMap::new(),
            ids: HashMap::new(),
            holding: BTreeSet::new(),
            in_flight: HashMap::new(),
            last_id: 0,
            first_due: None,
        }
    }
}

impl Schedule {
    /// From now on no more are started while there are so many in flight; one is always.
    pub fn set_room(&mut self, room: usize) {
        self.room = room.max(1);
    }

    /// Its first probe is due at once, or as soon as those that were added before allow it.
    pub fn add(&mut self, set: &BackendSetName, interval: Duration, now: Instant) -> TargetId {
        let id = TargetId(self.next_id());
        let set = self.join(set);
        let due = self.first_due.map_or(now, |latest| now.max(latest + PACE));
        self.first_due = Some(due);
        self.targets.insert(id, Target { set, interval, state: State::Waiting { due } });
        self.waiting.insert((due, id));
        id
    }

    pub fn remove(&mut self, id: TargetId) {
        let Some(Target { set: of, state, .. }) = self.targets.remove(&id) else { return };
        if let Some(set) = self.sets.get_mut(&of) {
            set.targets -= 1;
        }
        match state {
            State::Waiting { due } => {
                self.waiting.remove(&(due, id));
            }
            State::Held { due } => self.change(of, |set| {
                set.held.remove(&(due, id));
            }),
            State::InFlight { .. } => {}
        }
        self.leave(of);
    }

    /// Starts the next probe that is due, if there is one and room for it.
    pub fn start(&mut self, now: Instant) -> Option<Start> {
        loop {
            let free = self.free();
            if free == 0 {
                return None;
            }
            if let Some((due, id, set)) = self.first_held() {
                self.change(set, |set| {
                    set.held.remove(&(due, id));
                });
                return Some(self.launch(id, set, due, now));
            }
            let (due, id) = self.waiting.first().copied().filter(|(due, _)| *due <= now)?;
            self.waiting.remove(&(due, id));
            let target = self.targets.get_mut(&id).expect("what waits is a target");
            let of = target.set;
            let set = self.sets.get(&of).expect("a target's set is there");
            if set.may_start(free) {
                return Some(self.launch(id, of, due, now));
            }
            target.state = State::Held { due };
            self.change(of, |set| {
                set.held.insert((due, id));
            });
        }
    }

    /// A probe that was started is over. The next one follows an interval after the start of this
    /// one, give or take a tenth, so that the probes of many backends spread out.
    pub fn finish(&mut self, id: TargetId, now: Instant, rng: &mut fastrand::Rng) {
        let Some(of) = self.in_flight.remove(&id) else { return };
        self.change(of, |set| set.in_flight -= 1);
        if let Some(target) = self.targets.get_mut(&id)
            && let State::InFlight { since } = target.state
        {
            let due = (since + target.interval.mul_f64(0.9 + 0.2 * rng.f64())).max(now);
            target.state = State::Waiting { due };
            self.waiting.insert((due, id));
        }
        self.leave(of);
    }

    /// When [`Schedule::start`] will have something, unless a probe ends before.
    pub fn next_due(&self) -> Option<Instant> {
        if self.free() == 0 {
            return None;
        }
        let held = self.first_held().map(|(due, ..)| due);
        held.or_else(|| self.waiting.first().map(|(due, _)| *due))
    }

    /// Probes under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn free(&self) -> usize {
        self.room.saturating_sub(self.in_flight.len())
    }

    /// The first target of the set that is furthest from its share, if that has room again.
    fn first_held(&self) -> Option<(Instant, TargetId, SetId)> {
        let (_, of) = self.holding.first()?;
        let set = self.sets.get(of).filter(|set| set.may_start(self.free()))?;
        set.held.first().map(|(due, id)| (*due, *id, *of))
    }

    fn launch(&mut self, id: TargetId, of: SetId, due: Instant, now: Instant) -> Start {
        if let Some(target) = self.targets.get_mut(&id) {
            target.state = State::InFlight { since: now };
        }
        self.in_flight.insert(id, of);
        self.change(of, |set| set.in_flight += 1);
        Start { id, due }
    }

    /// Keeps the set's place among those that hold targets back.
    fn change(&mut self, of: SetId, change: impl FnOnce(&mut Set)) {
        let Some(set) = self.sets.get_mut(&of) else { return };
        if !set.held.is_empty() {
            self.holding.remove(&(set.in_flight, of));
        }
        change(set);
        if !set.held.is_empty() {
            self.holding.insert((set.in_flight, of));
        }
    }

    /// One more target of the set.
    fn join(&mut self, name: &BackendSetName) -> SetId {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                let id = SetId(self.next_id());
                self.ids.insert(name.clone(), id);
                let (name, held) = (name.clone(), BTreeSet::new());
                self.sets.insert(id, Set { name, targets: 0, in_flight: 0, held });
                id
            }
        };
        if let Some(set) = self.sets.get_mut(&id) {
            set.targets += 1;
        }
        id
    }

    /// Forgets a set that has nothing any more.
    fn leave(&mut self, of: SetId) {
        let is_over = |set: &Set| set.targets == 0 && set.in_flight == 0;
        if self.sets.get(&of).is_some_and(is_over)
            && let Some(set) = self.sets.remove(&of)
        {
            self.ids.remove(&set.name);
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

// === impl Set ===

impl Set {
    /// One is always allowed, so that a set among very many goes on as well.
    fn may_start(&self, free: usize) -> bool {
        self.in_flight < free || self.in_flight == 0
    }
}

#[cfg(test)]
mod tests;
