//! TLS without sockets: certificates, handshakes, records.
//!
//! - [`certificate`]: read from PEM, and what is told of them; [`distinguished`]: whom they are of.
//! - [`server`], [`client`], [`tickets`]: what is offered to clients and to backends.
//! - [`challenge`]: what a CA is shown that looks whether a domain is ours.
//! - [`handshake`], then [`session`]: one connection, bytes in and bytes out.
//! - [`fault`]: what is wrong with a server, in people's words.
//! - [`record`]: its records, sealed and opened without a copy.
//!
//! rustls does the handshakes, with the cryptography of aws-lc, and derives all keys. What follows a
//! handshake is done here, because there is much of it: a proxy reads records into a buffer of its
//! thread's, opens them into another one, and keeps nothing for a connection that idles but its keys.

pub mod certificate;
pub mod challenge;
pub mod client;
pub mod distinguished;
pub mod fault;
pub mod handshake;
mod names;
pub mod record;
pub mod server;
pub mod session;
mod sessions;
pub mod tickets;

use std::sync::{Arc, LazyLock};

use rustls::{
    CipherSuite, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
};

/// The cryptography, of which there is one for all. Of suites that are strong enough, the cheapest is
/// preferred.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        let is_cheapest = |suite: &SupportedCipherSuite| {
            matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            )
        };
        // Stable: what is alike stays in the order that rustls has.
        provider.cipher_suites.sort_by_key(|suite| !is_cheapest(suite));
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}
