//! Maglev's lookup table: consistent hashing in one array read.
//!
//! Each member walks the table in a permutation of its own and takes the next free entry at its
//! turn, so that all have the same number of entries to within one, and a change of membership
//! moves little more than it has to.
//! Source: D. Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4; weights as in Envoy's `maglev_lb.cc`.
//!
//! # Invariants
//!
//! - A table depends on names, weights and the configured size only, not on the members' order,
//!   health, addresses or number. With a size that goes by their number, one backend more or less
//!   could move nearly all keys (93% of them at 13 and 14).
//! - Entries are positions in the order of the names, so tables with another list can share one.

use std::{cmp::Reverse, collections::BinaryHeap};

use lb_common::id::BackendName;

use super::hash;

#[derive(Debug)]
pub struct Table {
    /// What it was built for, in order.
    members: Box<[(BackendName, u32)]>,
    size: u32,
    entries: Entries,
}

/// As narrow as they can be: the default table is 128 KiB and stays in a core's own cache.
#[derive(Debug)]
enum Entries {
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

/// One member's way through the table.
struct Walk {
    next: u32,
    skip: u32,
}

/// Marks an entry as free while the table is filled.
const FREE: u32 = u32::MAX;

// === impl Table ===

impl Table {
    /// Members are sorted by name, and have weights above zero. The size is a prime. A member's
    /// share is exact to one entry: a size of a hundred times the members keeps it within 1%.
    pub fn new(members: Box<[(BackendName, u32)]>, size: u32) -> Self {
        let entries = fill(&members, size);
        let narrow: Result<Box<[u16]>, _> = entries.iter().map(|&e| u16::try_from(e)).collect();
        let entries = narrow.map_or(Entries::Wide(entries), Entries::Narrow);
        Self { members, size, entries }
    }

    /// Whether it is what [`Self::new`] would return for these.
    pub fn is_for(&self, members: &[(BackendName, u32)], size: u32) -> bool {
        self.size == size && *self.members == *members
    }

    /// The position of the key's member, or `None` if there are no members.
    pub fn get(&self, key: u64) -> Option<usize> {
        match &self.entries {
            Entries::Narrow(entries) => {
                entries.get(hash::scale(key, entries.len())).map(|e| usize::from(*e))
            }
            Entries::Wide(entries) => {
                entries.get(hash::scale(key, entries.len())).map(|e| *e as usize)
            }
        }
    }
}

/// The `k`-th turn of a member is in round `ceil(k × max / weight)`, and everyone has one in the
/// first. Envoy visits all members each round to find whose turn it is; a heap does without, so
/// that one heavy member among many costs nothing.
fn fill(members: &[(BackendName, u32)], size: u32) -> Box<[u32]> {
    let Some(max) = members.iter().map(|(_, weight)| u64::from(*weight)).max() else {
        return Box::default();
    };
    let mut walks: Vec<Walk> = members.iter().map(|(name, _)| Walk::new(name, size)).collect();
    let mut turns: BinaryHeap<_> = (0u32..).zip(members).map(|(i, _)| Reverse((1, i, 0))).collect();
    let mut entries = vec![FREE; size as usize].into_boxed_slice();

    for _ in 0..size {
        let mut turn = turns.peek_mut().expect("there are members, and each keeps a turn");
        let Reverse((round, i, k)) = &mut *turn;
        let member = *i as usize;
        *k += 1;
        *round = (*k * max).div_ceil(u64::from(members[member].1));

        // A walk visits every entry, and one is free: this ends.
        let walk = &mut walks[member];
        while entries[walk.next as usize] != FREE {
            walk.step(size);
        }
        entries[walk.next as usize] = *i;
    }
    entries
}

// === impl Walk ===

impl Walk {
    fn new(name: &BackendName, size: u32) -> Self {
        let hash = hash::name(name);
        let below = |hash: u64, n: u32| (hash % u64::from(n)) as u32;
        Self { next: below(hash, size), skip: 1 + below(hash::spread(hash), size - 1) }
    }

    fn step(&mut self, size: u32) {
        // Both are below the size, which is a few million at most.
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: impl IntoIterator<Item = u32>) -> Box<[(BackendName, u32)]> {
        let name = |i| BackendName::new(&format!("10.0.{}.{}:80", i / 250, i % 250));
        let weights = (0..).zip(weights);
        let mut members: Vec<_> =
            weights.map(|(i, w): (u32, u32)| (name(i).expect("an address"), w)).collect();
        members.sort();
        members.into()
    }

    /// Of the default size.
    fn table(weights: impl IntoIterator<Item = u32>) -> Table {
        Table::new(members(weights), 65_537)
    }

    /// Entries of each member.
    fn shares(table: &Table) -> Vec<u32> {
        let mut counts = vec![0; table.members.len()];
        match &table.entries {
            Entries::Narrow(entries) => entries.iter().for_each(|e| counts[usize::from(*e)] += 1),
            Entries::Wide(entries) => entries.iter().for_each(|e| counts[*e as usize] += 1),
        }
        counts
    }

    /// 1.0000, 1.0010 and 1.0071 times the average, and for a ring of as many points 1.3 times.
    #[test]
    fn the_largest_share_is_one_entry_above_the_average() {
        for (n, largest) in [(10, 6_554), (100, 656), (1_000, 66)] {
            let shares = shares(&table(vec![1; n]));
            assert_eq!(shares.iter().copied().max(), Some(largest), "{n} members");
            assert_eq!(shares.iter().copied().min(), Some(largest - 1), "{n} members");
        }
    }

    #[test]
    fn weights_give_envoys_shares() {
        assert_eq!(shares(&table([1, 2])), [21_846, 43_691]);
        assert_eq!(shares(&table([100, 200])), [21_846, 43_691]);
    }

    #[test]
    fn everyone_has_an_entry_however_light() {
        let mut weights = vec![1; 200];
        weights[17] = 65_535;
        let shares = shares(&table(weights));
        assert_eq!(shares.iter().filter(|share| **share == 0).count(), 0);
    }

    /// The size went by the number of members, and was another one above 13 and 6,553: draining one
    /// of 14 moved 93% of the keys. It is the first member that goes, so that the position of each
    /// other one changes.
    #[test]
    fn one_member_less_moves_its_own_keys_and_less_than_a_hundredth_of_the_others() {
        for (n, size) in
            [(14, 65_537), (13, 65_537), (100, 65_537), (6_554, 65_537), (6_554, 655_373)]
        {
            let all = Table::new(members(vec![1; n]), size);
            let fewer = Table::new(all.members[1..].into(), size);
            let (mut its_own, mut of_others) = (0usize, 0);
            for key in (0..100_000).map(hash::spread) {
                let is = fewer.get(key).map(|member| member + 1);
                match all.get(key) {
                    Some(0) => its_own += 1,
                    was if was != is => of_others += 1,
                    _ => {}
                }
            }
            let expected = 100_000 / n;
            assert!(its_own.abs_diff(expected) <= 10 + expected / 20, "{its_own} of one in {n}");
            assert!(of_others < 1_000, "{of_others} of the others in {n}, {size}");
        }
    }

    #[test]
    fn a_table_of_another_size_is_another_table() {
        let table = table([1, 2]);
        let members = members([1, 2]);
        assert!(table.is_for(&members, 65_537) && !table.is_for(&members, 655_373));
        assert!(!table.is_for(&members[1..], 65_537));
    }

    #[test]
    fn no_members_have_no_key() {
        assert_eq!(table([]).get(7), None);
    }
}
