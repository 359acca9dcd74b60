//! How a CA is shown that domains are ours: by what, and what proxies answer it.

use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{Challenge, DesiredState, Protocol},
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

/// Where CAs ask, as long as nobody hands it on to another port.
const HTTP_PORT: u16 = 80;
const TLS_PORT: u16 = 443;

/// The challenges that listeners could answer, the likeliest first: ports may be mapped, which is not
/// known here, but where a listener has the CA's own port, they need not be.
pub fn possible(desired: &DesiredState) -> Vec<Challenge> {
    let mut possible: Vec<(bool, Challenge)> = Vec::new();
    for listener in desired.listeners.values() {
        let port = listener.address.port();
        match (&listener.tls, &listener.protocol) {
            (Some(_), _) => possible.push((port != TLS_PORT, Challenge::TlsAlpn01)),
            (None, Protocol::Http) => possible.push((port != HTTP_PORT, Challenge::Http01)),
            (None, Protocol::Tcp { .. }) => {}
        }
    }
    possible.sort_unstable();
    let mut challenges = Vec::new();
    for (_, challenge) in possible {
        if !challenges.contains(&challenge) {
            challenges.push(challenge);
        }
    }
    challenges
}

/// The one to try after so many failures: the given one, or one after the other. Only if it is possible.
///
/// # Errors
/// What is missing for it.
pub fn choose(
    given: Option<Challenge>,
    possible: &[Challenge],
    failures: u32,
) -> Result<Challenge, &'static str> {
    match given {
        Some(given) if possible.contains(&given) => Ok(given),
        Some(Challenge::Http01) => Err("http-01 needs an http listener without tls"),
        Some(Challenge::TlsAlpn01) => Err("tls-alpn-01 needs a listener with tls"),
        None if possible.is_empty() => {
            Err("the CA can be answered by no listener; it needs one for http, \
                                            or one with tls")
        }
        None => Ok(possible[failures as usize % possible.len()]),
    }
}

/// What proxies answer who asks for the path with this token (RFC 8555, section 8.3).
pub fn http_01(token: &str, authorization: &str) -> Materials {
    Materials::unit(MaterialId::http_01(token), Secret::new(authorization.into()))
}

/// What proxies show in a handshake for `acme-tls/1` (RFC 8737, section 3): a certificate with its key.
///
/// # Errors
/// If the domain cannot be in one.
pub fn tls_alpn_01(domain: &str, digest: &[u8; 32]) -> Result<Materials, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([domain.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let pem = params.self_signed(&key)?.pem() + &key.serialize_pem();
    Ok(Materials::unit(MaterialId::tls_alpn_01(domain), Secret::new(pem.into())))
}

#[cfg(test)]
mod tests {
    use Challenge::{Http01, TlsAlpn01};

    use super::*;
    use crate::desired::tests::state;

    #[test]
    fn what_is_possible_depends_on_listeners_and_the_ports_of_cas_come_first() {
        const CERTIFICATE: &str =
            "certificates = [{ name = 'a', cert = '/a.pem', key = '/a.key' }]";
        let tls = "tls = { certificates = ['a'] }";
        let check = |listeners: &[(u16, &str)], expected: &[Challenge]| {
            let lines: String = (listeners.iter().enumerate())
                .map(|(i, (port, more))| {
                    format!("[[listeners]]\nname = '{i}'\naddress = '127.0.0.1:{port}'\n{more}\n")
                })
                .collect();
            let sets = "backend_sets = [{ name = 'app' }]";
            let found = possible(&state(&format!("{CERTIFICATE}\n{sets}\n{lines}")));
            assert_eq!(found, expected, "{listeners:?}");
        };
        let tcp = "protocol = 'tcp'\nbackend_set = 'app'";
        let tcp_with_tls = format!("{tcp}\n{tls}");
        check(&[], &[]);
        check(&[(80, tcp)], &[]);
        check(&[(8080, "")], &[Http01]);
        check(&[(8443, tls), (8080, "")], &[Http01, TlsAlpn01]);
        check(&[(443, tls), (8080, "")], &[TlsAlpn01, Http01]);
        check(&[(443, tls), (80, "")], &[Http01, TlsAlpn01]);
        check(&[(443, &tcp_with_tls)], &[TlsAlpn01]);
    }

    #[test]
    fn what_failed_is_followed_by_what_else_is_possible() {
        let both = [Http01, TlsAlpn01];
        let chosen = |given, failures| choose(given, &both, failures);
        assert_eq!([0, 1, 2].map(|n| chosen(None, n)), [Ok(Http01), Ok(TlsAlpn01), Ok(Http01)]);
        assert_eq!([0, 1].map(|n| chosen(Some(TlsAlpn01), n)), [Ok(TlsAlpn01); 2]);
        assert!(choose(Some(TlsAlpn01), &[Http01], 0).is_err_and(|why| why.contains("with tls")));
        assert!(choose(None, &[], 0).is_err());
    }
}
