//! What a snapshot is made of on its way: resources, each with its name, its bytes and their digest.
//!
//! The digest of all is the sum of the resources' digests, so a change costs what changed, on either
//! side. Bytes stay as they came: a proxy that does not know all of a resource agrees on it all the same.

use std::{fmt, sync::Arc};

use lb_common::{
    map::{self, Change, Map},
    secret::Secret,
    snapshot::Digest,
};
use prost::{
    bytes::{Bytes, BytesMut},
    encoding,
};
use xxhash_rust::xxh3::Xxh3;

use crate::v1;

/// Which one. The kind is a [`v1::Kind`], or one that only a later build knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: i32,
    pub name: Arc<str>,
}

/// What is in one. Equal digests stand for equal bytes.
#[derive(Clone, Debug)]
pub struct Resource {
    content: Content,
    digest: u128,
    /// In a [`v1::Snapshot`].
    encoded_len: usize,
}

/// Bytes, some of which nobody is to see.
#[derive(Clone)]
pub enum Content {
    Open(Bytes),
    Secret(Secret),
}

/// All of a snapshot. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    by_key: Map<Key, Arc<Resource>>,
    digest: u128,
    encoded_len: usize,
}

/// Of the resources in a [`v1::Snapshot`].
const TAG: u32 = 1;

// === impl Key, Content, Resource ===

impl Key {
    pub fn new(kind: v1::Kind, name: &str) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }
}

impl Content {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Open(bytes) => bytes,
            Self::Secret(secret) => secret.reveal(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(bytes) => write!(f, "({} bytes)", bytes.len()),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}

impl Resource {
    fn new(key: &Key, content: Content) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&key.kind.to_le_bytes());
        // Names have a hundred bytes or so; the length tells where one ends.
        hash.update(&(key.name.len() as u32).to_le_bytes());
        hash.update(key.name.as_bytes());
        hash.update(content.bytes());
        let encoded_len = encoded_len(key, content.bytes().len());
        Self { digest: hash.digest128(), encoded_len, content }
    }

    pub fn to_wire(&self, key: &Key) -> v1::Resource {
        let content = match &self.content {
            Content::Open(bytes) => bytes.clone(),
            Content::Secret(secret) => Bytes::copy_from_slice(secret.reveal()),
        };
        v1::Resource { kind: key.kind, name: key.name.to_string(), content }
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

// === impl Resources ===

impl Resources {
    /// Returns whether that is news.
    pub fn put(&mut self, key: Key, content: Content) -> bool {
        let resource = Resource::new(&key, content);
        if self.by_key.get(&key).is_some_and(|old| **old == resource) {
            return false;
        }
        self.remove(&key);
        self.digest = self.digest.wrapping_add(resource.digest);
        self.encoded_len += resource.encoded_len;
        self.by_key.insert(key, Arc::new(resource));
        true
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(resource) = self.by_key.remove(key) {
            self.digest = self.digest.wrapping_sub(resource.digest);
            self.encoded_len -= resource.encoded_len;
        }
    }

    pub fn digest(&self) -> Digest {
        Digest(self.digest)
    }

    /// How many bytes [`Resources::encode`] makes.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// An encoded [`v1::Snapshot`].
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len);
        for (key, resource) in &self.by_key {
            encoding::message::encode(TAG, &resource.to_wire(key), &mut bytes);
        }
        bytes.freeze()
    }

    /// What leads from these to those.
    pub fn changes<'a>(
        &'a self,
        to: &'a Self,
    ) -> impl Iterator<Item = Change<'a, Key, Arc<Resource>>> {
        map::changes(&self.by_key, &to.by_key)
    }
}

/// Without a copy of a secret.
fn encoded_len(key: &Key, content: usize) -> usize {
    let field = |length: usize| match length {
        0 => 0,
        length => 1 + encoding::encoded_len_varint(length as u64) + length,
    };
    let kind = if key.kind == 0 { 0 } else { encoding::int32::encoded_len(1, &key.kind) };
    let resource = kind + field(key.name.len()) + field(content);
    1 + encoding::encoded_len_varint(resource as u64) + resource
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn resources(parts: &[(v1::Kind, &str, &str)]) -> Resources {
        let mut resources = Resources::default();
        for (kind, name, content) in parts {
            let content = Content::Open(Bytes::copy_from_slice(content.as_bytes()));
            resources.put(Key::new(*kind, name), content);
        }
        resources
    }

    #[test]
    fn the_digest_goes_by_what_is_there_and_not_by_how_it_came() {
        use v1::Kind::{Listener, Route};
        let all = resources(&[(Listener, "a", "1"), (Route, "a", "1"), (Route, "b", "2")]);
        let turned = resources(&[(Route, "b", "2"), (Route, "a", "1"), (Listener, "a", "1")]);
        assert_eq!(all.digest(), turned.digest());
        let mut changed = all.clone();
        assert!(changed.put(Key::new(Route, "a"), Content::Open("9".into())));
        assert_ne!(changed.digest(), all.digest());
        assert!(!changed.put(Key::new(Route, "a"), Content::Open("9".into())));
        changed.put(Key::new(Route, "a"), Content::Open("1".into()));
        changed.put(Key::new(Route, "c"), Content::Open("1".into()));
        changed.remove(&Key::new(Route, "c"));
        changed.remove(&Key::new(Route, "c"));
        assert_eq!((changed.digest(), changed.encoded_len()), (all.digest(), all.encoded_len()));
        for other in [
            resources(&[(Listener, "a", "1"), (Route, "a", "1"), (Listener, "b", "2")]),
            resources(&[(Listener, "a", "1"), (Route, "a", "1"), (Route, "c", "2")]),
            resources(&[(Listener, "a1", ""), (Route, "a", "1"), (Route, "b", "2")]),
            resources(&[(Listener, "a", "1"), (Route, "a", "1")]),
        ] {
            assert_ne!(other.digest(), all.digest(), "{other:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_a_snapshot_of_the_length_that_is_told() {
        let all = resources(&[(v1::Kind::Listener, "a", "one"), (v1::Kind::Members, "b", "")]);
        let bytes = all.encode();
        assert_eq!(bytes.len(), all.encoded_len());
        let wire = v1::Snapshot::decode(bytes).expect("it is one");
        let names: Vec<_> = wire.resources.iter().map(|one| (one.kind(), &*one.name)).collect();
        assert_eq!(names, [(v1::Kind::Listener, "a"), (v1::Kind::Members, "b")]);
        assert_eq!(wire.resources[0].content, "one");
    }
}
