//! A CA that makes a handshake to see whether a domain is ours (`tls-alpn-01`, RFC 8737): how it is known
//! from other clients, and what it is shown.
//!
//! It offers the protocol `acme-tls/1` and no other, which nobody else does. What a listener offers its
//! clients knows nothing of that: the hello is looked at before the handshake begins, and only while a CA
//! may come.

use std::{io, sync::Arc};

use rustls::{
    ServerConfig,
    server::{Acceptor, NoServerSessionStorage},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificate::{CertificateError, certificates, signing_key},
    provider,
};

const PROTOCOL: &[u8] = b"acme-tls/1";

/// Looks at a hello as it comes.
#[derive(Default)]
pub struct Asked {
    acceptor: Acceptor,
    /// How much was looked at.
    seen: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is not there yet.
    More,
    /// It is a client like any other, or none.
    Other,
    /// It is a CA that asks about this domain.
    Challenge(String),
}

impl Asked {
    /// `input` is all that has come so far.
    pub fn look(&mut self, input: &[u8]) -> Looked {
        let mut rest = input.get(self.seen..).unwrap_or_default();
        self.seen = input.len();
        while !rest.is_empty() {
            match self.acceptor.read_tls(&mut rest as &mut dyn io::Read) {
                Ok(0) | Err(_) => return Looked::Other,
                Ok(_) => {}
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                // What is wrong with it is told by the handshake.
                Err(_) => return Looked::Other,
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let is_it = hello.alpn().is_some_and(|mut offered| {
                        offered.next() == Some(PROTOCOL) && offered.next().is_none()
                    });
                    return match hello.server_name().filter(|_| is_it) {
                        Some(domain) => Looked::Challenge(domain.to_ascii_lowercase()),
                        None => Looked::Other,
                    };
                }
            }
        }
        Looked::More
    }
}

/// What a CA is offered: a certificate, which is given with its key as PEM, and nothing else.
///
/// # Errors
/// If it cannot be used.
pub fn server(pem: &[u8]) -> Result<Arc<ServerConfig>, CertificateError> {
    // Whether they belong together is not asked: what is critical in it only CAs understand.
    let key = CertifiedKey::new(certificates(pem)?, signing_key(pem)?);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::Unreadable(error.to_string()))?;
    let mut config =
        builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

    use super::*;

    fn hello(alpn: &[&[u8]], name: &str) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("it can be");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("there is room");
        bytes
    }

    #[test]
    fn only_who_offers_nothing_but_that_protocol_is_a_ca() {
        let domain = || Looked::Challenge("a.test".into());
        #[rustfmt::skip]
        let cases: [(&[&[u8]], &str, Looked); 5] = [
            (&[b"acme-tls/1"],              "a.test",    domain()),
            (&[b"acme-tls/1", b"http/1.1"], "a.test",    Looked::Other),
            (&[b"http/1.1", b"acme-tls/1"], "a.test",    Looked::Other),
            (&[],                           "a.test",    Looked::Other),
            (&[b"acme-tls/1"],              "127.0.0.1", Looked::Other), // without a name
        ];
        for (alpn, name, expected) in cases {
            assert_eq!(Asked::default().look(&hello(alpn, name)), expected, "{alpn:?} {name}");
        }
    }

    #[test]
    fn a_hello_is_known_once_it_is_whole_and_not_before() {
        let hello = hello(&[PROTOCOL], "a.test");
        let mut asked = Asked::default();
        for end in 1..hello.len() {
            assert_eq!(asked.look(&hello[..end]), Looked::More, "{end}");
        }
        assert_eq!(asked.look(&hello), Looked::Challenge("a.test".into()));
    }

    #[test]
    fn what_a_ca_is_offered_may_have_in_it_what_nobody_else_understands() {
        let key = rcgen::KeyPair::generate().expect("it is made");
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a name");
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&[7; 32])];
        let pem = params.self_signed(&key).expect("it signs").pem();
        let config =
            server((pem.clone() + &key.serialize_pem()).as_bytes()).expect("it can be used");
        assert_eq!(config.alpn_protocols, [PROTOCOL]);
        assert_eq!(server(pem.as_bytes()).err(), Some(CertificateError::NoKey));
    }

    #[test]
    fn what_is_no_hello_is_left_to_the_handshake() {
        assert_eq!(Asked::default().look(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), Looked::Other);
    }
}
