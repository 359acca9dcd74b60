//! Consistent hashing: a key stays with its backend, on every proxy, whatever happens to others.
//!
//! # Invariants
//!
//! - A key's first choice is made among all members, whatever their health. One that is out moves
//!   only its own keys, and they return when it does. (`hash % healthy.len()` moves nearly all of
//!   them, both times.)
//! - A key whose first choice is out goes to the next one in its own ranking (see [`super::rendezvous`]),
//!   so the load of a lost backend spreads over all others, and retries have an order.
//! - The choice depends on the key and on names and weights. It does not depend on the proxy, the
//!   worker, the order of the list or addresses.

use std::sync::Arc;

use lb_common::{
    id::BackendName,
    spec::{Hash, HashAlgorithm},
};

use super::{
    Carry, PickContext, Picker, hash,
    maglev::Table,
    rendezvous::{Member, Rendezvous},
};
use crate::backend::Backend;

#[derive(Debug)]
pub struct ConsistentHash {
    ranking: Rendezvous,
    /// Makes the first choice, if the algorithm is Maglev. Positions are those in the ranking.
    table: Option<Arc<Table>>,
}

// === impl ConsistentHash ===

impl ConsistentHash {
    pub fn new(how: &Hash, backends: &[Arc<Backend>], former: Carry<'_>) -> Self {
        let mut members: Vec<_> = backends.iter().enumerate().filter(|(_, b)| b.member).collect();
        members.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        let table = match how.algorithm {
            HashAlgorithm::Maglev => {
                let members = members.iter().map(|(_, b)| (b.name.clone(), b.weight));
                Some(table(members.collect(), how.table_size, former))
            }
            HashAlgorithm::Rendezvous => None,
        };
        let member = |(index, b): (usize, &Arc<Backend>)| Member {
            index,
            hash: hash::name(&b.name),
            weight: b.weight,
        };
        Self { ranking: Rendezvous::new(members.into_iter().map(member).collect()), table }
    }
}

impl Picker for ConsistentHash {
    fn pick(&self, backends: &[Arc<Backend>], cx: &mut PickContext<'_>) -> Option<usize> {
        if let Some(table) = &self.table {
            let first = self.ranking.members()[table.get(cx.hash)?].index;
            if cx.admits(&backends[first]) {
                return Some(first);
            }
        }
        self.ranking.first(cx.hash, |i| cx.admits(&backends[i]))
    }

    fn carry(&self) -> Carry<'_> {
        self.table.as_ref().map_or(Carry::Nothing, Carry::Maglev)
    }
}

fn table(members: Box<[(BackendName, u32)]>, size: u32, former: Carry<'_>) -> Arc<Table> {
    match former {
        Carry::Maglev(table) if table.is_for(&members, size) => Arc::clone(table),
        Carry::Maglev(_) | Carry::RoundRobin(_) | Carry::Nothing => {
            Arc::new(Table::new(members, size))
        }
    }
}

#[cfg(test)]
mod tests {
    use HashAlgorithm::{Maglev, Rendezvous};
    use lb_common::spec::{HashFunction, HashKey};

    use super::*;
    use crate::balance::fixture;

    const KEYS: usize = 100_000;

    fn picker(
        algorithm: HashAlgorithm,
        backends: &[Arc<Backend>],
        former: Carry<'_>,
    ) -> ConsistentHash {
        let (key, function) = (HashKey::Path, HashFunction::Xxh3);
        let how = Hash { key, algorithm, function, table_size: 65_537 };
        ConsistentHash::new(&how, backends, former)
    }

    /// A list and what each key's pick is called.
    fn names(algorithm: HashAlgorithm, backends: &[Arc<Backend>]) -> Vec<Option<BackendName>> {
        names_by(&picker(algorithm, backends, Carry::Nothing), backends, &[])
    }

    fn names_by(
        picker: &ConsistentHash,
        backends: &[Arc<Backend>],
        tried: &[u64],
    ) -> Vec<Option<BackendName>> {
        let mut rng = fastrand::Rng::with_seed(0);
        let mut name = |key: usize| {
            let hash = hash::hash(HashFunction::Xxh3, format!("/users/{key}").as_bytes());
            let mut cx = PickContext::new(0, &mut rng, tried, hash);
            picker.pick(backends, &mut cx).map(|i| backends[i].name.clone())
        };
        (0..KEYS).map(&mut name).collect()
    }

    /// How many keys changed, and how many of those were not `from`'s.
    fn moved<T: PartialEq>(before: &[T], after: &[T], from: &T) -> (usize, usize) {
        let moved = before.iter().zip(after).filter(|(was, is)| was != is);
        moved.fold((0, 0), |(all, others), (was, _)| (all + 1, others + usize::from(was != from)))
    }

