//! A certificate with its chain and its key, read from PEM, and what is told of it. Its key is never
//! told.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::{CertifiedKey, SigningKey},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::distinguished;

/// A certificate that a server can prove to have.
#[derive(Clone)]
pub struct Certificate {
    pub facts: Facts,
    pub(crate) key: Arc<CertifiedKey>,
}

/// What is told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub subject: String,
    /// That it is for, in lower case: hosts, `*.` and hosts, addresses.
    pub names: Vec<String>,
    /// Who it is of, where that is no host: URIs and mail addresses, as they are.
    pub identities: Vec<String>,
    pub issuer: String,
    /// In hexadecimal.
    pub serial: String,
    /// Since the Unix epoch.
    pub not_before: Duration,
    pub not_after: Duration,
    /// SHA-256 of it, in hexadecimal.
    pub fingerprint: String,
    /// "ecdsa", "rsa", "ed25519" or "other".
    pub kind: &'static str,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("has no certificate in it; PEM with \"BEGIN CERTIFICATE\" is expected")]
    NoCertificate,
    #[error("is not readable as PEM: {0}")]
    Pem(String),
    #[error("is not readable as a certificate: {0}")]
    Unreadable(String),
    #[error("has no key in it; PEM with \"BEGIN PRIVATE KEY\" is expected")]
    NoKey,
    #[error("is encrypted; give it without a passphrase")]
    EncryptedKey,
    #[error("cannot be used as a key: {0}")]
    UnusableKey(String),
    #[error("is not the key of the certificate {subject}")]
    OtherKey { subject: String },
}

impl CertificateError {
    /// Whether it is about the key, and not about the certificate.
    pub fn is_of_key(&self) -> bool {
        match self {
            Self::NoCertificate | Self::Pem(_) | Self::Unreadable(_) => false,
            Self::NoKey | Self::EncryptedKey | Self::UnusableKey(_) | Self::OtherKey { .. } => true,
        }
    }
}

/// All certificates of a PEM text.
///
/// # Errors
/// If there is none, or one is not readable.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(CertificateError::NoCertificate),
        Ok(certificates) => Ok(certificates),
        Err(pem::Error::MissingSectionEnd { .. }) => {
            Err(CertificateError::Pem("it has no END line, as if its end were missing".into()))
        }
        Err(error) => Err(CertificateError::Pem(error.to_string())),
    }
}

/// Whether it is not good any more; one that is not readable is not either.
pub fn has_expired(certificate: &CertificateDer<'_>, wall: Duration) -> bool {
    not_after(certificate).is_none_or(|until| until < wall)
}

/// Until when it is good, since the Unix epoch, if it is readable.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<Duration> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(since_epoch(parsed.validity().not_after.timestamp()))
}

fn since_epoch(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl Facts {
    /// Whether it can be used now; `wall` is the time since the Unix epoch.
    pub fn is_valid_at(&self, wall: Duration) -> bool {
        (self.not_before..=self.not_after).contains(&wall)
    }
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key.
    ///
    /// # Errors
    /// If one of them is none, or they do not belong together.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = certificates(chain)?;
        let facts = Facts::of(chain.first().ok_or(CertificateError::NoCertificate)?)?;
        let key = CertifiedKey::new(chain, signing_key(key)?);
        key.keys_match()
            .map_err(|_| CertificateError::OtherKey { subject: facts.subject.clone() })?;
        Ok(Self { facts, key: Arc::new(key) })
    }
}

/// The key of a PEM text. What is wrong with it is told without a byte of it.
pub(crate) fn signing_key(text: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        // Of PKCS#8, and of what OpenSSL wrote before.
        _ if contains(text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(text, b",ENCRYPTED") => {
            CertificateError::EncryptedKey
        }
        pem::Error::NoItemsFound => CertificateError::NoKey,
        _ => CertificateError::UnusableKey("it is not readable as PEM".into()),
    })?;
    any_supported_type(&key).map_err(|_| {
        let kinds = "RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and Ed25519 can";
        CertificateError::UnusableKey(kinds.into())
    })
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.facts.fingerprint).finish()
    }
}

impl Facts {
    /// # Errors
    /// If it is not readable.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let unreadable = |what: &dyn fmt::Display| CertificateError::Unreadable(what.to_string());
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| unreadable(&error))?;
        let alternatives = parsed.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let alternatives =
            alternatives.map_or_else(Vec::new, |names| names.value.general_names.clone());
        let serial = parsed.tbs_certificate.raw_serial();
        Ok(Self {
            subject: distinguished::name(parsed.subject()),
            names: alternatives.iter().filter_map(name).collect(),
            identities: alternatives.iter().filter_map(identity).collect(),
            issuer: distinguished::name(parsed.issuer()),
            serial: hex(serial.strip_prefix(&[0]).filter(|s| !s.is_empty()).unwrap_or(serial)),
            not_before: since_epoch(parsed.validity().not_before.timestamp()),
            not_after: since_epoch(parsed.validity().not_after.timestamp()),
            fingerprint: hex(digest(&SHA256, certificate).as_ref()),
            kind: match parsed.public_key().algorithm.algorithm.to_id_string().as_str() {
                "1.2.840.10045.2.1" => "ecdsa",
                "1.2.840.113549.1.1.1" => "rsa",
                "1.3.101.112" => "ed25519",
                _ => "other",
            },
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(std::net::IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn identity(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(text) | GeneralName::RFC822Name(text) => Some((*text).into()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
