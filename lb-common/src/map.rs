//! Maps that share what they have in common: a clone costs nothing, a change the depth of a tree,
//! and what differs between two is found without a look at what they share.
//!
//! States of ten thousand parts are copied, changed by one part and compared again and again; with these
//! each of that costs what the change is large.

use imbl::ordmap::DiffItem;
pub use imbl::{HashMap, OrdMap as Map};

/// One key whose values differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a, K, V> {
    pub key: &'a K,
    pub old: Option<&'a V>,
    pub new: Option<&'a V>,
}

/// What leads from one to the other, in the order of the keys.
pub fn changes<'a, K: Ord, V: PartialEq>(
    from: &'a Map<K, V>,
    to: &'a Map<K, V>,
) -> impl Iterator<Item = Change<'a, K, V>> {
    from.diff(to).map(|item| match item {
        DiffItem::Add(key, new) => Change { key, old: None, new: Some(new) },
        DiffItem::Update { old: (_, old), new: (key, new) } => {
            Change { key, old: Some(old), new: Some(new) }
        }
        DiffItem::Remove(key, old) => Change { key, old: Some(old), new: None },
    })
}

/// Whether there is any of that.
pub fn differ<K: Ord, V: PartialEq>(from: &Map<K, V>, to: &Map<K, V>) -> bool {
    changes(from, to).next().is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_differs_is_what_a_look_at_everything_finds() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let from: Map<u16, u8> = (0..rng.usize(..500)).map(|_| (rng.u16(..600), 0)).collect();
            let mut to = from.clone();
            for _ in 0..rng.usize(..20) {
                match rng.bool() {
                    true => to.insert(rng.u16(..600), rng.u8(..2)),
                    false => to.remove(&rng.u16(..600)),
                };
            }
            let keys: BTreeSet<_> = from.keys().chain(to.keys()).collect();
            let expected = keys
                .into_iter()
                .map(|key| Change { key, old: from.get(key), new: to.get(key) })
                .filter(|change| change.old != change.new);
            assert_eq!(changes(&from, &to).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
}
