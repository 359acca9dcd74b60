//! What the controller is to make of what it is asked for, as plainly as it can be said: whole copies, no
//! sharing, nothing that remembers what changed. [`super::histories`] holds the two against each other.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
};

use lb_common::spec::{BackendState, DesiredState};
use lb_proto::{encode, v1};
use serde_json::{Value, json};

use crate::{
    asked::{Asked, Setting, To},
    controller::Change,
    desired::Batch,
};

pub type Name = &'static str;

/// Checked with a share of the half, checked with no bound, and not checked.
pub const SETS: [Name; 3] = ["half", "all", "never"];
pub const BACKENDS: [Name; 4] = ["one", "two", "three", "four"];
pub const ROUTES: [Name; 2] = ["first", "second"];
/// A listener that some proxies refuse.
pub const ODD: Name = "odd";

pub type Backends = BTreeMap<Name, Backend>;
pub type Sets = BTreeMap<Name, Backends>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub weight: u32,
    pub state: BackendState,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub sets: Sets,
    /// And which set each is to.
    pub routes: BTreeMap<Name, Name>,
    pub is_odd: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub spec: Spec,
    pub by_hand: BTreeMap<(Name, Name), ByHand>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByHand {
    pub weight: Option<u32>,
    pub state: Option<BackendState>,
}

/// What somebody asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    Put {
        set: Name,
        backends: Backends,
    },
    Delete {
        set: Name,
    },
    /// What is not given stays as it is.
    Give {
        set: Name,
        backend: Name,
        weight: Option<u32>,
        state: Option<BackendState>,
    },
    Remove {
        set: Name,
        backend: Name,
    },
    Route {
        route: Name,
        to: Option<Name>,
    },
    Odd(bool),
    /// By a file, a rollback or `replace_all`.
    Replace(Spec),
    Set {
        set: Name,
        backend: Name,
        weight: To<u32>,
        state: To<BackendState>,
    },
    Undrain {
        set: Name,
        backend: Name,
    },
}

// === impl Model ===

impl Model {
    /// What that makes of it; none if it is to be refused.
    pub fn after(&self, ask: &Ask) -> Option<Self> {
        let mut next = self.clone();
        match ask {
            Ask::Put { set, backends } => {
                next.spec.sets.insert(set, backends.clone());
            }
            Ask::Delete { set } => {
                next.spec.sets.remove(set)?;
            }
            Ask::Give { set, backend, weight, state } => {
                let backends = next.spec.sets.get_mut(set)?;
                let given = backends.entry(backend).or_insert(NEW);
                given.weight = weight.unwrap_or(given.weight);
                given.state = state.unwrap_or(given.state);
                let by_hand = next.by_hand.entry((set, backend)).or_default();
                by_hand.weight = by_hand.weight.filter(|_| weight.is_none());
                by_hand.state = by_hand.state.filter(|_| state.is_none());
            }
            Ask::Remove { set, backend } => {
                next.spec.sets.get_mut(set)?.remove(backend)?;
            }
            Ask::Route { route, to: Some(set) } => {
                next.spec.routes.insert(route, set);
            }
            Ask::Route { route, to: None } => {
                next.spec.routes.remove(route)?;
            }
            Ask::Odd(true) => next.spec.is_odd = true,
            Ask::Odd(false) if !self.spec.is_odd => return None,
            Ask::Odd(false) => next.spec.is_odd = false,
            Ask::Replace(spec) => next.spec = spec.clone(),
            Ask::Set { set, backend, weight, state } => {
                let is = self.shown(set, backend)?;
                let drains = *state == To::Be(BackendState::Draining);
                if drains && is.state == BackendState::Disabled {
                    return None;
                }
                let by_hand = next.by_hand.entry((set, backend)).or_default();
                by_hand.weight = to(by_hand.weight, *weight);
                by_hand.state = to(by_hand.state, *state);
            }
            Ask::Undrain { set, backend } => {
                if self.shown(set, backend)?.state == BackendState::Disabled {
                    return None;
                }
                let drains = self.spec.sets[set][backend].state == BackendState::Draining;
                next.by_hand.entry((set, backend)).or_default().state =
                    drains.then_some(BackendState::Active);
            }
        }
        let sets = &next.spec.sets;
        let says = |sets: &Sets, set: Name, backend: Name| Some(sets.get(set)?.get(backend)?.state);
        next.by_hand.retain(|(set, backend), by_hand| {
            let is = says(sets, set, backend);
            // It was against what the spec said.
            if is != says(&self.spec.sets, set, backend) {
                by_hand.state = by_hand.state.filter(|state| *state != BackendState::Active);
            }
            is.is_some() && *by_hand != ByHand::default()
        });
        next.spec.routes.values().all(|set| sets.contains_key(set)).then_some(next)
    }

