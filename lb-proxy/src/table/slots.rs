//! Parts of a table, each by its name and by its place. A part keeps its place for as long as it is there,
//! and a copy shares all that is not replaced: of ten thousand parts, one costs as much as a few hundred
//! pointers.

use std::{borrow::Borrow, collections::BTreeSet, hash::Hash, sync::Arc};

use lb_common::map::HashMap;

const PAGE: usize = 64;

type Page<T> = [Option<Arc<T>>; PAGE];

#[derive(Debug)]
pub struct Slots<N, T> {
    pages: Vec<Arc<Page<T>>>,
    by_name: HashMap<N, u32>,
    /// The lowest last, so that pages stay full.
    free: Vec<u32>,
    /// Nobody had this one yet, nor those behind it.
    fresh: u32,
}

impl<N: Clone + Eq + Hash, T> Slots<N, T> {
    pub fn get(&self, slot: u32) -> Option<&Arc<T>> {
        self.pages.get(slot as usize / PAGE)?[slot as usize % PAGE].as_ref()
    }

    pub fn slot_of<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<u32>
    where
        N: Borrow<Q>,
    {
        self.by_name.get(name).copied()
    }

    pub fn named<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<&Arc<T>>
    where
        N: Borrow<Q>,
    {
        self.get(self.slot_of(name)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.pages.iter().flat_map(|page| page.iter().flatten())
    }

    /// The place that it has, or one that is free; never one that is `taken` though nobody is there.
    pub fn place(&mut self, name: &N, taken: &BTreeSet<u32>) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let free = self.free.iter().rposition(|slot| !taken.contains(slot));
        let slot = free.map_or(self.fresh, |i| self.free.remove(i));
        self.fresh = self.fresh.max(slot + 1);
        self.by_name.insert(name.clone(), slot);
        slot
    }

    pub fn put(&mut self, slot: u32, part: Arc<T>) {
        while self.pages.len() <= slot as usize / PAGE {
            self.pages.push(Arc::new([const { None }; PAGE]));
        }
        Arc::make_mut(&mut self.pages[slot as usize / PAGE])[slot as usize % PAGE] = Some(part);
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, name: &Q)
    where
        N: Borrow<Q>,
    {
        if let Some(slot) = self.by_name.remove(name) {
            if let Some(page) = self.pages.get_mut(slot as usize / PAGE) {
                Arc::make_mut(page)[slot as usize % PAGE] = None;
            }
            let i = self.free.partition_point(|free| *free > slot);
            self.free.insert(i, slot);
        }
    }
}

impl<N: Clone, T> Clone for Slots<N, T> {
    fn clone(&self) -> Self {
        Self {
            pages: self.pages.clone(),
            by_name: self.by_name.clone(),
            free: self.free.clone(),
            fresh: self.fresh,
        }
    }
}

impl<N, T> Default for Slots<N, T> {
    fn default() -> Self {
        Self { pages: Vec::new(), by_name: HashMap::default(), free: Vec::new(), fresh: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn everybody_keeps_a_place_of_its_own() {
        let mut slots: Slots<u16, u16> = Slots::default();
        let mut model = BTreeMap::new();
        let mut rng = fastrand::Rng::with_seed(1);
        for step in 0..20_000 {
            let name = rng.u16(..300);
            let copy = slots.clone();
            if rng.u8(..3) == 0 {
                slots.remove(&name);
                model.remove(&name);
            } else {
                let taken = [rng.u32(..=slots.fresh), rng.u32(..=slots.fresh)];
                let taken = taken.map(|slot| slot.saturating_sub(1));
                let slot = slots.place(&name, &taken.into());
                slots.put(slot, Arc::new(name));
                if let Some(before) = model.insert(name, slot) {
                    assert_eq!(before, slot, "step {step}");
                } else {
                    assert!(step == 0 || !taken.contains(&slot), "step {step}");
                }
            }
            if step % 100 == 0 {
                let mut seen: Vec<_> = slots.iter().map(|part| **part).collect();
                seen.sort_unstable();
                assert_eq!(seen, model.keys().copied().collect::<Vec<_>>());
                for (name, slot) in &model {
                    assert_eq!(slots.slot_of(name), Some(*slot));
                    assert_eq!(slots.get(*slot).map(|part| **part), Some(*name));
                    assert_eq!(slots.named(name).map(|part| **part), Some(*name));
                }
                assert!(slots.fresh < 310, "places are used again: {}", slots.fresh);
                drop(copy);
            }
        }
    }

    #[test]
    fn a_copy_is_not_changed_and_shares_what_stays() {
        let mut slots: Slots<u16, u16> = Slots::default();
        for name in 0..200 {
            let slot = slots.place(&name, &BTreeSet::new());
            slots.put(slot, Arc::new(name));
        }
        let copy = slots.clone();
        slots.put(7, Arc::new(900));
        slots.remove(&150);
        assert_eq!(
            (copy.named(&7).map(|p| **p), copy.named(&150).map(|p| **p)),
            (Some(7), Some(150))
        );
        assert_eq!((slots.named(&7).map(|p| **p), slots.named(&150)), (Some(900), None));
        let shared = copy.pages.iter().zip(&slots.pages).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), 2, "of four pages");
    }
}
