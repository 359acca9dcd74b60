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

/// Whether it says where something is, or stands for it: nothing of it is a secret.
pub fn names_it(text: &str) -> bool {
    text.is_empty() || text.starts_with('/') || text.starts_with(GIVEN)
}

/// Why it is neither the text itself nor a path. It is not repeated, because it may be a secret.
pub(crate) fn misplaced(text: &str) -> Option<&'static str> {
    if is_text(text) {
        None
    } else if text.contains('\n') {
        Some("is neither PEM nor a path: it has line breaks")
    } else {
        is_bare(text)
            .then_some("is neither PEM nor a path: its first line is missing, -----BEGIN ..")
    }
}

/// Whether it looks like a key, or whatever else begins with a sequence of ASN.1, in base64.
fn is_bare(text: &str) -> bool {
    // Shorter than any.
    const LEAST: usize = 40;
    let is_base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
    let begins = matches!(text.as_bytes(), [b'M', b'A'..=b'P', ..]);
    begins && LEAST <= text.len() && text.bytes().all(is_base64)
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

/// The key of an account, which is no PEM.
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
                            or the path of a file with it, which begins with / or ./";
    let url = text.trim_ascii().iter().map(|c| match c {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    });
    let url = Zeroizing::new(url.filter(|c| *c != b'=').collect::<Vec<_>>());
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(&*url).map_err(|_| EXPECTED)?);
    if EAB_BYTES.contains(&bytes.len()) { Ok(bytes) } else { Err(EXPECTED) }
}

/// A key in plain base64 may have a slash in it, and what is taken for a path is shown to everybody. So a
/// path is only what begins as one.
fn is_eab_key(text: &str) -> bool {
    let is_path = ["/", "./", "../"].iter().any(|start| text.starts_with(start));
    !(text.is_empty() || is_path || text.starts_with(GIVEN))
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
        if !(place.is_empty() || is_text(place) || is_bare(place) || place.starts_with(GIVEN)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_its_first_line_is_taken_for_no_path() {
        let resolved = |cert: &str| {
            let certificate = v1::Certificate { cert: cert.into(), ..<_>::default() };
            let mut spec = v1::Spec { certificates: vec![certificate], ..<_>::default() };
            resolve(&mut spec, Path::new("/etc/lb"));
            spec.certificates[0].cert.clone()
        };
        let key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";
        for bare in [key, &key[..40], "MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            assert_eq!(resolved(bare), bare);
            assert!(misplaced(bare).is_some(), "{bare}");
        }
        let dotted = format!("{key}.pem");
        for path in ["site.pem", "MIGH/x", &key[..39], &dotted, &key.replacen('I', "y", 1)] {
            assert_eq!(resolved(path), format!("/etc/lb/{path}"));
            assert!(misplaced(path).is_none(), "{path}");
        }
        assert_eq!(resolved("sha256:00"), "sha256:00");
    }
}
