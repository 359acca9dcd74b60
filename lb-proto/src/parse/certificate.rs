//! Certificates: where they are, or whom they are ordered from. What is in files is looked at by who has
//! them.

use http::Uri;
use lb_common::{
    id::CertificateName,
    spec::{Acme, Certificate, CertificateSource, Challenge, Eab, Key},
};

use super::{At, element};
use crate::{error::Problems, pem, v1};

/// In one certificate; CAs take no more.
const MOST_DOMAINS: usize = 100;
/// Of a domain and of each of its labels (RFC 1035, section 2.3.4).
const LONGEST_DOMAIN: usize = 253;
const LONGEST_LABEL: usize = 63;
/// Of what goes into requests to a CA.
const LONGEST_TEXT: usize = 1_000;

pub fn certificate(
    wire: &v1::Certificate,
    path: &str,
    problems: &mut Problems,
) -> Option<Certificate> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, CertificateName::new);
    let source = match &wire.acme {
        None => pair(wire, &mut at),
        Some(acme) => {
            for (field, value) in [("cert", &wire.cert), ("key", &wire.key)] {
                if !value.is_empty() {
                    at.problem(field, "is for a certificate that is there; acme orders one");
                }
            }
            order(acme, &format!("{path}.acme"), at.problems)
                .map(CertificateSource::Acme)
                .filter(|_| wire.cert.is_empty() && wire.key.is_empty())
        }
    };
    Some(Certificate { name: name?, source: source? })
}

fn pair(wire: &v1::Certificate, at: &mut At<'_>) -> Option<CertificateSource> {
    let chain = at.pem("cert", &wire.cert);
    let key = match wire.key.as_str() {
        "" => {
            at.problem("key", "is empty; give the key as PEM, or the path of a file with it");
            None
        }
        text => match (pem::key(text), pem::misplaced(text)) {
            (Key::File(_), Some(why)) => {
                at.problem("key", why);
                None
            }
            (key, _) => Some(key),
        },
    };
    Some(CertificateSource::Pair { chain: chain?, key: key? })
}

fn order(wire: &v1::Acme, path: &str, problems: &mut Problems) -> Option<Acme> {
    let mut at = At { path, problems };
    let domains = domains(&wire.domains, &mut at);
    let directory = directory(&wire.directory, &mut at);
    let email = match wire.email.as_str() {
        email if email.is_empty() || is_email(email) => Some(email.to_owned()),
        email => at.invalid("email", email, "an address, \"admin@example.com\", or nothing"),
    };
    let ca = match wire.ca.as_str() {
        "" => Some(None),
        ca => at.pem("ca", ca).map(Some),
    };
    let challenge = match wire.challenge.as_str() {
        "" => Some(None),
        "http-01" => Some(Some(Challenge::Http01)),
        "tls-alpn-01" => Some(Some(Challenge::TlsAlpn01)),
        "dns-01" => {
            at.problem("challenge", "\"dns-01\" is not offered; valid are http-01, tls-alpn-01");
            None
        }
        other => at.one_of("challenge", other, "http-01, tls-alpn-01"),
    };
    let eab = match &wire.eab {
        None => Some(None),
        Some(wire) => eab(wire, &mut at).map(Some),
    };
    Some(Acme {
        domains: domains?,
        directory: directory?,
        email: email?,
        ca: ca?,
        challenge: challenge?,
        eab: eab?,
    })
}

fn domains(wire: &[String], at: &mut At<'_>) -> Option<Vec<String>> {
    if wire.is_empty() || MOST_DOMAINS < wire.len() {
        let why = format!("has {} domains; give 1 to {MOST_DOMAINS}", wire.len());
        at.problem("domains", &why);
        return None;
    }
    let mut domains: Vec<String> = Vec::new();
    let mut valid = Some(());
    for (i, domain) in wire.iter().enumerate() {
        let field = element("domains", "", i);
        let lower = domain.to_ascii_lowercase();
        if domain.starts_with("*.") {
            let why = format!(
                "{domain:?} is a wildcard, for which CAs demand the challenge dns-01, and that is not \
                 offered; list the domains one by one, or get the certificate elsewhere and give cert \
                 and key"
            );
            at.problem(&field, &why);
            valid = None;
        } else if !is_domain(&lower) {
            valid = at.invalid(
                &field,
                domain,
                "a domain, \"www.example.com\", in ASCII (\"xn--..\"), without a port; an address is none",
            );
        } else if domains.contains(&lower) {
            at.problem(&field, &format!("{domain:?} is there twice"));
            valid = None;
        } else {
            domains.push(lower);
        }
    }
    valid.map(|()| domains)
}

/// Of at least two labels, the last of which is no number.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(inner)
            && !(label.starts_with('-') || label.ends_with('-'))
    };
    let is_number = |label: &str| label.bytes().all(|c| c.is_ascii_digit());
    domain.len() <= LONGEST_DOMAIN
        && domain.split('.').all(is_label)
        && domain.rsplit_once('.').is_some_and(|(_, last)| !is_number(last))
}

fn directory(text: &str, at: &mut At<'_>) -> Option<String> {
    let is_directory = |uri: Uri| {
        uri.scheme_str() == Some("https")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    if text.len() <= LONGEST_TEXT && text.parse().is_ok_and(is_directory) {
        return Some(text.into());
    }
    let valid =
        "the https URL of a CA's directory, \"https://acme-v02.api.letsencrypt.org/directory\"";
    at.invalid("directory", text, valid)
}

/// As far as it may break what it goes into; whether it is one, the CA finds out.
fn is_email(text: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_graphic() && !matches!(c, b',' | b'?' | b'#' | b'%' | b'&');
    let parts = text.split_once('@');
    text.len() <= LONGEST_TEXT
        && text.bytes().all(is_plain)
        && parts
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
}

fn eab(wire: &v1::Eab, at: &mut At<'_>) -> Option<Eab> {
    let kid = match wire.kid.as_str() {
        kid if !kid.is_empty() && kid.len() <= LONGEST_TEXT && !kid.contains(char::is_control) => {
            Some(kid.to_owned())
        }
        _ => {
            at.problem(
                "eab.kid",
                "is empty, or no text of one line; give what the CA calls the key",
            );
            None
        }
    };
    let key = match wire.key.as_str() {
        "" => {
            at.problem("eab.key", "is empty; give the key as the CA gave it, or a file's path");
            None
        }
        // It is not repeated: it may be a secret.
        text => match (pem::eab_key(text), pem::eab_bytes(text.as_bytes())) {
            (Key::Given(digest), Err(why)) if digest != text => {
                at.problem("eab.key", why);
                None
            }
            (key, _) => Some(key),
        },
    };
    Some(Eab { kid: kid?, key: key? })
}
