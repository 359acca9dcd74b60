//! What a request makes of the desired state: all of it, or a list of everything that is wrong.
//!
//! In two steps, because the first one needs no state and so not its owner: a request becomes a
//! [`Batch`] whose parts are valid by themselves, and a batch put onto a state becomes the next
//! state if all of its references lead somewhere.

use std::{collections::BTreeSet, sync::Arc};

use lb_common::{
    id::{BackendName, BackendSetName},
    map::Map,
    material::{MaterialId, Materials},
    spec::{Backend, DesiredState},
};
use lb_proto::{
    error::Problems,
    parse::{self, element},
    pem, v1,
};
use prost::Message;

use crate::{
    asked::Asked,
    known::{unknown, unknown_backend},
};

/// Changes that are valid by themselves.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    upsert: DesiredState,
    backends: Vec<GivenBackend>,
    delete: v1::Delete,
    replace_all: bool,
    allow_empty: bool,
    /// That were given with it.
    keys: Materials,
    /// What it takes as a message.
    bytes: usize,
}

/// One backend, and what of it was given.
#[derive(Clone, Debug)]
struct GivenBackend {
    /// Its problems are told under it.
    path: String,
    set: BackendSetName,
    backend: Backend,
    has_name: bool,
    has_weight: bool,
    has_state: bool,
}

// === impl Batch ===

impl Batch {
    /// Makes the state what `state` is; `keys` were given with it.
    pub fn replace(state: DesiredState, keys: Materials) -> Self {
        Self { upsert: state, keys, replace_all: true, allow_empty: true, ..Self::default() }
    }

    /// # Errors
    /// Everything that is wrong with the request's parts.
    pub fn parse(request: v1::ApplyRequest) -> Result<Self, Problems> {
        let bytes = request.encoded_len();
        let v1::ApplyRequest {
            listeners,
            routes,
            backend_sets,
            certificates,
            backends,
            delete,
            ..
        } = request;
        let mut problems = Problems::default();
        let spec = v1::Spec { listeners, routes, backend_sets, certificates };
        let upsert = parse::spec_parts(&spec, &mut problems);
        let backends = backends
            .iter()
            .enumerate()
            .filter_map(|(i, change)| backend_change(i, change, &mut problems))
            .collect();
        let delete = delete.unwrap_or_default();
        let keys = pem::keys(&spec.certificates);
        let v1::ApplyRequest { replace_all, allow_empty, .. } = request;
        problems.or(Self { upsert, backends, delete, replace_all, allow_empty, keys, bytes })
    }

    /// What its parts need besides themselves.
    pub fn materials(&self) -> BTreeSet<MaterialId> {
        self.upsert.materials()
    }

    /// What it takes in memory, or a little less.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keys that were given with it.
    pub fn keys(&self) -> &Materials {
        &self.keys
    }

    /// What it leads to. Parts that it does not change are shared with `asked`.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn onto(&self, asked: &Asked) -> Result<Asked, Problems> {
        let mut problems = Problems::default();
        let Self { upsert, backends, delete, replace_all, allow_empty, .. } = self;
        let current = &asked.spec;
        let mut next = DesiredState {
            listeners: put(&current.listeners, &upsert.listeners, *replace_all),
            routes: put(&current.routes, &upsert.routes, *replace_all),
            backend_sets: put(&current.backend_sets, &upsert.backend_sets, *replace_all),
            certificates: put(&current.certificates, &upsert.certificates, *replace_all),
        };
        let mut overrides = asked.clone();
        for given in backends {
            if let Some(name) = put_backend(&mut next, given, &mut problems) {
                overrides.let_go(&given.set, &name, given.has_weight, given.has_state);
            }
        }
        remove(&mut next.listeners, &delete.listeners, "listener", &mut problems);
        remove(&mut next.routes, &delete.routes, "route", &mut problems);
        for (i, backend) in delete.backends.iter().enumerate() {
            remove_backend(&mut next, i, backend, &mut problems);
        }
        remove(&mut next.backend_sets, &delete.backend_sets, "backend set", &mut problems);
        remove(&mut next.certificates, &delete.certificates, "certificate", &mut problems);
        if *replace_all && !allow_empty && next.is_empty() && !current.is_empty() {
            let message = "would delete every listener, route and backend set; if that is meant, \
                           set allow_empty, too";
            problems.add("replace_all", message);
        }
        parse::check_changes(current, &next, &mut problems);
        let mut next = Asked { spec: next, ..overrides };
        next.sweep(current);
        problems.or(next)
    }
}

