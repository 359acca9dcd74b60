//! What is asked for: the spec, and what operators set by hand of single backends besides.
//!
//! Two things, because they come from two places: a file that is edited, or a rollback, is about the spec
//! alone. What is in force is the one with the other put onto it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use lb_common::{
    id::{BackendName, BackendSetName},
    map::changes,
    spec::{Backend, BackendSet, BackendState, DesiredState, Override, Overrides, overridden},
};
use lb_proto::{error::Problems, v1};

use crate::{diff::diff, known};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    pub spec: DesiredState,
    /// Of backends that are in the spec.
    pub overrides: Overrides,
}

/// What is asked for, and what is in force because of it.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    pub asked: Asked,
    pub state: DesiredState,
}

/// What is to be set by hand of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub backend_set: String,
    pub backend: String,
    pub weight: To<u32>,
    pub state: To<BackendState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<T> {
    /// As it is.
    Stay,
    /// As the spec says.
    Reset,
    Be(T),
}

/// Who sets something, and when, since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Hand<'a> {
    pub author: &'a str,
    pub time: Duration,
}

// === impl InForce ===

impl InForce {
    pub fn new(asked: Asked) -> Self {
        Self::default().followed_by(asked)
    }

    /// Takes as long as what changed is large; what did not is shared.
    pub fn followed_by(&self, asked: Asked) -> Self {
        let DesiredState { listeners, routes, backend_sets, certificates } = asked.spec.clone();
        let sets = changes(&self.asked.spec.backend_sets, &backend_sets).map(|change| change.key);
        let by_hand = changes(&self.asked.overrides, &asked.overrides).map(|change| change.key);
        let mut in_force = self.state.backend_sets.clone();
        for name in sets.chain(by_hand).collect::<BTreeSet<_>>() {
            match backend_sets.get(name) {
                Some(set) => {
                    let set = overridden(set, asked.overrides.get(name));
                    in_force.insert(name.clone(), set);
                }
                None => drop(in_force.remove(name)),
            }
        }
        let state = DesiredState { listeners, routes, backend_sets: in_force, certificates };
        Self { asked, state }
    }

    /// How what is in force changes, and what changes of the spec without being in force.
    pub fn changes_to(&self, next: &Self) -> Vec<v1::Change> {
        let mut changes = diff(&self.state, &next.state);
        let known: BTreeSet<_> = changes.iter().map(|change| change.field.clone()).collect();
        let of_spec = diff(&self.asked.spec, &next.asked.spec).into_iter();
        changes.extend(of_spec.filter(|change| !known.contains(&change.field)).map(|change| {
            let after = format!("{} (not in force: it is set by hand)", change.after);
            v1::Change { after, ..change }
        }));
        changes
    }
}

// === impl Asked ===

impl Asked {
    /// With this set by hand.
    ///
    /// # Errors
    /// If there is no such backend; says what there is.
    pub fn set(&self, setting: &Setting, hand: Hand<'_>) -> Result<Self, Problems> {
        let Setting { backend_set, backend, weight, state } = setting;
        let (set, found) = known::known_backend(&self.spec, backend_set, backend)?;
        let former = self.by_hand(&set.name, found);
        let is = former.and_then(|former| former.state).unwrap_or(found.state);
        if *state == To::Be(BackendState::Draining) && is == BackendState::Disabled {
            let mut problems = Problems::default();
            problems.add("backend", format!("{backend} is disabled, and so gets nothing already"));
            return Err(problems);
        }
        let next = Override {
            weight: weight.from(former.and_then(|former| former.weight)),
            state: state.from(former.and_then(|former| former.state)),
            author: hand.author.into(),
            time: hand.time,
        };
        let is_same = former.map_or(next.is_empty(), |former| {
            (former.weight, former.state) == (next.weight, next.state)
        });
        let mut asked = self.clone();
        if !is_same {
            asked.put(&set.name, &found.name, next);
        }
        Ok(asked)
    }

    /// With a backend active that drains.
    ///
    /// # Errors
    /// If there is no such backend, or it is disabled.
    pub fn undrain(&self, set: &str, backend: &str, hand: Hand<'_>) -> Result<Self, Problems> {
        let (of, found) = known::known_backend(&self.spec, set, backend)?;
        let by_hand = self.by_hand(&of.name, found);
        let state = by_hand.and_then(|by_hand| by_hand.state).unwrap_or(found.state);
        if state == BackendState::Disabled {
            let mut problems = Problems::default();
            problems.add("backend", format!("{backend} is disabled, not draining"));
            return Err(problems);
        }
        let drains_by_spec = found.state == BackendState::Draining;
        let setting = Setting {
            backend_set: set.into(),
            backend: backend.into(),
            weight: To::Stay,
            state: if drains_by_spec { To::Be(BackendState::Active) } else { To::Reset },
        };
        self.set(&setting, hand)
    }