    /// What proxies are to go by.
    pub fn in_force(&self) -> Sets {
        let backends = |(set, backends): (&Name, &Backends)| {
            let shown = backends.keys().filter_map(|name| Some((*name, self.shown(set, name)?)));
            (*set, shown.collect())
        };
        self.spec.sets.iter().map(backends).collect()
    }

    fn shown(&self, set: Name, backend: Name) -> Option<Backend> {
        let of_spec = self.spec.sets.get(set)?.get(backend)?;
        let by_hand = self.by_hand.get(&(set, backend)).copied().unwrap_or_default();
        let weight = by_hand.weight.unwrap_or(of_spec.weight);
        Some(Backend { weight, state: by_hand.state.unwrap_or(of_spec.state) })
    }

    /// What the controller says is asked for, if that is all that there is.
    pub fn of(asked: &Asked) -> Self {
        let mut by_hand = BTreeMap::new();
        for (set, of_set) in asked.overrides.iter() {
            for (backend, one) in of_set.iter() {
                let found = ByHand { weight: one.weight, state: one.state };
                by_hand.insert((known(set), known(backend)), found);
            }
        }
        Self { spec: Spec::of(&asked.spec), by_hand }
    }
}

const NEW: Backend = Backend { weight: 1, state: BackendState::Active };

fn to<T>(former: Option<T>, to: To<T>) -> Option<T> {
    match to {
        To::Stay => former,
        To::Reset => None,
        To::Be(value) => Some(value),
    }
}

// === impl Spec ===

impl Spec {
    /// Of a state that has nothing that is not in models.
    pub fn of(state: &DesiredState) -> Self {
        let sets =
            state.backend_sets.values().map(|set| (known(&set.name), backends(&set.backends)));
        let routes = encode::spec(state).routes.into_iter();
        Self {
            sets: sets.collect(),
            routes: routes.map(|route| (known(&route.name), known(&route.backend_set))).collect(),
            is_odd: state.listeners.contains_key(ODD),
        }
    }

    fn to_json(&self) -> Value {
        let sets = self.sets.iter().map(|(name, backends)| set_json(name, backends));
        let routes = self.routes.iter().map(|(name, set)| route_json(name, set));
        let odd = self.is_odd.then(odd_json);
        let (sets, routes, odd) =
            (Vec::from_iter(sets), Vec::from_iter(routes), Vec::from_iter(odd));
        json!({ "listeners": odd, "routes": routes, "backend_sets": sets })
    }
}

pub fn backends(of: &[lb_common::spec::Backend]) -> Backends {
    let one = |backend: &lb_common::spec::Backend| {
        let found = Backend { weight: backend.weight, state: backend.state };
        (known(&backend.name), found)
    };
    of.iter().map(one).collect()
}

/// A name as models have it.
pub fn known(name: &(impl Borrow<str> + ?Sized)) -> Name {
    let name = name.borrow();
    let mut all = SETS.iter().chain(&BACKENDS).chain(&ROUTES);
    all.find(|known| **known == name).unwrap_or_else(|| panic!("{name:?} is nobody's name"))
}

// === impl Ask ===

