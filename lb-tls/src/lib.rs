//! TLS without sockets: certificates, handshakes, records.
//!
//! - [`certificate`]: read from PEM, and what is told of them.
//! - [`server`], [`client`], [`tickets`]: what is offered to clients and to backends.
//! - [`challenge`]: a CA that looks whether a domain is ours.
//! - [`handshake`], then [`session`]: one connection, bytes in and bytes out.
//! - [`record`]: its records, sealed and opened without a copy.
//!
//! rustls does the handshakes, with the cryptography of aws-lc, and derives all keys. What follows a
//! handshake is done here, because there is much of it: a proxy reads records into a buffer of its
//! thread's, opens them into another one, and keeps nothing for a connection that idles but its keys.

pub mod certificate;
pub mod challenge;
pub mod client;
pub mod handshake;
mod names;
pub mod record;
pub mod server;
pub mod session;
pub mod tickets;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The cryptography, of which there is one for all.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}
