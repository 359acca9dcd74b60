//! What proxies get: snapshots, and deltas between them. Both ends make the same digest of what they lead
//! to, and neither looks at what did not change.

use std::{borrow::Borrow, sync::Arc};

use lb_common::{
    id::{BackendName, BackendSetName},
    map::{Change, Map, changes},
    material::{MaterialId, Materials},
    secret::Secret,
    snapshot::{Digest, Members, Snapshot, SnapshotId, UnhealthyBackends, Version},
    spec::{Backend, BackendSet, DesiredState},
};
use prost::Message;
use v1::Kind;

use crate::{
    encode,
    error::Problems,
    parse,
    resources::{self, Key, Resources},
    v1,
};

/// A snapshot, and what it is made of on its way. By default, nothing at all.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    pub snapshot: Arc<Snapshot>,
    pub resources: Resources,
}

/// What a snapshot has in it.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub desired: DesiredState,
    pub members: Members,
    pub unhealthy: UnhealthyBackends,
    pub materials: Materials,
}

/// Why an update was not taken. Says which resource, if one can be named.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("the update does not decode: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("{0}")]
    Invalid(#[from] Problems),
    #[error("the delta starts from {offered:?}, and this is {running:?}")]
    OtherBase { offered: SnapshotId, running: SnapshotId },
    #[error("the content's digest is {actual}, and {announced} was announced")]
    OtherDigest { announced: Digest, actual: Digest },
    #[error("the update has no content")]
    Empty,
}

// === impl UpdateError ===

impl UpdateError {
    /// The first resource that is at fault, like `routes[app]`.
    pub fn resource(&self) -> &str {
        match self {
            Self::Invalid(problems) => problems.0.first().map_or("", |problem| &problem.field),
            _ => "",
        }
    }
}

// === impl Content ===

impl Content {
    /// With the backends that the state itself names.
    pub fn of(desired: DesiredState) -> Self {
        let named = desired.backend_sets.iter().filter(|(_, set)| !set.backends.is_empty());
        let members =
            named.map(|(name, set)| (name.clone(), Arc::new(set.backends.clone()))).collect();
        Self { desired, members, ..Self::default() }
    }
}

// === impl Sealed ===

impl Sealed {
    pub fn new(version: Version, revision: u64, content: Content) -> Self {
        Self::default().followed_by(version, revision, content)
    }

    /// The next snapshot; takes as long as what differs is large.
    pub fn followed_by(&self, version: Version, revision: u64, content: Content) -> Self {
        let Content { desired, members, unhealthy, materials } = content;
        let (from, to) = (&self.snapshot.desired, &desired);
        let mut resources = self.resources.clone();
        let all = &mut resources;
        carry(all, Kind::Listener, &from.listeners, &to.listeners, |part| {
            open_content(&encode::listener(part))
        });
        carry(all, Kind::Route, &from.routes, &to.routes, |part| {
            open_content(&encode::route(part))
        });
        carry(all, Kind::BackendSet, &from.backend_sets, &to.backend_sets, |part| {
            open_content(&without_backends(part))
        });
        carry(all, Kind::Certificate, &from.certificates, &to.certificates, |part| {
            open_content(&encode::certificate(part))
        });
        carry(all, Kind::Members, &self.snapshot.members, &members, |backends| {
            let backends = backends.iter().map(encode::backend).collect();
            open_content(&v1::Members { backends })
        });
        let (was, is) = (self.snapshot.unhealthy.by_set(), unhealthy.by_set());
        carry(all, Kind::Unhealthy, was, is, |names| {
            let backends = names.iter().map(ToString::to_string).collect();
            open_content(&v1::Unhealthy { backends })
        });
        carry(all, Kind::Material, &self.snapshot.materials, &materials, |secret| {
            resources::Content::Secret(secret.clone())
        });
        let id = SnapshotId { version, digest: resources.digest() };
        let snapshot = Snapshot { id, revision, desired, members, unhealthy, materials };
        Self { snapshot: Arc::new(snapshot), resources }
    }

