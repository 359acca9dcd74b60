//! The wire's types, and the only place where they meet the domain's.
//!
//! - [`v1`]: generated from `proto/lb/v1`.
//! - [`parse`]: wire to domain. Every question about validity is answered here, once, and every
//!   refusal names the field, the value and what would be valid.
//! - [`encode`]: domain to wire, leaving out what is a default.
//! - [`update`]: snapshots and deltas as proxies get them; [`resources`]: what they are made of, and
//!   their digest.
//! - [`duration`], [`list`], [`pem`]: how these are spelled. [`json`]: how answers look in JSON.
//! - [`latency`]: the buckets in which all processes count it.
//! - [`mod@file`]: the TOML spelling of the same spec, with line numbers in its errors.
//!
//! # Invariant
//!
//! `parse(encode(x)) == x` for every domain value, so that digests agree across processes.

#[cfg(test)]
mod any;
pub mod duration;
pub mod encode;
pub mod error;
pub mod file;
pub mod json;
pub mod latency;
pub mod list;
pub mod parse;
pub mod parts;
pub mod pem;
mod redacted;
pub mod resources;
pub mod update;

/// Generated from `proto/lb/v1`.
#[allow(missing_docs, clippy::all, rustdoc::all, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("lb.v1");
}

/// All of `lb.v1` as an encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The largest message that controller and proxies send each other, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// What a spec means where it says nothing.
pub mod defaults {
    use std::time::Duration;

    use lb_common::spec::{
        ClientCertHeaders, ForwardedHeader, Forwarding, PathNormalization, Protocol, TlsVersion,
    };

    pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
    pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
    pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
    pub const MAX_HEADER_BYTES: u32 = 65_536;
    pub const MAX_HEADER_FIELDS: u32 = 100;
    pub const MAX_TARGET_BYTES: u32 = 16_384;
    pub const PATH_NORMALIZATION: PathNormalization = PathNormalization::Match;
    pub const FORWARDED: Forwarding = Forwarding::Replace;
    pub const FORWARDED_HEADER: ForwardedHeader = ForwardedHeader::XForwarded;
    pub const CLIENT_CERT_HEADERS: ClientCertHeaders = ClientCertHeaders::Facts;
    pub const MIN_TLS_VERSION: TlsVersion = TlsVersion::Tls12;
    pub const VERIFY: bool = true;
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
    pub const MAX_HANDSHAKES: u32 = 1024;
    pub const UPGRADE: [&str; 1] = ["websocket"];
    pub const ROUTE_TIMEOUT: Duration = Duration::from_secs(30);
    pub const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
    pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
    pub const VIA: bool = true;
    pub const REDIRECT_STATUS: u32 = 302;
    pub const RETRY_ATTEMPTS: u32 = 3;
    pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);
    pub const RETRY_BUDGET_PERCENT: u32 = 20;
    pub const RETRY_MAX_BODY_BYTES: u64 = 65_536;
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    pub const SLOW_START: Duration = crate::duration::OFF;
    pub const HEALTH_PATH: &str = "/health";
    pub const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
    pub const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
    pub const HEALTHY_AFTER: u32 = 2;
    pub const UNHEALTHY_AFTER: u32 = 3;
    pub const MAX_UNHEALTHY_PERCENT: u32 = 50;
    pub const HASH_TABLE_SIZE: u32 = 65_537;
    pub const EJECT_AFTER: u32 = 5;
    pub const EJECT_INTERVAL: Duration = Duration::from_secs(10);
    pub const EJECT_MIN_REQUESTS: u32 = 20;
    pub const EJECT_FAILURE_PERCENT: u32 = 5;
    pub const EJECT_BASE_TIME: Duration = Duration::from_secs(10);
    pub const EJECT_MAX_TIME: Duration = Duration::from_secs(300);
    pub const EJECT_MAX_PERCENT: u32 = 50;
    pub const POOL_MAX_IDLE: u32 = 64;
    pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

    /// Balancers in front of us close after 60 s as a rule; whoever waits longer is not the one that
    /// closes under a request. Databases' clients are silent for longer than browsers.
    pub fn idle_timeout(protocol: &Protocol) -> Duration {
        match protocol {
            Protocol::Http => Duration::from_secs(75),
            Protocol::Tcp { .. } => Duration::from_secs(3600),
        }
    }
}