    #[test]
    fn removing_a_backend_moves_little_more_than_its_own_keys() {
        for n in [3, 10, 100] {
            let all = fixture::backends(&vec![1; n]);
            let mut fewer = all.clone();
            let gone = Some(fewer.remove(n / 2).name.clone());

            let (before, after) = (names(Maglev, &all), names(Maglev, &fewer));
            let (moved_keys, _) = moved(&before, &after, &gone);
            assert!(moved_keys <= KEYS / n + KEYS / 100, "{moved_keys} of {n}");

            let (before, after) = (names(Rendezvous, &all), names(Rendezvous, &fewer));
            let (moved_keys, of_others) = moved(&before, &after, &gone);
            let its_own = before.iter().filter(|name| **name == gone).count();
            assert_eq!((moved_keys, of_others), (its_own, 0), "{n}");
        }
    }

    #[test]
    fn a_backend_that_is_out_moves_only_its_own_keys() {
        for algorithm in [Maglev, Rendezvous] {
            let all = fixture::backends(&[1; 10]);
            let picker = picker(algorithm, &all, Carry::Nothing);
            let before = names_by(&picker, &all, &[]);
            let out = Some(all[4].name.clone());

            let unhealthy = names(algorithm, &fixture::next_table(&all, |i| i != 4));
            let tried = names_by(&picker, &all, &[all[4].live.id]);
            fixture::eject(&all[4], 1_000);
            let ejected = names_by(&picker, &all, &[]);

            let (moved_keys, of_others) = moved(&before, &ejected, &out);
            assert_eq!(of_others, 0, "{algorithm:?}");
            assert!(moved_keys.abs_diff(KEYS / 10) < 500, "{algorithm:?}: {moved_keys}");
            assert!(ejected == unhealthy && ejected == tried, "{algorithm:?}");
        }
    }

    /// Draining takes a backend out of the membership; so do weight 0 and being disabled.
    #[test]
    fn what_is_not_a_member_is_as_good_as_gone() {
        for algorithm in [Maglev, Rendezvous] {
            let mut backends = fixture::backends(&[1; 5]);
            let (name, address) = (backends[1].name.clone(), backends[1].address);
            let live = Arc::clone(&backends[1].live);
            backends[1] =
                Arc::new(Backend { name, address, weight: 0, member: false, usable: false, live });
            let before = names(algorithm, &backends);
            backends.remove(1);
            assert!(names(algorithm, &backends) == before, "{algorithm:?}");
        }
    }

    #[test]
    fn proxies_agree_whatever_the_order_of_their_lists() {
        let weights: Vec<u32> = (0..20).map(|i| 1 + i % 3).collect();
        let here = fixture::with_usable(&weights, |i| i != 7);
        let mut there = here.clone();
        fastrand::Rng::with_seed(1).shuffle(&mut there);
        for algorithm in [Maglev, Rendezvous] {
            assert!(names(algorithm, &here) == names(algorithm, &there), "{algorithm:?}");
        }
    }

    #[test]
    fn shares_go_by_weight() {
        let backends = fixture::backends(&[1, 2]);
        for algorithm in [Maglev, Rendezvous] {
            let names = names(algorithm, &backends);
            let light = names.iter().filter(|n| n.as_ref() == Some(&backends[0].name)).count();
            assert!(light.abs_diff(KEYS / 3) < 600, "{algorithm:?}: {light}");
        }
    }

    #[test]
    fn retries_walk_a_ranking_that_ends() {
        let backends = fixture::backends(&[1, 1, 2, 3]);
        for algorithm in [Maglev, Rendezvous] {
            let picker = picker(algorithm, &backends, Carry::Nothing);
            let mut rng = fastrand::Rng::with_seed(0);
            let mut tried = Vec::new();
            for _ in 0..4 {
                let mut cx = PickContext::new(0, &mut rng, &tried, 99);
                let i = picker.pick(&backends, &mut cx).expect("one is untried");
                tried.push(backends[i].live.id);
            }
            tried.sort_unstable();
            tried.dedup();
            assert_eq!(tried.len(), 4, "{algorithm:?}");
        }
    }

    #[test]
    fn a_table_is_shared_until_the_membership_changes() {
        let all = fixture::backends(&[1; 6]);
        let former = picker(Maglev, &all, Carry::Nothing);
        let shared = |backends: &[Arc<Backend>]| {
            let next = picker(Maglev, backends, former.carry());
            Arc::ptr_eq(next.table.as_ref().unwrap(), former.table.as_ref().unwrap())
        };
        let mut reversed = fixture::next_table(&all, |i| i != 2);
        reversed.reverse();
        assert!(shared(&reversed), "health and order are not membership");
        assert!(!shared(&all[1..]));
        assert!(!shared(&fixture::backends(&[1, 1, 1, 1, 1, 2])));
    }

    /// A change here moves the keys of every fleet that is upgraded.
    #[test]
    fn keys_are_where_every_version_so_far_put_them() {
        let backends = fixture::backends(&[1, 2, 1, 1, 1]);
        let pick = |algorithm| -> String {
            let names = names(algorithm, &backends);
            let last = |n: &Option<BackendName>| n.as_ref().and_then(|n| n.as_str().chars().last());
            names[..16].iter().map(|n| last(n).expect("all are open")).collect()
        };
        assert_eq!([pick(Maglev), pick(Rendezvous)], ["1004230403020000", "4230104120111001"]);
    }
}