    /// The same at another version.
    #[must_use]
    pub fn dated(&self, version: Version) -> Self {
        let id = SnapshotId { version, ..self.snapshot.id };
        let snapshot = Arc::new(Snapshot { id, ..Snapshot::clone(&self.snapshot) });
        Self { snapshot, resources: self.resources.clone() }
    }

    /// Reads a full snapshot and holds it against the digest that was announced.
    ///
    /// # Errors
    /// If it does not decode, is not valid, or is not what was announced.
    pub fn open(id: SnapshotId, revision: u64, bytes: &[u8]) -> Result<Self, UpdateError> {
        let wire = v1::Snapshot::decode(bytes)?;
        Self::default().changed(id, revision, wire.resources, Vec::new())
    }

    /// Follows an encoded [`v1::Delta`] from here and holds the result against the digest that was
    /// announced. What the delta does not touch is shared.
    ///
    /// # Errors
    /// If it does not decode, starts elsewhere, is not valid, or does not lead to what was announced.
    pub fn follow(&self, id: SnapshotId, revision: u64, bytes: &[u8]) -> Result<Self, UpdateError> {
        let wire = v1::Delta::decode(bytes)?;
        let offered = wire.base.as_ref().map(parse_snapshot_id).unwrap_or_default();
        let running = self.snapshot.id;
        if offered != running {
            return Err(UpdateError::OtherBase { offered, running });
        }
        self.changed(id, revision, wire.changed, wire.gone)
    }

    /// What leads to `next`.
    pub fn delta(&self, next: &Self) -> v1::Delta {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for Change { key, new, .. } in self.resources.changes(&next.resources) {
            match new {
                Some(resource) => changed.push(resource.to_wire(key)),
                None => {
                    gone.push(v1::ResourceName { kind: key.kind, name: key.name.to_string() });
                }
            }
        }
        v1::Delta { base: Some(snapshot_id(self.snapshot.id)), changed, gone }
    }

    fn changed(
        &self,
        id: SnapshotId,
        revision: u64,
        changed: Vec<v1::Resource>,
        gone: Vec<v1::ResourceName>,
    ) -> Result<Self, UpdateError> {
        let mut snapshot = Snapshot::clone(&self.snapshot);
        let mut resources = self.resources.clone();
        for v1::ResourceName { kind, name } in &gone {
            resources.remove(&Key { kind: *kind, name: name.as_str().into() });
            forget(&mut snapshot, *kind, name);
        }
        let mut fresh = Vec::new();
        for v1::Resource { kind, name, content } in changed {
            let key = Key { kind, name: name.into() };
            let content = match Kind::try_from(kind) {
                Ok(Kind::Material) => resources::Content::Secret(Secret::new(content.to_vec())),
                _ => resources::Content::Open(content),
            };
            if resources.put(key.clone(), content.clone()) {
                fresh.push((key, content));
            }
        }
        let (announced, actual) = (id.digest, resources.digest());
        if announced != actual {
            return Err(UpdateError::OtherDigest { announced, actual });
        }
        let mut problems = Problems::default();
        for (Key { kind, name }, content) in fresh {
            put(&mut snapshot, kind, &name, &content, &mut problems);
        }
        // References are looked at only when all parts are there, lest one mistake be told twice.
        if problems.0.is_empty() {
            parse::check_changes(&self.snapshot.desired, &snapshot.desired, &mut problems);
        }
        problems.or(())?;
        Ok(Self { snapshot: Arc::new(Snapshot { id, revision, ..snapshot }), resources })
    }
}

pub fn snapshot_id(id: SnapshotId) -> v1::SnapshotId {
    let SnapshotId { version: Version { epoch, version }, digest: Digest(digest) } = id;
    v1::SnapshotId { epoch, version, digest_low: digest as u64, digest_high: (digest >> 64) as u64 }
}

pub fn parse_snapshot_id(wire: &v1::SnapshotId) -> SnapshotId {
    let digest = u128::from(wire.digest_high) << 64 | u128::from(wire.digest_low);
    SnapshotId {
        version: Version { epoch: wire.epoch, version: wire.version },
        digest: Digest(digest),
    }
}

