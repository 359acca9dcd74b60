//! The clients' connections of one worker: which are open, which idle, and how each is to end.
//!
//! Idle ones are in lists, one for each idle timeout, in the order in which they became idle. So the
//! sweep looks at those whose time is over, and at no others, and when there must be room, the one
//! that has idled longest is at hand.

use std::{
    cell::RefCell,
    net::IpAddr,
    task::{Context, Waker},
};

use lb_routing::millis::Millis;

/// How a connection is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    #[default]
    NotYet,
    /// After the request that it is busy with.
    Gracefully,
    AtOnce,
}

/// Counts up whenever a listener lets clients in by something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms(pub u32);

/// Names an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

#[derive(Debug, Default)]
pub struct Connections(RefCell<Slots>);

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    lists: Vec<List>,
    open: usize,
}

#[derive(Debug)]
struct Slot {
    is_open: bool,
    end: End,
    waker: Option<Waker>,
    /// The listener's slot in the table.
    listener: u32,
    /// Of that listener, when it let the connection in.
    terms: Terms,
    /// `None` while that is not known.
    client: Option<IpAddr>,
    idle: Option<Idle>,
}

/// Where in its list an idle connection is.
#[derive(Clone, Copy, Debug)]
struct Idle {
    list: usize,
    since: Millis,
    before: Option<u32>,
    after: Option<u32>,
}

#[derive(Debug)]
struct List {
    what: Waits,
    timeout: Millis,
    length: usize,
    first: Option<u32>,
    last: Option<u32>,
}

/// What a connection waits for while it is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The next request.
    Request,
    /// The end of its handshake with this listener, which is called by its slot, and of what comes
    /// before.
    Handshake { listener: u32 },
    /// The same, where there is no TLS.
    Prelude { listener: u32 },
}

/// How many were ended because they waited for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub idle: u64,
    pub handshakes: u64,
    pub preludes: u64,
}

/// Whose idle connections may be ended to make room.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    All,
    /// Those that wait for that.
    That(Waits),
    Listener(u32),
    Client(u32, IpAddr),
}

/// So far a list is searched for a connection of a scope.
const SEARCH: usize = 256;

impl Connections {
    pub fn open(&self, listener: u32, terms: Terms, client: Option<IpAddr>) -> Id {
        let slots = &mut *self.0.borrow_mut();
        let (end, waker, idle) = (End::NotYet, None, None);
        let slot = Slot { is_open: true, end, waker, listener, terms, client, idle };
        slots.open += 1;
        match slots.free.pop() {
            Some(free) => {
                slots.slots[free as usize] = slot;
                Id(free)
            }
            None => {
                slots.slots.push(slot);
                Id(u32::try_from(slots.slots.len() - 1).expect("there are fewer descriptors"))
            }
        }
    }

    /// It was found out whose it is.
    pub fn is_of(&self, id: Id, client: IpAddr) {
        self.0.borrow_mut().slots[id.0 as usize].client = Some(client);
    }

    pub fn close(&self, id: Id) {
        let slots = &mut *self.0.borrow_mut();
        slots.unlink(id.0);
        let slot = &mut slots.slots[id.0 as usize];
        slot.is_open = false;
        slot.waker = None;
        slots.free.push(id.0);
        slots.open -= 1;
        if slots.open == 0 {
            *slots = Slots::default();
        }
    }

    pub fn count(&self) -> usize {
        self.0.borrow().open
    }

    /// It waits from now on, for so long at most.
    pub fn wait(&self, id: Id, what: Waits, now: Millis, timeout: Millis) {
        self.0.borrow_mut().link(id.0, what, now, timeout);
    }

    /// How many wait for that.
    pub fn count_of(&self, what: Waits) -> usize {
        let slots = self.0.borrow();
        let lists = slots.lists.iter().filter(|list| list.what == what);
        lists.map(|list| list.length).sum()
    }

    pub fn busy(&self, id: Id) {
        self.0.borrow_mut().unlink(id.0);
    }

    /// How it is to end; its task, which asks, is woken when that changes.
    pub fn poll_end(&self, id: Id, cx: &Context<'_>) -> End {
        let slot = &mut self.0.borrow_mut().slots[id.0 as usize];
        if slot.waker.is_none() {
            // A connection's task is one and the same for its life, and so is its waker.
            slot.waker = Some(cx.waker().clone());
        }
        slot.end
    }

    pub fn end_of(&self, id: Id) -> End {
        self.0.borrow().slots[id.0 as usize].end
    }

    /// Ends all; never takes back an earlier and harder end.
    pub fn end_all(&self, how: End) {
        let slots = &mut *self.0.borrow_mut();
        slots.slots.iter_mut().filter(|slot| slot.is_open).for_each(|slot| slot.end(how));
    }

    /// Ends those that a listener would let in by other terms now, after the request that they are busy
    /// with. `terms` says what it lets in by, and nothing of a listener that is gone.
    pub fn end_outdated(&self, terms: impl Fn(u32) -> Option<Terms>) {
        let slots = &mut *self.0.borrow_mut();
        for slot in slots.slots.iter_mut().filter(|slot| slot.is_open) {
            if terms(slot.listener).is_some_and(|terms| terms != slot.terms) {
                slot.end(End::Gracefully);
            }
        }
    }

