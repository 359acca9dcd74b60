//! Material that is in force and on its way to the store.
//!
//! One write at a time, and none beside a change's: what is later must not be written over by what was
//! begun before it.

use lb_common::material::Materials;
use tokio::sync::oneshot;

/// Told when what was to be kept is stored, or could not be.
pub type Kept = oneshot::Sender<()>;

#[derive(Debug, Default)]
pub struct Storing {
    unstored: Materials,
    /// Who waits for it.
    asked: Vec<Kept>,
    /// Who waits for the write that is under way, if one is.
    writing: Option<Vec<Kept>>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    Nothing,
    Write(Materials),
    /// There is nothing to write.
    Tell(Vec<Kept>),
}

impl Storing {
    pub fn put(&mut self, materials: Materials) {
        self.unstored.extend(materials);
    }

    /// Somebody waits until all that was put is stored.
    pub fn ask(&mut self, kept: Kept) {
        self.asked.push(kept);
    }

    /// Whether a write is under way.
    pub fn is_busy(&self) -> bool {
        self.writing.is_some()
    }

    /// Returns who waits for a write that is not made now.
    pub fn give_up(&mut self) -> Vec<Kept> {
        std::mem::take(&mut self.asked)
    }

    pub fn step(&mut self) -> Step {
        if self.writing.is_some() {
            return Step::Nothing;
        }
        let asked = std::mem::take(&mut self.asked);
        match std::mem::take(&mut self.unstored) {
            nothing if nothing.is_empty() => Step::Tell(asked),
            materials => {
                self.writing = Some(asked);
                Step::Write(materials)
            }
        }
    }

    /// The write is through, but for these. Returns who is to be told.
    pub fn done(&mut self, failed: Materials) -> Vec<Kept> {
        for (id, secret) in failed {
            // What came since is newer.
            if !self.unstored.contains_key(&id) {
                self.unstored.insert(id, secret);
            }
        }
        self.writing.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{material::MaterialId, secret::Secret};

    use super::*;

    fn one(id: &str) -> Materials {
        Materials::unit(MaterialId::of(id), Secret::new(id.into()))
    }

    fn wait(storing: &mut Storing) -> oneshot::Receiver<()> {
        let (kept, told) = oneshot::channel();
        storing.ask(kept);
        told
    }

    #[test]
    fn who_waits_is_told_by_the_write_that_has_what_it_brought() {
        let mut storing = Storing::default();
        storing.put(one("a"));
        let mut first = wait(&mut storing);
        assert!(matches!(storing.step(), Step::Write(materials) if materials == one("a")));
        storing.put(one("b"));
        let _second = wait(&mut storing);
        assert!(matches!(storing.step(), Step::Nothing), "one at a time");
        for kept in storing.done(Materials::new()) {
            kept.send(()).expect("it waits");
        }
        assert!(first.try_recv().is_ok());
        assert!(matches!(storing.step(), Step::Write(materials) if materials == one("b")));
        assert_eq!(storing.done(Materials::new()).len(), 1);
    }

    #[test]
    fn who_brought_nothing_new_is_told_once_what_is_under_way_is_through() {
        let mut storing = Storing::default();
        let _at_once = wait(&mut storing);
        assert!(matches!(storing.step(), Step::Tell(asked) if asked.len() == 1));
        storing.put(one("a"));
        assert!(matches!(storing.step(), Step::Write(_)));
        let _later = wait(&mut storing);
        assert!(matches!(storing.step(), Step::Nothing));
        assert!(storing.done(Materials::new()).is_empty());
        assert!(matches!(storing.step(), Step::Tell(asked) if asked.len() == 1));
    }
    #[test]
    fn what_could_not_be_written_is_written_again_unless_something_newer_came() {
        let (id, other) = (MaterialId::of("a"), MaterialId::of("b"));
        let both = one("a").union(one("b"));
        let mut storing = Storing::default();
        storing.put(both.clone());
        assert!(matches!(storing.step(), Step::Write(_)));
        storing.put(Materials::unit(id.clone(), Secret::new("newer".into())));
        storing.done(both);
        let Step::Write(again) = storing.step() else { panic!("both are to be written") };
        assert_eq!((again[&id].reveal(), again[&other].reveal()), (&b"newer"[..], &b"b"[..]));
    }
}
