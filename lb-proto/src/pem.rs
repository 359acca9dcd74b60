//! How certificates and keys are given: as the PEM text itself, or as a path of a file with it.

use std::{
    ops::RangeInclusive,
    path::{self, Path},
};

use aws_lc_rs::digest::{SHA256, digest as digest_of};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{Key, Pem},
};
use zeroize::Zeroizing;

use crate::v1;

/// What stands for a key that was given.
const GIVEN: &str = "sha256:";
/// Of the key of an account. A digest of a shorter one would give it away.
const EAB_BYTES: RangeInclusive<usize> = 16..=1024;

/// Whether it is the text itself; some programs write words before it.
pub fn is_text(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// Whether it has a key in it.
pub fn has_key(text: &str) -> bool {
    text.contains("PRIVATE KEY-----")
}

/// As it is spelled.
pub fn of_pem(pem: &Pem) -> String {
    match pem {
        Pem::File(path) => path.clone(),
        Pem::Text(text) => text.clone(),
    }
}

/// As it is spelled.
pub fn of_key(key: &Key) -> String {
    match key {
        Key::File(path) => path.clone(),
        Key::Given(digest) => digest.clone(),
    }
}

pub(crate) fn pem(text: &str) -> Pem {
    if is_text(text) { Pem::Text(text.into()) } else { Pem::File(text.into()) }
}

pub(crate) fn key(text: &str) -> Key {
    if is_text(text) {
        Key::Given(digest(text))
    } else if text.starts_with(GIVEN) {
        Key::Given(text.into())
    } else {
        Key::File(text.into())
    }
}

/// The key of an account, which is no PEM: a path has a slash, and a key in base64url has none.
pub(crate) fn eab_key(text: &str) -> Key {
    match is_eab_key(text) {
        true => Key::Given(digest(text)),
        false if text.starts_with(GIVEN) => Key::Given(text.into()),
        false => Key::File(text.into()),
    }
}

/// What the key of an account is in base64, of either alphabet.
///
/// # Errors
/// What is expected, without a word of what is there.
pub fn eab_bytes(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    const EXPECTED: &str = "is no key in base64url, of 16 to 1024 bytes; give it as the CA gave it, \
                            or the path of a file with it, with a slash in it";
    let url = text.trim_ascii().iter().map(|c| match c {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    });
    let url = Zeroizing::new(url.filter(|c| *c != b'=').collect::<Vec<_>>());
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(&*url).map_err(|_| EXPECTED)?);
    if EAB_BYTES.contains(&bytes.len()) { Ok(bytes) } else { Err(EXPECTED) }
}

fn is_eab_key(text: &str) -> bool {
    !(text.is_empty() || text.contains('/') || text.starts_with(GIVEN))
}

/// Keys that these have in them, and that their parsed form has not.
pub fn keys(certificates: &[v1::Certificate]) -> Materials {
    let of_certificates = certificates.iter().map(|certificate| &certificate.key);
    let of_accounts =
        certificates.iter().filter_map(|part| Some(&part.acme.as_ref()?.eab.as_ref()?.key));
    let given = of_certificates.filter(|key| is_text(key));
    let given = given.chain(of_accounts.filter(|key| is_eab_key(key)));
    given.map(|key| (MaterialId::key(&digest(key)), Secret::new(key.clone().into()))).collect()
}

/// Makes paths that are relative begin in `directory`, which itself begins wherever the process is.
pub fn resolve(spec: &mut v1::Spec, directory: &Path) {
    let of_listeners = spec.listeners.iter_mut().filter_map(|listener| {
        let auth = listener.tls.as_mut()?.client_auth.as_mut()?;
        Some(&mut auth.ca)
    });
    let of_certificates = spec.certificates.iter_mut().flat_map(|certificate| {
        let v1::Certificate { cert, key, acme, .. } = certificate;
        let of_acme = acme.iter_mut().flat_map(|acme| {
            let key = acme.eab.as_mut().map(|eab| &mut eab.key);
            [&mut acme.ca].into_iter().chain(key.filter(|key| !is_eab_key(key)))
        });
        [cert, key].into_iter().chain(of_acme)
    });
    let of_sets = spec.backend_sets.iter_mut().filter_map(|set| Some(&mut set.tls.as_mut()?.ca));
    for place in of_listeners.chain(of_certificates).chain(of_sets) {
        if !(place.is_empty() || is_text(place) || place.starts_with(GIVEN)) {
            let path = directory.join(&*place);
            let path = path::absolute(&path).unwrap_or(path);
            *place = path.to_string_lossy().into_owned();
        }
    }
}

/// A key has far more chances than anybody can try, so a digest of it says nothing of it.
fn digest(key: &str) -> String {
    let digest = digest_of(&SHA256, key.trim().as_bytes());
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("{GIVEN}{}", digits.collect::<String>())
}