/// Brings what differs between `from` and `to` to the resources.
fn carry<K, V>(
    resources: &mut Resources,
    kind: Kind,
    from: &Map<K, V>,
    to: &Map<K, V>,
    encode: impl Fn(&V) -> resources::Content,
) where
    K: Ord + Borrow<str>,
    V: PartialEq,
{
    for Change { key, new, .. } in changes(from, to) {
        let key = Key::new(kind, key.borrow());
        match new {
            Some(part) => {
                resources.put(key, encode(part));
            }
            None => resources.remove(&key),
        }
    }
}

fn open_content(wire: &impl Message) -> resources::Content {
    resources::Content::Open(wire.encode_to_vec().into())
}

/// They have resources of their own.
fn without_backends(set: &BackendSet) -> v1::BackendSet {
    v1::BackendSet { backends: Vec::new(), ..encode::backend_set(set) }
}

fn forget(snapshot: &mut Snapshot, kind: i32, name: &str) {
    let Snapshot { desired, members, unhealthy, materials, .. } = snapshot;
    match Kind::try_from(kind) {
        Ok(Kind::Listener) => drop(desired.listeners.remove(name)),
        Ok(Kind::Route) => drop(desired.routes.remove(name)),
        Ok(Kind::BackendSet) => drop(desired.backend_sets.remove(name)),
        Ok(Kind::Certificate) => drop(desired.certificates.remove(name)),
        Ok(Kind::Members) => drop(members.remove(name)),
        Ok(Kind::Unhealthy) => unhealthy.remove(name),
        Ok(Kind::Material) => drop(materials.remove(name)),
        // Of a later build, or for the store alone.
        Ok(Kind::Unspecified | Kind::Override) | Err(_) => {}
    }
}

fn put(
    snapshot: &mut Snapshot,
    kind: i32,
    name: &str,
    content: &resources::Content,
    problems: &mut Problems,
) {
    let Snapshot { desired, members, unhealthy, materials, .. } = snapshot;
    match Kind::try_from(kind) {
        Ok(Kind::Listener) => {
            let path = format!("listeners[{name}]");
            let part = read(content, &path, parse::listener, problems);
            if let Some(part) = called(part, |part| part.name.as_str(), name, &path, problems) {
                desired.listeners.insert(part.name.clone(), part.into());
            }
        }
        Ok(Kind::Route) => {
            let path = format!("routes[{name}]");
            let part = read(content, &path, parse::route, problems);
            if let Some(part) = called(part, |part| part.name.as_str(), name, &path, problems) {
                desired.routes.insert(part.name.clone(), part.into());
            }
        }
        Ok(Kind::BackendSet) => {
            let path = format!("backend_sets[{name}]");
            let part = read(content, &path, parse::backend_set, problems);
            if let Some(part) = called(part, |part| part.name.as_str(), name, &path, problems) {
                desired.backend_sets.insert(part.name.clone(), part.into());
            }
        }
        Ok(Kind::Certificate) => {
            let path = format!("certificates[{name}]");
            let part = read(content, &path, parse::certificate, problems);
            if let Some(part) = called(part, |part| part.name.as_str(), name, &path, problems) {
                desired.certificates.insert(part.name.clone(), part.into());
            }
        }
        Ok(Kind::Members) => {
            let path = format!("members[{name}]");
            let set = set_name(name, &path, problems);
            if let Some(backends) = set.zip(read(content, &path, backends, problems)) {
                members.insert(backends.0, backends.1.into());
            }
        }
        Ok(Kind::Unhealthy) => {
            let path = format!("unhealthy[{name}]");
            let set = set_name(name, &path, problems);
            if let Some((set, names)) = set.zip(read(content, &path, backend_names, problems)) {
                unhealthy.set(set, names.into_iter().collect());
            }
        }
        Ok(Kind::Material) => {
            if let resources::Content::Secret(secret) = content {
                materials.insert(MaterialId::of(name), secret.clone());
            }
        }
        // Of a later build, or for the store alone.
        Ok(Kind::Unspecified | Kind::Override) | Err(_) => {}
    }
}

fn read<W: Message + Default, T>(
    content: &resources::Content,
    path: &str,
    parse: impl FnOnce(&W, &str, &mut Problems) -> Option<T>,
    problems: &mut Problems,
) -> Option<T> {
    match W::decode(content.bytes()) {
        Ok(wire) => parse(&wire, path, problems),
        Err(error) => {
            problems.add(path, format!("does not decode: {error}"));
            None
        }
    }
}

