//! How certificates and keys are given: as the PEM text itself, or as a path of a file with it.

use std::path::{self, Path};

use aws_lc_rs::digest::{SHA256, digest as digest_of};
use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{Key, Pem},
};

use crate::v1;

/// What stands for a key that was given.
const GIVEN: &str = "sha256:";

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

/// Keys that these have in them, and that their parsed form has not.
pub fn keys(certificates: &[v1::Certificate]) -> Materials {
    let given = certificates.iter().map(|certificate| &certificate.key);
    let texts = given.filter(|key| is_text(key));
    texts.map(|key| (MaterialId::key(&digest(key)), Secret::new(key.clone().into()))).collect()
}

/// Makes paths that are relative begin in `directory`, which itself begins wherever the process is.
pub fn resolve(spec: &mut v1::Spec, directory: &Path) {
    let of_listeners = spec.listeners.iter_mut().filter_map(|listener| {
        let auth = listener.tls.as_mut()?.client_auth.as_mut()?;
        Some(&mut auth.ca)
    });
    let of_certificates = spec
        .certificates
        .iter_mut()
        .flat_map(|certificate| [&mut certificate.cert, &mut certificate.key]);
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
