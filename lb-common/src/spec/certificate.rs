//! Certificates, given or ordered, and how their parts are given.

use crate::{
    id::CertificateName,
    material::{MaterialId, Materials},
};

/// What a server proves who it is with, and by what it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    pub name: CertificateName,
    pub source: CertificateSource,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    Pair {
        /// The server's own certificate first, then its chain.
        chain: Pem,
        key: Key,
    },
    Acme(Acme),
}

/// The controller orders it from a CA (RFC 8555), and orders it again in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// At least one, in lower case, each once.
    pub domains: Vec<String>,
    /// The URL of the CA's directory.
    pub directory: String,
    /// Where the CA writes to. Empty if nowhere.
    pub email: String,
    /// Who signs the certificate of the directory's server. `None` is whom the system trusts.
    pub ca: Option<Pem>,
    /// `None` is whatever is possible.
    pub challenge: Option<Challenge>,
    pub eab: Option<Eab>,
}

/// How a CA finds out whether a domain is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Challenge {
    /// It asks for a path by plain HTTP.
    Http01,
    /// It makes a TLS handshake (RFC 8737).
    TlsAlpn01,
}

/// What ties an account at a CA to one that was had with it before (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq)]
pub struct Eab {
    pub kid: String,
    pub key: Key,
}

/// Where a PEM text is that everybody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// A path at the controller.
    File(String),
    Text(String),
}

/// Where a key is. It is never here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A path at the controller.
    File(String),
    /// It was given to the controller, which calls it by this digest.
    Given(String),
}

// === impl ===

impl Certificate {
    /// What it is made of.
    pub fn materials(&self) -> Vec<MaterialId> {
        match &self.source {
            CertificateSource::Pair { chain, key } => {
                chain.material().into_iter().chain([key.material()]).collect()
            }
            CertificateSource::Acme(_) => vec![MaterialId::acme(&self.name)],
        }
    }

    /// Whether it is ordered and was not issued yet. Whoever uses it does without it until then.
    pub fn is_awaited(&self, materials: &Materials) -> bool {
        self.acme().is_some() && !materials.contains_key(&MaterialId::acme(&self.name))
    }

    /// What ordering it takes, and tells of itself.
    pub fn materials_of_controller(&self) -> Vec<MaterialId> {
        match &self.source {
            CertificateSource::Pair { .. } => Vec::new(),
            CertificateSource::Acme(acme) => {
                let own = [acme.account(), MaterialId::acme_order(&self.name)];
                own.into_iter().chain(acme.given()).collect()
            }
        }
    }

    pub fn acme(&self) -> Option<&Acme> {
        match &self.source {
            CertificateSource::Pair { .. } => None,
            CertificateSource::Acme(acme) => Some(acme),
        }
    }
}

impl Acme {
    /// What the account is known by.
    pub fn account(&self) -> MaterialId {
        let kid = self.eab.as_ref().map_or("", |eab| &eab.kid);
        MaterialId::acme_account(&self.directory, &self.email, kid)
    }

    /// What an operator gave for it, in files or as such.
    pub fn given(&self) -> impl Iterator<Item = MaterialId> {
        let ca = self.ca.as_ref().and_then(Pem::material);
        ca.into_iter().chain(self.eab.as_ref().map(|eab| eab.key.material()))
    }
}

impl Challenge {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

impl Pem {
    /// What it is in, if it is elsewhere.
    pub fn material(&self) -> Option<MaterialId> {
        match self {
            Self::File(path) => Some(MaterialId::file(path)),
            Self::Text(_) => None,
        }
    }
}

impl Key {
    pub fn material(&self) -> MaterialId {
        match self {
            Self::File(path) => MaterialId::file(path),
            Self::Given(digest) => MaterialId::key(digest),
        }
    }
}