    /// What of a backend is given itself is no longer set by hand.
    pub fn let_go(
        &mut self,
        set: &BackendSetName,
        backend: &BackendName,
        weight: bool,
        state: bool,
    ) {
        let former = self.overrides.get(set).and_then(|of_set| of_set.get(backend));
        let Some(mut next) = former.cloned() else { return };
        next.weight = next.weight.filter(|_| !weight);
        next.state = next.state.filter(|_| !state);
        self.put(set, backend, next);
    }

    /// Forgets what was set of backends that are gone, in sets that are other ones than in `former`. Who was
    /// made active by hand is so against what the spec said: once that says something else, it counts again.
    pub fn sweep(&mut self, former: &DesiredState) {
        let sets = self.spec.backend_sets.clone();
        for change in changes(&former.backend_sets, &sets) {
            let Some(of_set) = self.overrides.get(change.key).cloned() else { continue };
            let state = |of: Option<&Arc<BackendSet>>, name: &BackendName| {
                let found = of?.backends.iter().find(|one| one.name == *name)?;
                Some(found.state)
            };
            for (backend, by_hand) in of_set.iter() {
                let is_gone = state(change.new, backend).is_none();
                let is_another = state(change.old, backend) != state(change.new, backend);
                let is_over = is_another && by_hand.state == Some(BackendState::Active);
                self.let_go(change.key, backend, is_gone, is_gone || is_over);
            }
        }
    }

    fn put(&mut self, set: &BackendSetName, backend: &BackendName, by_hand: Override) {
        let mut of_set = self.overrides.get(set).cloned().unwrap_or_default();
        let entries = Arc::make_mut(&mut of_set);
        match by_hand.is_empty() {
            true => drop(entries.remove(backend)),
            false => drop(entries.insert(backend.clone(), by_hand)),
        }
        match of_set.is_empty() {
            true => drop(self.overrides.remove(set)),
            false => drop(self.overrides.insert(set.clone(), of_set)),
        }
    }

    /// What was set of a backend.
    pub fn by_hand(&self, set: &BackendSetName, backend: &Backend) -> Option<&Override> {
        self.overrides.get(set)?.get(&backend.name)
    }
}

// === impl To ===