/// A part whose name is that of its resource: by that it is found when it goes.
fn called<T>(
    part: Option<T>,
    name_of: impl Fn(&T) -> &str,
    name: &str,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    let part = part?;
    if name_of(&part) == name {
        return Some(part);
    }
    problems.add(path, format!("is called {:?} within", name_of(&part)));
    None
}

fn backends(wire: &v1::Members, path: &str, problems: &mut Problems) -> Option<Vec<Backend>> {
    parse::backends(&wire.backends, path, problems)
}

fn backend_names(
    wire: &v1::Unhealthy,
    path: &str,
    problems: &mut Problems,
) -> Option<Vec<BackendName>> {
    let names = wire.backends.iter().map(|name| BackendName::new(name));
    let names: Result<_, _> = names.collect();
    names.map_err(|error| problems.add(path, error.to_string())).ok()
}

fn set_name(name: &str, path: &str, problems: &mut Problems) -> Option<BackendSetName> {
    BackendSetName::new(name).map_err(|error| problems.add(path, error.to_string())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file;

    fn state(backends: &str) -> DesiredState {
        let text = format!("backend_sets = [{backends}]");
        let spec = file::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
        parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn unhealthy(names: &[(&str, &str)]) -> UnhealthyBackends {
        let mut unhealthy = UnhealthyBackends::default();
        for (set, backend) in names {
            let set = BackendSetName::new(set).expect("a valid name");
            unhealthy.insert(set, BackendName::new(backend).expect("a valid name"));
        }
        unhealthy
    }

    fn seal(
        version: Version,
        revision: u64,
        desired: DesiredState,
        unhealthy: UnhealthyBackends,
    ) -> Sealed {
        Sealed::new(version, revision, Content { unhealthy, ..Content::of(desired) })
    }

    fn opened(sealed: &Sealed) -> Sealed {
        let Snapshot { id, revision, .. } = *sealed.snapshot;
        Sealed::open(id, revision, &sealed.resources.encode()).expect("it is valid")
    }

    fn version(version: u64) -> Version {
        Version { epoch: 1, version }
    }

    const A: &str =
        "{ name = 'a', backends = [{ address = '1.1.1.1:1' }, { address = '1.1.1.1:2' }] }";
    const B: &str = "{ name = 'b' }";

    #[test]
    fn a_delta_leads_to_what_the_full_snapshot_says() {
        let both = format!("{A}, {B}");
        let base = seal(version(1), 1, state(&both), unhealthy(&[("a", "1.1.1.1:1")]));
        #[rustfmt::skip]
        let cases = [
            ("nothing",             both.clone(),                          unhealthy(&[("a", "1.1.1.1:1")])),
            ("one set goes",        A.to_owned(),                          unhealthy(&[("a", "1.1.1.1:1")])),
            ("an unhealthy set goes", B.to_owned(),                        unhealthy(&[])),
            ("one set comes",       format!("{both}, {{ name = 'c' }}"),   unhealthy(&[("a", "1.1.1.1:1")])),
            ("a set changes",       format!("{A}, {{ name = 'b', balance = 'random' }}"), unhealthy(&[("a", "1.1.1.1:1")])),
            ("all are healthy",     both.clone(),                          unhealthy(&[])),
            ("another one is not",  both,                                  unhealthy(&[("a", "1.1.1.1:2")])),
        ];
        for (what, desired, unhealthy) in cases {
            let next = seal(version(2), 2, state(&desired), unhealthy);
            let bytes = base.delta(&next).encode_to_vec();
            let followed = opened(&base).follow(next.snapshot.id, 2, &bytes).expect(what);
            assert_eq!(followed.snapshot, opened(&next).snapshot, "{what}");
            let Snapshot { id, revision, members, unhealthy, .. } = &*followed.snapshot;
            assert_eq!((*id, *revision), (next.snapshot.id, 2), "{what}");
            assert_eq!((members, unhealthy), (&next.snapshot.members, &next.snapshot.unhealthy));
            assert_eq!(followed.resources.digest(), next.snapshot.id.digest, "{what}");
            // As if there had been nothing before.
            let anew = Sealed::new(
                version(2),
                2,
                Content {
                    desired: next.snapshot.desired.clone(),
                    members: next.snapshot.members.clone(),
                    unhealthy: next.snapshot.unhealthy.clone(),
                    materials: next.snapshot.materials.clone(),
                },
            );
            assert_eq!(anew.snapshot.id, next.snapshot.id, "{what}");
        }
    }

    #[test]
    fn a_delta_holds_only_what_changed_and_shares_the_rest() {
        let base = seal(version(1), 1, state(&format!("{A}, {B}")), unhealthy(&[]));
        let mut desired = base.snapshot.desired.clone();
        desired.backend_sets.remove("b");
        let next = base.followed_by(version(2), 2, Content::of(desired));
        let wire = base.delta(&next);
        let gone = v1::ResourceName { kind: Kind::BackendSet.into(), name: "b".into() };
        assert_eq!((&wire.changed[..], &wire.gone[..]), (&[][..], &[gone][..]));
        let at_proxy = opened(&base);
        let followed = at_proxy.follow(next.snapshot.id, 2, &wire.encode_to_vec()).expect("valid");
        let set = |sealed: &Sealed| Arc::clone(&sealed.snapshot.desired.backend_sets["a"]);
        assert!(Arc::ptr_eq(&set(&followed), &set(&at_proxy)));
    }

    #[test]
    fn another_weight_is_a_change_of_the_members_alone() {
        let base = seal(version(1), 1, state(A), unhealthy(&[]));
        let heavier = A.replace("'1.1.1.1:1'", "'1.1.1.1:1', weight = 9");
        let next = base.followed_by(version(2), 2, Content::of(state(&heavier)));
        let wire = base.delta(&next);
        let changed: Vec<_> = wire.changed.iter().map(|one| (one.kind(), &*one.name)).collect();
        assert_eq!((changed, wire.gone.len()), (vec![(Kind::Members, "a")], 0));
    }

    #[test]
    fn a_delta_has_the_material_that_changed_and_no_other() {
        let content = |materials: &[(&str, &str)]| {
            let secret = |text: &str| Secret::new(text.into());
            let materials =
                materials.iter().map(|(id, text)| (MaterialId::of(id), secret(text))).collect();
            Content { materials, ..Content::of(state(A)) }
        };
        let base = [("file:/a", "a"), ("file:/b", "b"), ("tickets", "t")];
        let base = Sealed::new(version(1), 1, content(&base));
        let next = [("file:/a", "A"), ("file:/c", "c"), ("tickets", "t")];
        let next = base.followed_by(version(2), 1, content(&next));
        assert_ne!(base.snapshot.id.digest, next.snapshot.id.digest);
        let wire = base.delta(&next);
        let changed: Vec<_> = wire.changed.iter().map(|one| &*one.name).collect();
        let gone: Vec<_> = wire.gone.iter().map(|one| &*one.name).collect();
        assert_eq!((changed, gone), (vec!["file:/a", "file:/c"], vec!["file:/b"]));
        let followed = opened(&base).follow(next.snapshot.id, 1, &wire.encode_to_vec());
        let followed = followed.expect("valid");
        assert_eq!(followed.snapshot.materials, next.snapshot.materials);
        assert_eq!(opened(&next).snapshot.materials, next.snapshot.materials);
    }

    #[test]
    fn what_is_dated_is_the_same_at_another_version() {
        let sealed = seal(version(1), 7, state(A), unhealthy(&[("a", "1.1.1.1:1")]));
        let dated = sealed.dated(version(5));
        let id = SnapshotId { version: version(5), digest: sealed.snapshot.id.digest };
        assert_eq!(*dated.snapshot, Snapshot { id, ..Snapshot::clone(&sealed.snapshot) });
        assert_eq!(dated.resources.encode(), sealed.resources.encode());
        assert_eq!(opened(&dated).snapshot.id, id);
    }

    #[test]
    fn an_id_comes_back_from_the_wire_as_it_was() {
        let digest = Digest(0xf1e2_d3c4_b5a6_9788_796a_5b4c_3d2e_1f00);
        let id = SnapshotId { version: Version { epoch: 3, version: 4 }, digest };
        assert_eq!(parse_snapshot_id(&snapshot_id(id)), id);
    }

    #[test]
    fn a_delta_from_elsewhere_is_refused() {
        let base = seal(version(1), 1, state(A), unhealthy(&[]));
        let other = seal(version(1), 1, state(B), unhealthy(&[]));
        let next = seal(version(2), 2, state(&format!("{A}, {B}")), unhealthy(&[]));
        let refused = other.follow(next.snapshot.id, 2, &base.delta(&next).encode_to_vec());
        assert!(matches!(refused, Err(UpdateError::OtherBase { .. })), "{refused:?}");
    }

    #[test]
    fn content_that_is_not_what_was_announced_is_refused() {
        let sealed = seal(version(1), 1, state(A), unhealthy(&[]));
        let announced = SnapshotId { version: version(1), digest: Digest(1) };
        let bytes = sealed.resources.encode();
        let refused = Sealed::open(announced, 1, &bytes);
        assert!(matches!(refused, Err(UpdateError::OtherDigest { .. })), "{refused:?}");
        assert!(Sealed::open(sealed.snapshot.id, 1, &bytes[..bytes.len() - 1]).is_err());
    }

    /// What a later build's controller says and this one's proxy does not know.
    #[test]
    fn what_is_not_known_is_kept_and_counts() {
        let sealed = seal(version(1), 1, state(A), unhealthy(&[]));
        let later = |content: &str| {
            let mut resources = sealed.resources.clone();
            let content = resources::Content::Open(content.to_owned().into());
            resources.put(Key { kind: 99, name: "a".into() }, content);
            let id = SnapshotId { version: version(2), digest: resources.digest() };
            let snapshot = Snapshot { id, ..Snapshot::clone(&sealed.snapshot) };
            Sealed { snapshot: snapshot.into(), resources }
        };
        let (one, other) = (later("one"), later("other"));
        let at_proxy = opened(&one);
        assert_eq!(at_proxy.snapshot.members, sealed.snapshot.members);
        let wire = one.delta(&other);
        let followed = at_proxy.follow(other.snapshot.id, 1, &wire.encode_to_vec()).expect("valid");
        assert_eq!(followed.resources.encode(), other.resources.encode());
        let gone = other.delta(&sealed).encode_to_vec();
        let followed = followed.follow(sealed.snapshot.id, 1, &gone).expect("valid");
        assert_eq!(followed.resources.encode(), sealed.resources.encode());
    }

    #[test]
    fn a_part_that_is_called_something_else_than_its_resource_is_refused() {
        let mut resources = Resources::default();
        let content = open_content(&v1::BackendSet { name: "b".into(), ..<_>::default() });
        resources.put(Key::new(Kind::BackendSet, "a"), content);
        let id = SnapshotId { version: version(1), digest: resources.digest() };
        let refused = Sealed::open(id, 1, &resources.encode()).expect_err("it is odd");
        assert_eq!(refused.to_string(), "backend_sets[a]: is called \"b\" within");
        assert_eq!(refused.resource(), "backend_sets[a]");
        assert_eq!(UpdateError::Empty.resource(), "", "it is no resource's fault");
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_refused_however_it_came() {
        let text = "backend_sets = [{ name = 'a' }]\nroutes = [{ name = 'r', backend_set = 'a' }]";
        let spec = file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        let desired = parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"));
        let base = Sealed::new(version(1), 1, Content::of(desired));
        let mut broken = base.snapshot.desired.clone();
        broken.backend_sets.remove("a");
        let next = base.followed_by(version(2), 2, Content::of(broken));
        let refused = [
            opened(&base).follow(next.snapshot.id, 2, &base.delta(&next).encode_to_vec()),
            Sealed::open(next.snapshot.id, 2, &next.resources.encode()),
        ];
        for refused in refused {
            let why = refused.expect_err("it is not valid").to_string();
            assert_eq!(
                why,
                "routes[r].backend_set: no backend set is called \"a\"; there are none"
            );
        }
    }
}