    pub fn end(&self, id: Id, how: End) {
        self.0.borrow_mut().slots[id.0 as usize].end(how);
    }

    /// Ends the one of them that has idled longest. Returns whether there was one.
    pub fn end_oldest(&self, scope: Scope) -> bool {
        let slots = &mut *self.0.borrow_mut();
        let fits = |slot: &Slot| match scope {
            Scope::All | Scope::That(_) => true,
            Scope::Listener(listener) => slot.listener == listener,
            Scope::Client(listener, client) => {
                slot.listener == listener && slot.client == Some(client)
            }
        };
        let lists = slots.lists.iter().filter(|list| match scope {
            Scope::That(what) => list.what == what,
            _ => true,
        });
        let oldest = lists.filter_map(|list| {
            let mut next = list.first;
            for _ in 0..SEARCH {
                let at = next?;
                let slot = &slots.slots[at as usize];
                let idle = slot.idle?;
                if fits(slot) {
                    return Some((idle.since, at));
                }
                next = idle.after;
            }
            None
        });
        let Some((_, oldest)) = oldest.min() else { return false };
        slots.unlink(oldest);
        slots.slots[oldest as usize].end(End::Gracefully);
        true
    }

    /// Ends what has waited for too long.
    pub fn sweep(&self, now: Millis) -> Ended {
        let slots = &mut *self.0.borrow_mut();
        let mut ended = Ended::default();
        for list in 0..slots.lists.len() {
            while let Some(first) = slots.lists[list].first {
                let slot = &slots.slots[first as usize];
                let since = slot.idle.map_or(now, |idle| idle.since);
                if now.saturating_sub(since) < slots.lists[list].timeout {
                    break;
                }
                slots.unlink(first);
                slots.slots[first as usize].end(End::Gracefully);
                match slots.lists[list].what {
                    Waits::Request => ended.idle += 1,
                    Waits::Handshake { .. } => ended.handshakes += 1,
                    Waits::Prelude { .. } => ended.preludes += 1,
                }
            }
        }
        ended
    }
}

impl Slots {
    fn link(&mut self, at: u32, what: Waits, now: Millis, timeout: Millis) {
        self.unlink(at);
        let is_it = |list: &List| list.what == what && list.timeout == timeout;
        let found = self.lists.iter().position(is_it);
        let list = found.unwrap_or_else(|| {
            // A list that nobody is in any more is used again: timeouts come and go.
            let empty = self.lists.iter().position(|list| list.first.is_none());
            let fresh = List { what, timeout, length: 0, first: None, last: None };
            match empty {
                Some(empty) => {
                    self.lists[empty] = fresh;
                    empty
                }
                None => {
                    self.lists.push(fresh);
                    self.lists.len() - 1
                }
            }
        });
        self.lists[list].length += 1;
        let before = self.lists[list].last.replace(at);
        match before {
            Some(before) => {
                if let Some(idle) = &mut self.slots[before as usize].idle {
                    idle.after = Some(at);
                }
            }
            None => self.lists[list].first = Some(at),
        }
        self.slots[at as usize].idle = Some(Idle { list, since: now, before, after: None });
    }

    fn unlink(&mut self, at: u32) {
        let Some(Idle { list, before, after, .. }) = self.slots[at as usize].idle.take() else {
            return;
        };
        self.lists[list].length -= 1;
        match before {
            Some(before) => {
                if let Some(idle) = &mut self.slots[before as usize].idle {
                    idle.after = after;
                }
            }
            None => self.lists[list].first = after,
        }
        match after {
            Some(after) => {
                if let Some(idle) = &mut self.slots[after as usize].idle {
                    idle.before = before;
                }
            }
            None => self.lists[list].last = before,
        }
    }
}