fn backend_change(
    index: usize,
    change: &v1::BackendChange,
    problems: &mut Problems,
) -> Option<GivenBackend> {
    let unset = v1::Backend::default();
    let wire = change.backend.as_ref().unwrap_or(&unset);
    let path = element("backends", parse::name_of(wire), index);
    let backend = parse::backend(wire, &path, problems);
    let set = BackendSetName::new(&change.backend_set)
        .map_err(|error| problems.add(format!("{path}.backend_set"), error.to_string()));
    Some(GivenBackend {
        path,
        set: set.ok()?,
        backend: backend?,
        has_name: !wire.name.is_empty(),
        has_weight: wire.weight.is_some(),
        has_state: !wire.state.is_empty(),
    })
}

/// What did not change is shared, which is what makes comparing states cheap.
fn put<K: Ord + Clone, V: PartialEq>(
    current: &Map<K, Arc<V>>,
    upsert: &Map<K, Arc<V>>,
    replace_all: bool,
) -> Map<K, Arc<V>> {
    let mut next = current.clone();
    if replace_all {
        for gone in current.keys().filter(|name| !upsert.contains_key(*name)) {
            next.remove(gone);
        }
    }
    for (name, new) in upsert {
        if current.get(name) != Some(new) {
            next.insert(name.clone(), Arc::clone(new));
        }
    }
    next
}

/// Returns what the backend is called.
fn put_backend(
    next: &mut DesiredState,
    given: &GivenBackend,
    problems: &mut Problems,
) -> Option<BackendName> {
    let GivenBackend { path, set, backend, .. } = given;
    let Some(entry) = next.backend_sets.get_mut(set) else {
        let message = unknown("backend set", set.as_str(), next.backend_sets.keys());
        problems.add(format!("{path}.backend_set"), message);
        return None;
    };
    let is_named = |old: &Backend| old.name == backend.name;
    // Who is called something else is meant by its address, too, if nothing else is given.
    let is_there = |old: &Backend| !given.has_name && old.address == backend.address;
    let place = entry.backends.iter().position(is_named);
    let Some(i) = place.or_else(|| entry.backends.iter().position(is_there)) else {
        Arc::make_mut(entry).backends.push(backend.clone());
        return Some(backend.name.clone());
    };
    let old = &entry.backends[i];
    let new = Backend {
        name: old.name.clone(),
        address: backend.address,
        weight: if given.has_weight { backend.weight } else { old.weight },
        state: if given.has_state { backend.state } else { old.state },
    };
    let name = new.name.clone();
    if *old != new {
        Arc::make_mut(entry).backends[i] = new;
    }
    Some(name)
}

fn remove<K: Ord + Clone + std::borrow::Borrow<str> + std::fmt::Display, V>(
    from: &mut Map<K, Arc<V>>,
    names: &[String],
    kind: &str,
    problems: &mut Problems,
) {
    for name in names {
        if from.remove(name.as_str()).is_none() {
            let field = format!("delete.{}s", kind.replace(' ', "_"));
            problems.add(field, unknown(kind, name, from.keys()));
        }
    }
}

