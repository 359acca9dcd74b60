//! Where a request goes: which route takes it, and which backend gets it.
//!
//! Pure, and in a crate of its own because two processes must agree about it: proxies decide with
//! it, and the controller explains with it what they would decide. Nothing here knows a socket, a
//! worker or a request under way, and nothing reads a clock.
//!
//! - [`admit`]: whether it is one that is forwarded at all.
//! - [`path`]: the normal form of its path.
//! - [`route`]: which route, the most specific one.
//! - [`origin`]: who it is from.
//! - [`alpn`]: which protocol a TLS client and a listener agree on.
//! - [`hash_key`]: what of a request consistent hashing goes by.
//! - [`balance`]: which backend, one file an algorithm.
//! - [`backend`]: what a pick knows of a backend.
//! - [`redirect`]: where a redirect leads.
//! - [`refusal`]: why a proxy answers by itself.
//! - [`outlier`]: when a proxy keeps a failing backend out by itself.

pub mod admit;
pub mod alpn;
pub mod backend;
pub mod balance;
mod field;
#[cfg(test)]
mod fixture;
pub mod hash_key;
pub mod millis;
pub mod origin;
pub mod outlier;
pub mod path;
pub mod redirect;
pub mod refusal;
pub mod route;