impl Slot {
    fn end(&mut self, how: End) {
        if self.end < how {
            self.end = how;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn open(connections: &Connections, listener: u32, client: IpAddr) -> Id {
        connections.open(listener, Terms(0), Some(client))
    }

    fn ended(connections: &Connections, ids: &[Id]) -> Vec<usize> {
        let is_ended = |i: &usize| connections.end_of(ids[*i]) != End::NotYet;
        (0..ids.len()).filter(is_ended).collect()
    }

    #[test]
    fn a_connection_ends_when_it_has_idled_for_its_time_and_not_while_it_is_busy() {
        let connections = Connections::default();
        let ids: Vec<_> = (0..4).map(|_| open(&connections, 0, PEER)).collect();
        for (id, now, timeout) in [(0, 0, 100), (1, 10, 100), (2, 10, 50), (3, 20, 100)] {
            connections.wait(ids[id], Waits::Request, now, timeout);
        }
        connections.busy(ids[1]);
        assert_eq!(connections.sweep(59).idle, 0);
        assert_eq!(connections.sweep(60).idle, 1);
        assert_eq!(ended(&connections, &ids), [2]);
        assert_eq!(connections.sweep(119).idle, 1, "the first, whose neighbour is busy");
        assert_eq!(connections.sweep(120).idle, 1);
        assert_eq!(ended(&connections, &ids), [0, 2, 3]);
        connections.wait(ids[1], Waits::Request, 120, 100);
        assert_eq!(connections.sweep(219).idle, 0, "the time counts anew");
        assert_eq!(connections.sweep(220).idle, 1);
    }

    #[test]
    fn the_one_that_has_idled_longest_makes_room() {
        let connections = Connections::default();
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let opened = [(0, PEER), (1, PEER), (0, other), (0, PEER)];
        let ids: Vec<_> =
            opened.iter().map(|(listener, peer)| open(&connections, *listener, *peer)).collect();
        for (i, now, timeout) in [(3, 1, 10), (2, 2, 99), (1, 3, 10), (0, 4, 99)] {
            connections.wait(ids[i], Waits::Request, now, timeout);
        }
        assert!(connections.end_oldest(Scope::Listener(1)));
        assert_eq!(ended(&connections, &ids), [1]);
        assert!(connections.end_oldest(Scope::Client(0, other)));
        assert_eq!(ended(&connections, &ids), [1, 2]);
        assert!(!connections.end_oldest(Scope::Client(0, other)));
        assert!(connections.end_oldest(Scope::All));
        assert_eq!(ended(&connections, &ids), [1, 2, 3]);
    }

    #[test]
    fn a_handshake_is_told_from_an_idle_connection() {
        let connections = Connections::default();
        let ids: Vec<_> = (0..4).map(|_| open(&connections, 0, PEER)).collect();
        connections.wait(ids[0], Waits::Request, 0, 10);
        let [here, there] = [0, 1].map(|listener| Waits::Handshake { listener });
        let ids: Vec<_> = ids.into_iter().chain([open(&connections, 2, PEER)]).collect();
        connections.wait(ids[4], Waits::Prelude { listener: 2 }, 2, 10);
        connections.wait(ids[1], here, 1, 10);
        connections.wait(ids[2], here, 2, 10);
        connections.wait(ids[3], there, 0, 10);
        assert_eq!((connections.count_of(here), connections.count_of(there)), (2, 1));
        assert!(connections.end_oldest(Scope::That(here)));
        assert_eq!((ended(&connections, &ids), connections.count_of(here)), (vec![1], 1));
        assert_eq!(connections.sweep(12), Ended { idle: 1, handshakes: 2, preludes: 1 });
        assert!(!connections.end_oldest(Scope::That(here)));
    }

    #[test]
    fn whose_connection_it_is_counts_once_that_is_known() {
        let connections = Connections::default();
        let id = connections.open(0, Terms(0), None);
        connections.wait(id, Waits::Prelude { listener: 0 }, 0, 10);
        assert!(!connections.end_oldest(Scope::Client(0, PEER)));
        connections.is_of(id, PEER);
        assert!(connections.end_oldest(Scope::Client(0, PEER)));
    }

    #[test]
    fn who_was_let_in_by_what_holds_no_more_is_let_go() {
        let connections = Connections::default();
        let opened = [(0, 1), (0, 2), (1, 1), (2, 1)];
        let ids = opened.map(|(listener, terms)| connections.open(listener, Terms(terms), None));
        // The third listener is gone, which is another matter.
        connections
            .end_outdated(|listener| [Some(Terms(2)), Some(Terms(1)), None][listener as usize]);
        assert_eq!(ended(&connections, &ids), [0]);
        assert_eq!(connections.end_of(ids[0]), End::Gracefully);
    }

    /// Against lists that are searched from end to end.
    #[test]
    fn links_hold_whatever_comes_and_goes() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let connections = Connections::default();
            let mut model: Vec<(Id, Option<(Millis, Millis)>)> = Vec::new();
            for now in 0..500 {
                let some = (!model.is_empty()).then(|| rng.usize(..model.len()));
                match (rng.u32(..6), some) {
                    (0 | 1, _) | (_, None) => model.push((open(&connections, 0, PEER), None)),
                    (2, Some(i)) => connections.close(model.swap_remove(i).0),
                    (3, Some(i)) => {
                        connections.busy(model[i].0);
                        model[i].1 = None;
                    }
                    (_, Some(i)) => {
                        let timeout = rng.u64(1..4) * 20;
                        connections.wait(model[i].0, Waits::Request, now, timeout);
                        model[i].1 = Some((now, timeout));
                    }
                }
                let late = |(_, idle): &&mut (Id, Option<(Millis, Millis)>)| {
                    idle.is_some_and(|(since, timeout)| since + timeout <= now)
                };
                let expected = model.iter_mut().filter(late).map(|entry| entry.1 = None).count();
                assert_eq!(connections.sweep(now).idle, expected as u64, "seed {seed}, {now}");
                assert_eq!(connections.count(), model.len());
            }
        }
    }
}
