//! What CAs are answered that look whether domains are ours, while certificates are ordered. As a rule
//! there is nothing, and then nobody looks.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use lb_common::material::{MaterialId, Materials};
use lb_http::message::{Method, Request};
use lb_prelude::client_hello::ClientHello;
use lb_tls::challenge::{self, PROTOCOL};
use rustls::ServerConfig;

/// Where they ask by HTTP (RFC 8555, section 8.3).
const PATH: &[u8] = b"/.well-known/acme-challenge/";

#[derive(Debug, Default)]
pub struct Challenges {
    /// By token.
    http_01: HashMap<Vec<u8>, Bytes>,
    /// By domain.
    tls_alpn_01: HashMap<String, Arc<ServerConfig>>,
    made_of: Materials,
}

impl Challenges {
    /// Nothing, if there is nothing to answer. What is none is left out: a snapshot does not wait for it.
    pub fn new(materials: &Materials, former: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let is_of_one =
            |id: &MaterialId| id.http_01_token().is_some() || id.tls_alpn_01_domain().is_some();
        let made_of: Materials = materials
            .iter()
            .filter(|(id, _)| is_of_one(id))
            .map(|(id, secret)| (id.clone(), secret.clone()))
            .collect();
        if made_of.is_empty() {
            return None;
        }
        if let Some(former) = former.filter(|former| former.made_of == made_of) {
            return Some(Arc::clone(former));
        }
        let mut challenges = Self::default();
        for (id, secret) in &made_of {
            if let Some(token) = id.http_01_token() {
                let answer = Bytes::copy_from_slice(secret.reveal());
                challenges.http_01.insert(token.into(), answer);
            }
            if let Some(domain) = id.tls_alpn_01_domain() {
                match challenge::server(secret.reveal()) {
                    Ok(config) => {
                        challenges.tls_alpn_01.insert(domain.to_owned(), config);
                    }
                    Err(error) => tracing::error!(domain, %error, "a CA cannot be answered"),
                }
            }
        }
        Some(Arc::new(Self { made_of, ..challenges }))
    }

    /// What a CA is answered that asks for this, if it is one.
    pub fn http_01(&self, request: &Request) -> Option<&Bytes> {
        let is_read = matches!(request.method, Method::Get | Method::Head);
        let token = request.path().strip_prefix(PATH).filter(|_| is_read)?;
        self.http_01.get(token)
    }

    /// What a CA is offered that says this first, if it is one: nobody else offers that protocol and no
    /// other (RFC 8737, section 3).
    pub fn tls_alpn_01(&self, hello: &ClientHello) -> Option<&Arc<ServerConfig>> {
        let is_ca = hello.protocols.iter().eq([PROTOCOL]);
        let domain = hello.server_name.as_deref().filter(|_| is_ca)?;
        self.tls_alpn_01.get(domain)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::secret::Secret;
    use lb_http::h1::{HeadParser, Limits};

    use super::*;

    fn request(head: &str) -> Request {
        let limits = Limits { head: 4096, fields: 10, target: 1024 };
        let mut request = Request::default();
        let read = request.read(&mut HeadParser::default(), head.as_bytes(), &limits);
        assert_eq!(read, Ok(Some(head.len())), "{head}");
        request
    }

    #[test]
    fn a_known_token_is_answered_and_nothing_else_is() {
        let materials: Materials = [
            (MaterialId::http_01("token"), Secret::new(b"token.thumb".to_vec())),
            (MaterialId::tls_alpn_01("a.test"), Secret::new(b"no PEM".to_vec())),
            (MaterialId::tickets(), Secret::new(vec![1])),
        ]
        .into_iter()
        .collect();
        let challenges = Challenges::new(&materials, None).expect("there are some");
        let answer = |line: &str| {
            let head = format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            challenges.http_01(&request(&head)).cloned()
        };
        let known = Some(Bytes::from_static(b"token.thumb"));
        assert_eq!(answer("GET /.well-known/acme-challenge/token"), known);
        assert_eq!(answer("HEAD /.well-known/acme-challenge/token?x"), known);
        assert_eq!(answer("POST /.well-known/acme-challenge/token"), None);
        assert_eq!(answer("GET /.well-known/acme-challenge/token/"), None);
        assert_eq!(answer("GET /.well-known/acme-challenge/other"), None);
        assert_eq!(answer("GET /.well-known/acme-challenge/"), None);
        assert_eq!(answer("GET /token"), None);
        let hello = ClientHello::offering(Some("a.test"), [PROTOCOL]);
        assert!(challenges.tls_alpn_01(&hello).is_none(), "what is none is left out");
    }

    /// Protocols that are offered, a name, and whether it is a challenge.
    type Case<'a> = (&'a [&'a [u8]], Option<&'a str>, bool);

    #[test]
    fn only_who_offers_nothing_but_that_protocol_is_a_ca() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("it is made");
        let pem = made.cert.pem() + &made.signing_key.serialize_pem();
        let materials: Materials =
            Materials::unit(MaterialId::tls_alpn_01("a.test"), Secret::new(pem.into_bytes()));
        let challenges = Challenges::new(&materials, None).expect("there is one");
        #[rustfmt::skip]
        let cases: [Case<'_>; 7] = [
            (&[b"acme-tls/1"],              Some("a.test"), true),
            (&[b"acme-tls/1"],              Some("A.TEST"), true),
            (&[b"acme-tls/1"],              Some("b.test"), false),
            (&[b"acme-tls/1"],              None,           false),
            (&[b"acme-tls/1", b"http/1.1"], Some("a.test"), false),
            (&[b"http/1.1", b"acme-tls/1"], Some("a.test"), false),
            (&[],                           Some("a.test"), false),
        ];
        for (protocols, name, is_ca) in cases {
            let hello = ClientHello::offering(name, protocols.iter().copied());
            assert_eq!(challenges.tls_alpn_01(&hello).is_some(), is_ca, "{protocols:?} {name:?}");
        }
    }

    #[test]
    fn what_did_not_change_is_the_same_and_nothing_is_none() {
        let materials: Materials =
            Materials::unit(MaterialId::http_01("token"), Secret::new(b"x".to_vec()));
        let first = Challenges::new(&materials, None).expect("there is one");
        let second = Challenges::new(&materials, Some(&first)).expect("there is one");
        assert!(Arc::ptr_eq(&first, &second));
        assert!(Challenges::new(&Materials::new(), Some(&first)).is_none());
    }
}
