//! Nouns and leaf helpers that every crate of the load balancer shares. No sockets here.
//!
//! - [`id`] — names of things, as types.
//! - [`spec`] — what operators ask for, parsed: every value in it is valid by itself.
//! - [`snapshot`] — desired state and health at one version, complete and consistent.
//! - [`health`] — what the controller decided about a backend.
//! - [`backoff`] and [`retry`] — waiting longer each time, and the small generic retry helper.
//! - [`clock`] — the only place that reads the time.
//! - [`drain`] — the signal that ends a process in order.
//! - [`telemetry`] — logs.

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod health;
pub mod id;
pub mod retry;
pub mod snapshot;
pub mod spec;
pub mod telemetry;
