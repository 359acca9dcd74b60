//! What a desired state needs besides itself: what is in the files that it names, and keys. It is kept
//! apart, because it changes by itself (a certificate is renewed in its file), and because much of it is
//! secret.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::{id::CertificateName, map::Map, secret::Secret};

/// All that there is, or all that a state needs.
pub type Materials = Map<MaterialId, Secret>;

/// What a piece of material is called: `file:` and a path at the controller, `key:` and a digest,
/// `tickets`, or for certificates that are ordered:
///
/// - `acme:NAME`: the certificate's key and its chain,
/// - `acme-account:..` and `acme-order:NAME`: what only the controller needs,
/// - `acme-http-01:TOKEN` and `acme-tls-alpn-01:DOMAIN`: what proxies answer a CA that looks whether
///   domains are theirs; there for that long, and nowhere stored.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaterialId(Arc<str>);

const FILE: &str = "file:";
const KEY: &str = "key:";
const ACME: &str = "acme:";
const ACME_ACCOUNT: &str = "acme-account:";
const ACME_ORDER: &str = "acme-order:";
const HTTP_01: &str = "acme-http-01:";
const TLS_ALPN_01: &str = "acme-tls-alpn-01:";

impl MaterialId {
    pub fn file(path: &str) -> Self {
        Self(format!("{FILE}{path}").into())
    }

    /// A key that was given as such; called by a digest of it.
    pub fn key(digest: &str) -> Self {
        Self(format!("{KEY}{digest}").into())
    }

    /// A key and its chain that a CA has issued.
    pub fn acme(certificate: &CertificateName) -> Self {
        Self(format!("{ACME}{certificate}").into())
    }

    /// An account at a CA: one for all certificates that say the same of it.
    pub fn acme_account(directory: &str, email: &str, kid: &str) -> Self {
        Self(format!("{ACME_ACCOUNT}{directory} {email} {kid}").into())
    }

    /// How ordering a certificate goes.
    pub fn acme_order(certificate: &CertificateName) -> Self {
        Self(format!("{ACME_ORDER}{certificate}").into())
    }

    pub fn http_01(token: &str) -> Self {
        Self(format!("{HTTP_01}{token}").into())
    }

    pub fn tls_alpn_01(domain: &str) -> Self {
        Self(format!("{TLS_ALPN_01}{domain}").into())
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

    /// The token, if it answers such a challenge.
    pub fn http_01_token(&self) -> Option<&str> {
        self.0.strip_prefix(HTTP_01)
    }

    /// The domain, if it answers such a challenge.
    pub fn tls_alpn_01_domain(&self) -> Option<&str> {
        self.0.strip_prefix(TLS_ALPN_01)
    }

    /// Whether the controller has it, and nobody else who could give it again.
    pub fn is_nowhere_else(&self) -> bool {
        [KEY, ACME, ACME_ACCOUNT, ACME_ORDER].iter().any(|prefix| self.0.starts_with(prefix))
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
