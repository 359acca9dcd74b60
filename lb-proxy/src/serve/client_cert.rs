//! What backends get of a client's certificate. Its fields are taken out of every request, so that who
//! reads them reads what this proxy has seen.

use base64::{Engine, engine::general_purpose::STANDARD};
use lb_common::spec::ClientCertHeaders;
use lb_tls::{certificate::Facts, distinguished::escaped};
use rustls::pki_types::CertificateDer;

use crate::table::Listener;

/// What is longer is left out: a head with it would be refused by many a backend.
const LONGEST: usize = 4 * 1024;

/// Lines of a head, each with its end; none without a certificate.
pub fn lines(listener: &Listener, certificates: &[CertificateDer<'_>]) -> Box<[u8]> {
    let auth = listener.spec.tls.as_ref().and_then(|tls| tls.client_auth.as_ref());
    let (Some(auth), Some(own)) = (auth, certificates.first()) else { return Box::default() };
    let lines = match auth.headers {
        ClientCertHeaders::Nothing => String::new(),
        ClientCertHeaders::Facts => Facts::of(own).map_or_else(|_| String::new(), |of| facts(&of)),
        ClientCertHeaders::Certificate => {
            // A byte sequence of structured fields.
            format!("Client-Cert: :{}:\r\n", STANDARD.encode(own))
        }
    };
    lines.into_bytes().into()
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
    use std::time::Duration;

    use super::*;

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
