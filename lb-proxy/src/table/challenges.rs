//! What CAs are answered that look whether domains are ours, while certificates are ordered. As a rule
//! there is nothing, and then nobody looks.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use lb_common::material::{MaterialId, Materials};
use lb_http::message::{Method, Request};
use lb_tls::challenge;
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
    /// What is none is left out: a snapshot does not wait for it.
    pub fn new(materials: &Materials, former: &Arc<Self>) -> Arc<Self> {
        let is_of_one =
            |id: &MaterialId| id.http_01_token().is_some() || id.tls_alpn_01_domain().is_some();
        let made_of: Materials = materials
            .iter()
            .filter(|(id, _)| is_of_one(id))
            .map(|(id, secret)| (id.clone(), secret.clone()))
            .collect();
        if made_of == former.made_of {
            return Arc::clone(former);
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
        Arc::new(Self { made_of, ..challenges })
    }

    pub fn is_empty(&self) -> bool {
        self.made_of.is_empty()
    }

    /// What a CA is answered that asks for this, if it is one.
    pub fn http_01(&self, request: &Request) -> Option<&Bytes> {
        let is_read = matches!(request.method, Method::Get | Method::Head);
        let token = request.path().strip_prefix(PATH).filter(|_| is_read)?;
        self.http_01.get(token)
    }

    /// What it is offered that makes a handshake for this domain.
    pub fn tls_alpn_01(&self, domain: &str) -> Option<&Arc<ServerConfig>> {
        self.tls_alpn_01.get(domain)
    }
}