impl Ask {
    /// As the controller is asked.
    pub fn change(&self) -> Change {
        let request = match self.clone() {
            Self::Put { set, backends } => of_json(json!({
                "backend_sets": [set_json(set, &backends)]
            })),
            Self::Delete { set } => {
                delete(v1::Delete { backend_sets: vec![set.into()], ..<_>::default() })
            }
            Self::Give { set, backend, weight, state } => {
                let given = v1::Backend {
                    name: backend.into(),
                    address: address(set, backend),
                    weight,
                    state: state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
                };
                let change = v1::BackendChange { backend_set: set.into(), backend: Some(given) };
                v1::ApplyRequest { backends: vec![change], ..<_>::default() }
            }
            Self::Remove { set, backend } => {
                let gone = v1::BackendRef { backend_set: set.into(), backend: backend.into() };
                delete(v1::Delete { backends: vec![gone], ..<_>::default() })
            }
            Self::Route { route, to: Some(set) } => {
                of_json(json!({ "routes": [route_json(route, set)] }))
            }
            Self::Route { route, to: None } => {
                delete(v1::Delete { routes: vec![route.into()], ..<_>::default() })
            }
            Self::Odd(true) => of_json(json!({ "listeners": [odd_json()] })),
            Self::Odd(false) => {
                delete(v1::Delete { listeners: vec![ODD.into()], ..<_>::default() })
            }
            Self::Replace(spec) => {
                let (replace_all, allow_empty) = (true, true);
                v1::ApplyRequest { replace_all, allow_empty, ..of_json(spec.to_json()) }
            }
            Self::Set { set, backend, weight, state } => {
                let (backend_set, backend) = (set.into(), backend.into());
                return Change::Set(Setting { backend_set, backend, weight, state });
            }
            Self::Undrain { set, backend } => {
                return Change::Undrain { backend_set: set.into(), backend: backend.into() };
            }
        };
        Change::Batch(Box::new(Batch::parse(request).expect("is valid by itself")))
    }
}

fn of_json(spec: Value) -> v1::ApplyRequest {
    let spec = serde_json::from_value(spec).expect("is a spec");
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    v1::ApplyRequest { listeners, routes, backend_sets, certificates, ..<_>::default() }
}

fn delete(delete: v1::Delete) -> v1::ApplyRequest {
    v1::ApplyRequest { delete: Some(delete), ..<_>::default() }
}

fn odd_json() -> Value {
    json!({ "name": ODD, "address": "127.0.0.1:9" })
}

fn route_json(name: Name, set: Name) -> Value {
    json!({ "name": name, "match": { "host": format!("{name}.test") }, "backend_set": set })
}

fn set_json(name: Name, backends: &Backends) -> Value {
    let backends = backends.iter().map(|(backend, Backend { weight, state })| {
        json!({
            "name": backend, "address": address(name, backend),
            "weight": weight, "state": state.as_str(),
        })
    });
    let backends = Vec::from_iter(backends);
    match name {
        "half" => json!({ "name": name, "backends": backends, "health_check": {
            "interval": "4s", "timeout": "1s", "healthy_after": 1, "unhealthy_after": 1,
        }}),
        "all" => json!({ "name": name, "backends": backends, "health_check": {
            "interval": "6s", "timeout": "1s", "healthy_after": 2, "unhealthy_after": 3,
            "max_unhealthy_percent": 100,
        }}),
        _ => json!({ "name": name, "backends": backends }),
    }
}

pub fn address(set: Name, backend: Name) -> String {
    let place = |of: &[Name], name| of.iter().position(|one| *one == name).map_or(0, |i| i + 1);
    format!("10.0.{}.{}:80", place(&SETS, set), place(&BACKENDS, backend))
}

/// Which of a set checks are to take out, of those that fail: so many of those that serve, and all others.
pub struct Out {
    pub serving: usize,
    pub others: BTreeSet<Name>,
}

impl Out {
    pub fn of(set: Name, in_force: &Backends, fails: impl Fn(Name, Name) -> bool) -> Self {
        let max_percent = match set {
            "half" => 50,
            "all" => 100,
            _ => return Self { serving: 0, others: BTreeSet::new() },
        };
        let serves =
            |backend: &Backend| backend.state == BackendState::Active && backend.weight > 0;
        let is_checked = |backend: &Backend| backend.state != BackendState::Disabled;
        let all = in_force.values().filter(|backend| serves(backend)).count();
        let failing = in_force.iter().filter(|(name, one)| is_checked(one) && fails(set, name));
        let (serving, others): (Vec<_>, Vec<_>) = failing.partition(|(_, one)| serves(one));
        let others = others.into_iter().map(|(name, _)| *name).collect();
        Self { serving: serving.len().min(all * max_percent / 100), others }
    }
}