fn remove_backend(
    next: &mut DesiredState,
    index: usize,
    backend: &v1::BackendRef,
    problems: &mut Problems,
) {
    let path = element("delete.backends", &backend.backend, index);
    let Some(entry) = next.backend_sets.get_mut(backend.backend_set.as_str()) else {
        let message = unknown("backend set", &backend.backend_set, next.backend_sets.keys());
        return problems.add(format!("{path}.backend_set"), message);
    };
    match entry.backends.iter().position(|b| b.name.as_str() == backend.backend) {
        Some(i) => {
            Arc::make_mut(entry).backends.remove(i);
        }
        None => {
            problems.add(
                path,
                unknown_backend(&backend.backend_set, &backend.backend, &entry.backends),
            );
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use lb_common::spec::{BackendState, Override, Overrides};

    use super::*;

    /// A state from TOML.
    #[track_caller]
    pub(crate) fn state(text: &str) -> DesiredState {
        let spec = lb_proto::file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"))
    }

    pub(crate) const APP: &str = r#"
        listeners = [{ name = "web", address = "127.0.0.1:8080" }]
        routes = [{ name = "app", backend_set = "app" }]
        backend_sets = [
          { name = "app", backends = [{ address = "1.1.1.1:1" }, { address = "1.1.1.1:2" }] },
          { name = "spare" },
        ]
    "#;

    /// A request from the TOML of its spec.
    #[track_caller]
    pub(crate) fn request(text: &str) -> v1::ApplyRequest {
        let spec: v1::Spec = serde_spec(text);
        let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
        v1::ApplyRequest { listeners, routes, backend_sets, certificates, ..<_>::default() }
    }

    /// Unlike a file's, its references may lead out of it.
    #[track_caller]
    fn serde_spec(json: &str) -> v1::Spec {
        serde_json::from_str(json).expect("a spec in JSON")
    }

    fn change(set: &str, address: &str, weight: u32) -> v1::BackendChange {
        let backend =
            v1::Backend { address: address.into(), weight: Some(weight), ..<_>::default() };
        v1::BackendChange { backend_set: set.into(), backend: Some(backend) }
    }

    fn apply(request: v1::ApplyRequest, current: &DesiredState) -> Result<DesiredState, String> {
        let batch = Batch::parse(request).map_err(|problems| problems.to_string())?;
        let asked = Asked { spec: current.clone(), ..Asked::default() };
        batch.onto(&asked).map(|asked| asked.spec).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_a_batch_does_not_name_stays_and_is_shared() {
        let current = state(APP);
        let request = request(
            r#"{"backend_sets": [{"name": "spare", "balance": "random"}, {"name": "new"}]}"#,
        );
        let next = apply(request, &current).expect("is valid");
        assert_eq!(next.backend_sets.len(), 3);
        assert!(Arc::ptr_eq(&next.backend_sets["app"], &current.backend_sets["app"]));
        assert_ne!(next.backend_sets["spare"], current.backend_sets["spare"]);
    }

    #[test]
    fn what_was_given_again_unchanged_is_shared_too() {
        let current = state(APP);
        let request = request(r#"{"backend_sets": [{"name": "spare"}]}"#);
        let next = apply(request, &current).expect("is valid");
        assert!(Arc::ptr_eq(&next.backend_sets["spare"], &current.backend_sets["spare"]));
    }

    #[test]
    fn replace_all_deletes_what_is_not_named() {
        let mut request = request(r#"{"backend_sets": [{"name": "other"}]}"#);
        request.replace_all = true;
        let next = apply(request, &state(APP)).expect("is valid");
        assert_eq!(next, state("backend_sets = [{ name = 'other' }]"));
    }

    #[test]
    fn a_request_that_leaves_nothing_says_that_it_means_it() {
        let mut request = v1::ApplyRequest { replace_all: true, ..<_>::default() };
        let refused = apply(request.clone(), &state(APP)).expect_err("it is not meant");
        assert!(refused.starts_with("replace_all: would delete every listener"), "{refused}");
        assert!(apply(request.clone(), &state("")).is_ok(), "there is nothing to lose");
        request.allow_empty = true;
        assert_eq!(apply(request, &state(APP)), Ok(state("")));
    }

    #[test]
    fn single_backends_are_replaced_in_place_or_added() {
        let request = v1::ApplyRequest {
            backends: vec![change("app", "1.1.1.1:1", 7), change("app", "1.1.1.1:3", 9)],
            ..<_>::default()
        };
        let next = apply(request, &state(APP)).expect("is valid");
        let weights = next.backend_sets["app"].backends.iter().map(|b| b.weight);
        assert_eq!(weights.collect::<Vec<_>>(), [7, 1, 9]);
    }

    #[test]
    fn a_batch_may_move_the_users_of_a_name_before_it_goes() {
        let mut request = request(r#"{"routes": [{"name": "app", "backend_set": "spare"}]}"#);
        let sets = vec!["app".to_owned()];
        request.delete = Some(v1::Delete { backend_sets: sets, ..<_>::default() });
        let next = apply(request, &state(APP)).expect("is valid");
        assert!(!next.backend_sets.contains_key("app"));
    }

    #[test]
    fn everything_that_does_not_fit_is_told_at_once() {
        let backend = |set: &str, name: &str| v1::BackendRef {
            backend_set: set.into(),
            backend: name.into(),
        };
        let mut request = request(r#"{"routes": [{"name": "x", "backend_set": "nowhere"}]}"#);
        request.backends = vec![change("gone", "1.1.1.1:3", 1)];
        request.delete = Some(v1::Delete {
            listeners: vec!["ftp".into()],
            routes: vec!["none".into()],
            backend_sets: vec!["missing".into()],
            backends: vec![backend("app", "1.1.1.1:9"), backend("lost", "1.1.1.1:1")],
            certificates: vec!["none".into()],
        });
        let problems = apply(request, &state(APP)).expect_err("nothing of it is right");
        let expected = [
            r#"backends[1.1.1.1:3].backend_set: no backend set is called "gone"; there are app, spare"#,
            r#"delete.listeners: no listener is called "ftp"; there are web"#,
            r#"delete.routes: no route is called "none"; there are app, x"#,
            r#"delete.backends[1.1.1.1:9]: no backend of "app" is called "1.1.1.1:9"; there are 1.1.1.1:1, 1.1.1.1:2"#,
            r#"delete.backends[1.1.1.1:1].backend_set: no backend set is called "lost"; there are app, spare"#,
            r#"delete.backend_sets: no backend set is called "missing"; there are app, spare"#,
            r#"delete.certificates: no certificate is called "none"; there are none"#,
            r#"routes[x].backend_set: no backend set is called "nowhere"; there are app, spare"#,
        ];
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_wrong_by_itself_names_field_and_value() {
        let request = v1::ApplyRequest {
            backends: vec![change("app", "localhost", 1), v1::BackendChange::default()],
            ..<_>::default()
        };
        let problems = apply(request, &state(APP)).expect_err("neither is a backend");
        assert!(problems.starts_with(r#"backends[localhost].address: "localhost""#), "{problems}");
        assert!(problems.contains("backends[1].backend_set: is empty"), "{problems}");
    }

    #[test]
    fn what_is_left_out_of_a_single_backend_stays_as_it_is() {
        let text = APP.replace(
            r#"{ address = "1.1.1.1:1" }"#,
            r#"{ name = "one", address = "1.1.1.1:1", weight = 5, state = "draining" }"#,
        );
        let given = v1::Backend { address: "1.1.1.1:1".into(), ..<_>::default() };
        let change = v1::BackendChange { backend_set: "app".into(), backend: Some(given) };
        let request = v1::ApplyRequest { backends: vec![change], ..<_>::default() };
        assert_eq!(apply(request, &state(&text)), Ok(state(&text)), "nor is it there twice");
    }

    #[test]
    fn what_is_given_of_a_single_backend_is_set_by_hand_no_more() {
        let by_hand = |weight, state| Override {
            weight,
            state,
            author: "ann".into(),
            time: std::time::Duration::ZERO,
        };
        let with = |by_hand| {
            let name = BackendName::new("1.1.1.1:1").expect("a name");
            let of_app = Arc::new([(name, by_hand)].into());
            Overrides::unit(BackendSetName::new("app").expect("a name"), of_app)
        };
        let overrides = with(by_hand(Some(3), Some(BackendState::Draining)));
        let asked = Asked { spec: state(APP), overrides };
        let backends = vec![change("app", "1.1.1.1:1", 7)];
        let batch = Batch::parse(v1::ApplyRequest { backends, ..<_>::default() });
        let next = batch.expect("is valid").onto(&asked).expect("is valid");
        assert_eq!(next.overrides, with(by_hand(None, Some(BackendState::Draining))));
    }
}
