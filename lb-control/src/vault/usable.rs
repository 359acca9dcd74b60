//! Whether material can be used for what it is for, and if not, why.

use std::time::Duration;

use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{self, Acme, CertificateSource, Key, Pem},
};
use lb_proto::pem;
use lb_tls::{
    certificate::{self, Certificate, Facts},
    client::{ClientOptions, Trust, client},
    server,
};
use rustls::pki_types::CertificateDer;

use super::found::Found;
use crate::timestamp;

/// What of a certificate cannot be used.
pub struct Unusable {
    pub field: &'static str,
    /// `PATH: `, if it is in a file.
    pub source: String,
    pub why: String,
}

/// Of what is in force.
///
/// # Errors
/// Why it cannot be used.
pub fn certificate(spec: &spec::Certificate, all: &Materials) -> Result<Certificate, String> {
    read(spec, all, &Found::default())
        .map_err(|Unusable { source, why, .. }| format!("{source}{why}"))
}

/// Of what is in force.
///
/// # Errors
/// Why it cannot be used.
pub fn ca(pem: &Pem, all: &Materials) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(pem, all, &Found::default()).map_err(|why| said(pem, &why))?;
    certificate::certificates(text).map_err(|error| said(pem, &error.to_string()))
}

pub fn read(
    spec: &spec::Certificate,
    all: &Materials,
    found: &Found,
) -> Result<Certificate, Unusable> {
    match &spec.source {
        CertificateSource::Pair { chain, key } => read_pair(chain, key, all, found),
        CertificateSource::Acme(_) => {
            let unusable = |why| Unusable { field: "acme", source: String::new(), why };
            let id = MaterialId::acme(&spec.name);
            let issued = all.get(&id).ok_or_else(|| unusable("was not issued yet".into()))?;
            Certificate::read(issued.reveal(), issued.reveal())
                .map_err(|error| unusable(error.to_string()))
        }
    }
}

/// Why it cannot be used now, if it can at some other time.
pub fn untimely(facts: &Facts, wall: Duration) -> Option<String> {
    if facts.is_valid_at(wall) {
        None
    } else if facts.not_after < wall {
        Some(format!("expired on {}", timestamp(facts.not_after)))
    } else {
        Some(format!("is not valid before {}", timestamp(facts.not_before)))
    }
}

fn read_pair(
    chain: &Pem,
    key: &Key,
    all: &Materials,
    found: &Found,
) -> Result<Certificate, Unusable> {
    let of_chain = |why| Unusable { field: "cert", source: said(chain, ""), why };
    let of_key = |why| Unusable { field: "key", source: said_of_key(key), why };
    let chain = text(chain, all, found).map_err(of_chain)?;
    let key = secret(key, all, found).map_err(of_key)?;
    Certificate::read(chain, key.reveal()).map_err(|error| match error.is_of_key() {
        true => of_key(error.to_string()),
        false => of_chain(error.to_string()),
    })
}

/// What of an order can be seen to be of no use without asking its CA.
pub fn check_order(acme: &Acme, all: &Materials, found: &Found) -> Vec<Unusable> {
    let ca = acme.ca.as_ref().and_then(|ca| {
        let why = text(ca, all, found).and_then(check_roots).err()?;
        Some(Unusable { field: "acme.ca", source: said(ca, ""), why })
    });
    let key = acme.eab.as_ref().and_then(|eab| {
        let key = secret(&eab.key, all, found);
        let why = key.and_then(|key| pem::eab_bytes(key.reveal()).map_err(Into::into)).err()?;
        Some(Unusable { field: "acme.eab.key", source: said_of_key(&eab.key), why })
    });
    ca.into_iter().chain(key).collect()
}

/// Whether it can be known by these who a server is.
fn check_roots(text: &[u8]) -> Result<(), String> {
    let roots = certificate::certificates(text).map_err(|error| error.to_string())?;
    let trust = Trust::Of(&roots);
    let options = ClientOptions { trust, certificate: None, only_tls13: false, alpn: &[] };
    client(&options).map(drop).map_err(|error| error.to_string())
}

fn secret<'a>(key: &Key, all: &'a Materials, found: &Found) -> Result<&'a Secret, String> {
    let id = key.material();
    all.get(&id).ok_or_else(|| match key {
        Key::File(_) => missing(&id, found),
        Key::Given(digest) => format!("no key is known as {digest:?}; give the key itself"),
    })
}

/// Whether proxies can use it to know others by.
pub fn check_ca(text: &[u8]) -> Result<(), String> {
    let ca = certificate::certificates(text).map_err(|error| error.to_string())?;
    server::check_ca(&ca).map_err(|error| error.to_string())
}

pub fn text<'a>(pem: &'a Pem, all: &'a Materials, found: &Found) -> Result<&'a [u8], String> {
    match pem {
        Pem::Text(text) => Ok(text.as_bytes()),
        Pem::File(path) => {
            let id = MaterialId::file(path);
            all.get(&id).map(Secret::reveal).ok_or_else(|| missing(&id, found))
        }
    }
}

fn missing(id: &MaterialId, found: &Found) -> String {
    found.unreadable.get(id).cloned().unwrap_or_else(|| "was not read yet".into())
}

fn said_of_key(key: &Key) -> String {
    match key {
        Key::File(path) => format!("{path}: "),
        Key::Given(_) => String::new(),
    }
}

/// `why`, with the file that it is about.
pub fn said(pem: &Pem, why: &str) -> String {
    match pem {
        Pem::File(path) => format!("{path}: {why}"),
        Pem::Text(_) => why.into(),
    }
}
