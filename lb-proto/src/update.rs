//! What proxies get: snapshots, deltas between them, and the digest that both ends compare.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{
    id::{BackendName, BackendSetName},
    material::{MaterialId, Materials},
    secret::Secret,
    snapshot::{Digest, Snapshot, SnapshotId, UnhealthyBackends, Version},
    spec::DesiredState,
};
use prost::{Message, bytes::Bytes};

use crate::{encode, error::Problems, parse, v1};

/// A snapshot and its encoding.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub snapshot: Snapshot,
    /// An encoded [`v1::Snapshot`].
    pub bytes: Bytes,
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

/// What a snapshot has in it.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub desired: DesiredState,
    pub unhealthy: UnhealthyBackends,
    pub materials: Materials,
}

/// Encodes a snapshot and computes its digest.
pub fn seal(version: Version, revision: u64, content: Content) -> Sealed {
    let Content { desired, unhealthy, materials } = content;
    let wire = v1::Snapshot {
        spec: Some(encode::spec(&desired)),
        unhealthy: unhealthy.iter().map(|(set, names)| unhealthy_of(set, names)).collect(),
        materials: materials.iter().map(|(id, secret)| material(id, secret)).collect(),
    };
    let bytes = Bytes::from(wire.encode_to_vec());
    let id = SnapshotId { version, digest: digest(&bytes) };
    Sealed { snapshot: Snapshot { id, revision, desired, unhealthy, materials }, bytes }
}

/// Reads a full snapshot and holds it against the digest that was announced.
///
/// # Errors
/// If it does not decode, is not valid, or is not what was announced.
pub fn open(id: SnapshotId, revision: u64, bytes: &[u8]) -> Result<Sealed, UpdateError> {
    let wire = v1::Snapshot::decode(bytes)?;
    let desired = parse::desired_state(&wire.spec.unwrap_or_default())?;
    let mut unhealthy = UnhealthyBackends::default();
    put_unhealthy(&mut unhealthy, &wire.unhealthy)?;
    let mut materials = Materials::new();
    put_materials(&mut materials, wire.materials);
    announced(id, seal(id.version, revision, Content { desired, unhealthy, materials }))
}

/// What leads from `base` to `next`.
pub fn delta(base: &Snapshot, next: &Snapshot) -> v1::Delta {
    let (from, to) = (&base.desired, &next.desired);
    let healthy_again = base.unhealthy.iter().filter(|(set, _)| next.unhealthy.of(set).is_none());
    let healthy_again = healthy_again.filter(|(set, _)| to.backend_sets.contains_key(*set));
    let changed = next.unhealthy.iter().filter(|(set, now)| base.unhealthy.of(set) != Some(now));
    v1::Delta {
        base: Some(snapshot_id(base.id)),
        upsert: Some(v1::Spec {
            listeners: upserts(&from.listeners, &to.listeners, encode::listener),
            routes: upserts(&from.routes, &to.routes, encode::route),
            backend_sets: upserts(&from.backend_sets, &to.backend_sets, encode::backend_set),
            certificates: upserts(&from.certificates, &to.certificates, encode::certificate),
        }),
        deleted_listeners: deletions(&from.listeners, &to.listeners),
        deleted_routes: deletions(&from.routes, &to.routes),
        deleted_backend_sets: deletions(&from.backend_sets, &to.backend_sets),
        unhealthy: changed
            .map(|(set, names)| unhealthy_of(set, names))
            .chain(healthy_again.map(|(set, _)| unhealthy_of(set, [])))
            .collect(),
        deleted_certificates: deletions(&from.certificates, &to.certificates),
        materials: next
            .materials
            .iter()
            .filter(|(id, secret)| base.materials.get(*id) != Some(secret))
            .map(|(id, secret)| material(id, secret))
            .collect(),
        deleted_materials: deletions(&base.materials, &next.materials),
    }
}

