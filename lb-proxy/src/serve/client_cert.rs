//! What backends get of a client's certificate. Its fields are taken out of every request, so that who
//! reads them reads what this proxy has seen.

use std::{rc::Rc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use lb_common::spec::ClientCertHeaders;
use lb_tls::{
    certificate::{self, Facts},
    distinguished::escaped,
};
use rustls::pki_types::CertificateDer;

use crate::{downstream::ClientCert, local::Local, table::Listener};

/// What is longer is left out: a head with it would be refused by many a backend.
const LONGEST: usize = 4 * 1024;
/// The same of the whole certificate.
const LONGEST_CERTIFICATE: usize = 8 * 1024;

/// What is known of the client that has shown these; nothing of one that has shown none.
pub fn of(
    local: &Rc<Local>,
    listener: &Listener,
    certificates: &[CertificateDer<'_>],
) -> Option<ClientCert> {
    let auth = listener.spec.tls.as_ref()?.client_auth.as_ref()?;
    let own = certificates.first()?;
    let lines = match auth.headers {
        ClientCertHeaders::Nothing => String::new(),
        ClientCertHeaders::Facts => Facts::of(own).map_or_else(|_| String::new(), |of| facts(&of)),
        ClientCertHeaders::Certificate => whole(own),
    };
    // It was good when it came, whether its end can be read or not.
    let until = certificate::not_after(own).unwrap_or(Duration::MAX);
    Some(ClientCert::new(local, lines.into_bytes().into(), until))
}

fn whole(certificate: &[u8]) -> String {
    // A byte sequence of structured fields.
    let value = format!(":{}:", STANDARD.encode(certificate));
    match value.len() {
        ..=LONGEST_CERTIFICATE => format!("Client-Cert: {value}\r\n"),
        _ => String::new(),
    }
}

fn facts(facts: &Facts) -> String {
    // Commas are between names and in none of them.
    let names = facts.names.iter().chain(&facts.identities);
    let names: Vec<_> = names.map(|name| escaped(name.as_bytes(), b",\\ ")).collect();
    let until = httpdate::fmt_http_date(std::time::UNIX_EPOCH + facts.not_after);
    let fields = [
        ("Subject", &facts.subject),
        ("Issuer", &facts.issuer),
        ("Serial", &facts.serial),
        ("Names", &names.join(", ")),
        ("Not-After", &until),
        ("Fingerprint", &facts.fingerprint),
    ];
    let given = fields.iter().filter(|(_, value)| (1..=LONGEST).contains(&value.len()));
    given.map(|(name, value)| format!("X-Client-Cert-{name}: {value}\r\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_backends_would_refuse_a_head_for_is_left_out() {
        let longest = (LONGEST_CERTIFICATE - 2) / 4 * 3;
        let told = whole(&vec![0; longest]);
        assert!(told.starts_with("Client-Cert: :AAAA") && told.ends_with("AAAA:\r\n"), "{told}");
        assert_eq!(whole(&vec![0; longest + 1]), "");
    }

    #[test]
    fn a_certificate_says_nothing_that_looks_like_something_else() {
        let told = facts(&Facts {
            subject: "CN=me".into(),
            names: vec!["a.test".into(), "b, c".into()],
            identities: vec!["spiffe://x/y\r\nX: 1".into()],
            issuer: String::new(),
            serial: "0f".into(),
            not_before: Duration::ZERO,
            not_after: Duration::from_secs(1_000_000_000),
            fingerprint: "f".repeat(LONGEST + 1),
            kind: "ecdsa",
        });
        let expected = "X-Client-Cert-Subject: CN=me\r\nX-Client-Cert-Serial: 0f\r\n\
                        X-Client-Cert-Names: a.test, b\\2C\\20c, spiffe://x/y\\0D\\0AX:\\201\r\n\
                        X-Client-Cert-Not-After: Sun, 09 Sep 2001 01:46:40 GMT\r\n";
        assert_eq!(told, expected);
    }
}