impl<T> To<T> {
    fn from(self, former: Option<T>) -> Option<T> {
        match self {
            Self::Stay => former,
            Self::Reset => None,
            Self::Be(value) => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::{APP, state};

    const HAND: Hand<'_> = Hand { author: "ann", time: Duration::from_secs(7) };

    fn asked(text: &str) -> Asked {
        Asked { spec: state(text), overrides: Overrides::new() }
    }

    fn setting(backend: &str, weight: To<u32>, state: To<BackendState>) -> Setting {
        Setting { backend_set: "app".into(), backend: backend.into(), weight, state }
    }

    fn drain(backend: &str) -> Setting {
        setting(backend, To::Stay, To::Be(BackendState::Draining))
    }

    /// `weight state` of each backend of `app`.
    fn of_app(in_force: &InForce) -> Vec<String> {
        let backends = in_force.state.backend_sets["app"].backends.iter();
        backends.map(|backend| format!("{} {}", backend.weight, backend.state.as_str())).collect()
    }

    #[test]
    fn what_is_set_by_hand_outlives_another_spec_and_goes_with_its_backend() {
        let drained = asked(APP).set(&drain("1.1.1.1:2"), HAND).expect("is there");
        let edited = APP.replace(r#""1.1.1.1:2""#, r#""1.1.1.1:2", weight = 4"#);
        let next = Asked { spec: state(&edited), ..drained.clone() };
        assert_eq!(of_app(&InForce::new(next)), ["1 active", "4 draining"]);

        let mut without =
            Asked { spec: state(&APP.replace("1.1.1.1:2", "1.1.1.1:9")), ..drained.clone() };
        without.sweep(&drained.spec);
        assert_eq!(without.overrides, Overrides::new());
    }

    #[test]
    fn an_override_is_reset_field_by_field() {
        let both = setting("1.1.1.1:1", To::Be(5), To::Be(BackendState::Disabled));
        let asked = asked(APP).set(&both, HAND).expect("is there");
        assert_eq!(of_app(&InForce::new(asked.clone())), ["5 disabled", "1 active"]);
        let weight = setting("1.1.1.1:1", To::Reset, To::Stay);
        let asked = asked.set(&weight, HAND).expect("is there");
        assert_eq!(of_app(&InForce::new(asked.clone())), ["1 disabled", "1 active"]);
        let state = setting("1.1.1.1:1", To::Stay, To::Reset);
        let asked = asked.set(&state, HAND).expect("is there");
        assert_eq!(asked.overrides, Overrides::new());
    }

    #[test]
    fn to_set_again_what_is_set_changes_nothing_not_even_who_did_it() {
        let once = asked(APP).set(&drain("1.1.1.1:1"), HAND).expect("is there");
        let later = Hand { author: "bob", time: Duration::from_secs(9) };
        assert_eq!(once.set(&drain("1.1.1.1:1"), later).expect("is there"), once);
        assert_eq!(
            once.overrides["app"].values().next().map(|one| one.author.as_str()),
            Some("ann")
        );
    }

    #[test]
    fn undraining_makes_active_what_drains_by_hand_or_by_the_spec() {
        let drained = asked(APP).set(&drain("1.1.1.1:1"), HAND).expect("is there");
        let back = drained.undrain("app", "1.1.1.1:1", HAND).expect("it drains");
        assert_eq!(back, asked(APP));

        let by_spec = asked(&APP.replace(r#""1.1.1.1:1""#, r#""1.1.1.1:1", state = "draining""#));
        let back = by_spec.undrain("app", "1.1.1.1:1", HAND).expect("it drains");
        assert_eq!(of_app(&InForce::new(back)), ["1 active", "1 active"]);

        let disabled = setting("1.1.1.1:1", To::Stay, To::Be(BackendState::Disabled));
        let disabled = asked(APP).set(&disabled, HAND).expect("is there");
        let error = disabled.undrain("app", "1.1.1.1:1", HAND).expect_err("it is disabled");
        assert_eq!(error.to_string(), "backend: 1.1.1.1:1 is disabled, not draining");
    }

    #[test]
    fn who_was_made_active_by_hand_is_so_until_the_spec_says_something_else() {
        let spec = |state: &str, weight: u32| {
            let backend = format!(r#""1.1.1.1:1", state = "{state}", weight = {weight}"#);
            asked(&APP.replace(r#""1.1.1.1:1""#, &backend))
        };
        let active = spec("draining", 2).undrain("app", "1.1.1.1:1", HAND).expect("it drains");
        for (next, expected) in
            [("draining", "active"), ("disabled", "disabled"), ("active", "active")]
        {
            let mut edited = Asked { spec: spec(next, 3).spec, ..active.clone() };
            edited.sweep(&active.spec);
            assert_eq!(edited.overrides.is_empty(), next != "draining", "{next}");
            assert_eq!(of_app(&InForce::new(edited))[0], format!("3 {expected}"));
        }
    }

    #[test]
    fn what_is_disabled_is_not_drained_and_so_not_active_afterwards() {
        let disabled = asked(&APP.replace(r#""1.1.1.1:1""#, r#""1.1.1.1:1", state = "disabled""#));
        let error = disabled.set(&drain("1.1.1.1:1"), HAND).expect_err("it is disabled");
        assert!(error.to_string().contains("is disabled"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let error = asked(APP).set(&drain("x"), HAND).expect_err("is not there");
        assert!(error.to_string().contains("there are 1.1.1.1:1, 1.1.1.1:2"), "{error}");
        let elsewhere = Setting { backend_set: "x".into(), ..drain("x") };
        let error = asked(APP).set(&elsewhere, HAND).expect_err("is not there");
        assert!(error.to_string().contains("there are app, spare"), "{error}");
    }

    #[test]
    fn a_change_of_the_spec_that_is_not_in_force_says_so() {
        let weight = setting("1.1.1.1:1", To::Be(5), To::Stay);
        let before = InForce::new(asked(APP).set(&weight, HAND).expect("is there"));
        let spec = state(&APP.replace(r#""1.1.1.1:1""#, r#""1.1.1.1:1", weight = 3"#));
        let after = before.followed_by(Asked { spec, ..before.asked.clone() });
        let [change] = &before.changes_to(&after)[..] else { panic!("there is one") };
        let v1::Change { field, before, after, .. } = change;
        assert_eq!(field, "backend_sets[app].backends[1.1.1.1:1].weight");
        assert_eq!((before.as_str(), after.as_str()), ("1", "3 (not in force: it is set by hand)"));
    }

    /// Step by step, or all at once.
    #[test]
    fn what_is_in_force_is_what_a_look_at_everything_finds() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut in_force = InForce::new(asked(APP));
            for _ in 0..20 {
                let weight = rng.u32(1..4);
                let mut next = match rng.u8(..3) {
                    0 => Asked {
                        spec: state(
                            &APP.replace("1.1.1.1:1\"", &format!("1.1.1.1:1\", weight = {weight}")),
                        ),
                        ..in_force.asked.clone()
                    },
                    1 => Asked {
                        spec: state("backend_sets = [{ name = 'app' }]"),
                        ..in_force.asked.clone()
                    },
                    _ => {
                        let choice = [To::Reset, To::Be(weight)][rng.usize(..2)];
                        let set = in_force.asked.set(&setting("1.1.1.1:1", choice, To::Stay), HAND);
                        set.unwrap_or(in_force.asked.clone())
                    }
                };
                next.sweep(&in_force.asked.spec);
                in_force = in_force.followed_by(next.clone());
                assert_eq!(in_force.state, InForce::new(next).state, "seed {seed}");
            }
        }
    }
}