/// Follows an encoded [`v1::Delta`] from `base` and holds the result against the digest that was
/// announced. What the delta does not touch is shared with `base`.
///
/// # Errors
/// If it does not decode, starts elsewhere, is not valid, or does not lead to what was announced.
pub fn follow(
    base: &Snapshot,
    id: SnapshotId,
    revision: u64,
    bytes: &[u8],
) -> Result<Sealed, UpdateError> {
    let wire = v1::Delta::decode(bytes)?;
    let offered = wire.base.as_ref().map(parse_snapshot_id).unwrap_or_default();
    if offered != base.id {
        return Err(UpdateError::OtherBase { offered, running: base.id });
    }
    let mut problems = Problems::default();
    let upsert = parse::spec_parts(&wire.upsert.unwrap_or_default(), &mut problems);
    let mut desired = base.desired.clone();
    let mut unhealthy = base.unhealthy.clone();
    let mut materials = base.materials.clone();
    for name in &wire.deleted_listeners {
        desired.listeners.remove(name.as_str());
    }
    for name in &wire.deleted_routes {
        desired.routes.remove(name.as_str());
    }
    for name in &wire.deleted_backend_sets {
        if let Some((name, _)) = desired.backend_sets.remove_entry(name.as_str()) {
            unhealthy.remove(&name);
        }
    }
    for name in &wire.deleted_certificates {
        desired.certificates.remove(name.as_str());
    }
    for id in &wire.deleted_materials {
        materials.remove(id.as_str());
    }
    desired.listeners.extend(upsert.listeners);
    desired.routes.extend(upsert.routes);
    desired.backend_sets.extend(upsert.backend_sets);
    desired.certificates.extend(upsert.certificates);
    parse::check(&desired, &mut problems);
    problems.or(())?;
    put_unhealthy(&mut unhealthy, &wire.unhealthy)?;
    put_materials(&mut materials, wire.materials);
    announced(id, seal(id.version, revision, Content { desired, unhealthy, materials }))
}

pub fn snapshot_id(id: SnapshotId) -> v1::SnapshotId {
    let Version { epoch, version } = id.version;
    v1::SnapshotId { epoch, version, hash: id.digest.0 }
}

pub fn parse_snapshot_id(wire: &v1::SnapshotId) -> SnapshotId {
    SnapshotId {
        version: Version { epoch: wire.epoch, version: wire.version },
        digest: Digest(wire.hash),
    }
}

fn digest(encoded: &[u8]) -> Digest {
    Digest(xxhash_rust::xxh3::xxh3_64(encoded))
}

fn announced(id: SnapshotId, sealed: Sealed) -> Result<Sealed, UpdateError> {
    let actual = sealed.snapshot.id.digest;
    if actual == id.digest {
        Ok(sealed)
    } else {
        Err(UpdateError::OtherDigest { announced: id.digest, actual })
    }
}

fn put_unhealthy(into: &mut UnhealthyBackends, wire: &[v1::Unhealthy]) -> Result<(), Problems> {
    let mut problems = Problems::default();
    for entry in wire {
        let field = || format!("unhealthy[{}]", entry.backend_set);
        let set = BackendSetName::new(&entry.backend_set);
        let names = entry.backends.iter().map(|name| BackendName::new(name)).collect();
        match (set, names) {
            (Ok(set), Ok(names)) => into.set(set, names),
            (Err(error), _) | (_, Err(error)) => problems.add(field(), error.to_string()),
        }
    }
    problems.or(())
}

fn put_materials(into: &mut Materials, wire: Vec<v1::Material>) {
    for v1::Material { id, content } in wire {
        into.insert(MaterialId::of(&id), Secret::new(content.to_vec()));
    }
}

fn material(id: &MaterialId, secret: &Secret) -> v1::Material {
    v1::Material { id: id.to_string(), content: Bytes::copy_from_slice(secret.reveal()) }
}

fn unhealthy_of<'a>(
    set: &BackendSetName,
    names: impl IntoIterator<Item = &'a BackendName>,
) -> v1::Unhealthy {
    v1::Unhealthy {
        backend_set: set.to_string(),
        backends: names.into_iter().map(ToString::to_string).collect(),
    }
}

fn upserts<K: Ord, V: PartialEq, W>(
    from: &BTreeMap<K, Arc<V>>,
    to: &BTreeMap<K, Arc<V>>,
    encode: impl Fn(&V) -> W,
) -> Vec<W> {
    let same = |a: &Arc<V>, b: &Arc<V>| Arc::ptr_eq(a, b) || a == b;
    to.iter()
        .filter(|(name, value)| !from.get(name).is_some_and(|old| same(old, value)))
        .map(|(_, value)| encode(value))
        .collect()
}

