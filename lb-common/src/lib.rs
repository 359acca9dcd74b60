//! Nouns and leaf helpers that every crate of the load balancer shares. Nothing here opens a socket.
//!
//! - [`id`] — names of things, as types.
//! - [`spec`] — what operators ask for, parsed: every value in it is valid by itself.
//! - [`snapshot`] — desired state and health at one version, complete and consistent.
//! - [`health`] — what the controller decided about a backend.
//! - [`backoff`] and [`retry`] — waiting longer each time, and the small generic retry helper.
//! - [`clock`] — the only place that reads the time.
//! - [`drain`] — the signal that ends a process in order.
//! - [`exposition`] — metrics as Prometheus reads them.
//! - [`secret`] and [`material`] — keys, and what is in the files that a state names.
//! - [`network`] — who is trusted, and from where a request may come.
//! - [`inherited`] and [`notify`] — what a service manager hands over, and is told.
//! - [`telemetry`] — logs and traces.

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod exposition;
pub mod health;
pub mod id;
pub mod inherited;
pub mod map;
pub mod material;
pub mod network;
pub mod notify;
pub mod retry;
pub mod secret;
pub mod shortage;
pub mod snapshot;
pub mod spec;
pub mod telemetry;
