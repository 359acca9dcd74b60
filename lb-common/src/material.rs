//! What a desired state needs besides itself: what is in the files that it names, and keys. It is kept
//! apart, because it changes by itself (a certificate is renewed in its file), and because much of it is
//! secret.

use std::{borrow::Borrow, collections::BTreeMap, fmt, sync::Arc};

use crate::secret::Secret;

/// All that there is, or all that a state needs.
pub type Materials = BTreeMap<MaterialId, Secret>;

/// What a piece of material is called: `file:` and a path at the controller, `key:` and a digest, or
/// `tickets`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaterialId(Arc<str>);

const FILE: &str = "file:";
const KEY: &str = "key:";

impl MaterialId {
    pub fn file(path: &str) -> Self {
        Self(format!("{FILE}{path}").into())
    }

    /// A key that was given as such; called by a digest of it.
    pub fn key(digest: &str) -> Self {
        Self(format!("{KEY}{digest}").into())
    }

    /// The keys of TLS tickets.
    pub fn tickets() -> Self {
        Self("tickets".into())
    }

    /// As it came from [`MaterialId::as_str`].
    pub fn of(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, if it is in a file.
    pub fn path(&self) -> Option<&str> {
        self.0.strip_prefix(FILE)
    }

    /// Whether it was given, and is nowhere else.
    pub fn is_given(&self) -> bool {
        self.0.starts_with(KEY)
    }
}

impl fmt::Display for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for MaterialId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