fn deletions<K: Ord + ToString, V>(from: &BTreeMap<K, V>, to: &BTreeMap<K, V>) -> Vec<String> {
    from.keys().filter(|name| !to.contains_key(name)).map(ToString::to_string).collect()
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
        let content = Content { desired, unhealthy, materials: Materials::new() };
        super::seal(version, revision, content)
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
        let base = seal(version(1), 1, state(&both), unhealthy(&[("a", "1.1.1.1:1")])).snapshot;
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
            let bytes = delta(&base, &next.snapshot).encode_to_vec();
            let followed = follow(&base, next.snapshot.id, 2, &bytes);
            assert_eq!(followed.expect(what).snapshot, next.snapshot, "{what}");
            let opened = open(next.snapshot.id, 2, &next.bytes);
            assert_eq!(opened.expect(what).snapshot, next.snapshot, "{what}");
        }
    }

    #[test]
    fn a_delta_holds_only_what_changed_and_shares_the_rest() {
        let base = seal(version(1), 1, state(&format!("{A}, {B}")), unhealthy(&[])).snapshot;
        let mut desired = base.desired.clone();
        desired.backend_sets.remove("b");
        let next = seal(version(2), 2, desired, unhealthy(&[]));
        let wire = delta(&base, &next.snapshot);
        assert_eq!(wire.upsert, Some(v1::Spec::default()));
        let followed = follow(&base, next.snapshot.id, 2, &wire.encode_to_vec()).expect("valid");
        let set = |snapshot: &Snapshot| Arc::clone(&snapshot.desired.backend_sets["a"]);
        assert!(Arc::ptr_eq(&set(&followed.snapshot), &set(&base)));
    }

    #[test]
    fn a_delta_has_the_material_that_changed_and_no_other() {
        let sealed = |version, materials: &[(&str, &str)]| {
            let secret = |text: &str| Secret::new(text.into());
            let materials =
                materials.iter().map(|(id, text)| (MaterialId::of(id), secret(text))).collect();
            let content = Content { desired: state(A), materials, ..Content::default() };
            super::seal(Version { epoch: 1, version }, 1, content)
        };
        let base = sealed(1, &[("file:/a", "a"), ("file:/b", "b"), ("tickets", "t")]);
        let next = sealed(2, &[("file:/a", "A"), ("file:/c", "c"), ("tickets", "t")]);
        assert_ne!(base.snapshot.id.digest, next.snapshot.id.digest);
        let wire = delta(&base.snapshot, &next.snapshot);
        let ids: Vec<_> = wire.materials.iter().map(|material| material.id.as_str()).collect();
        assert_eq!(
            (ids, &wire.deleted_materials[..]),
            (vec!["file:/a", "file:/c"], &["file:/b".into()][..])
        );
        let followed = follow(&base.snapshot, next.snapshot.id, 1, &wire.encode_to_vec());
        assert_eq!(followed.expect("valid").snapshot, next.snapshot);
        let opened = open(next.snapshot.id, 1, &next.bytes).expect("valid");
        assert_eq!(opened.snapshot, next.snapshot);
    }

    #[test]
    fn a_delta_from_elsewhere_is_refused() {
        let base = seal(version(1), 1, state(A), unhealthy(&[])).snapshot;
        let other = seal(version(1), 1, state(B), unhealthy(&[])).snapshot;
        let next = seal(version(2), 2, state(&format!("{A}, {B}")), unhealthy(&[])).snapshot;
        let bytes = delta(&base, &next).encode_to_vec();
        let refused = follow(&other, next.id, 2, &bytes);
        assert!(matches!(refused, Err(UpdateError::OtherBase { .. })), "{refused:?}");
    }

    #[test]
    fn content_that_is_not_what_was_announced_is_refused() {
        let sealed = seal(version(1), 1, state(A), unhealthy(&[]));
        let announced = SnapshotId { version: version(1), digest: Digest(1) };
        let refused = open(announced, 1, &sealed.bytes);
        assert!(matches!(refused, Err(UpdateError::OtherDigest { .. })), "{refused:?}");
        let cut = &sealed.bytes[..sealed.bytes.len() - 1];
        assert!(open(sealed.snapshot.id, 1, cut).is_err());
    }
}
