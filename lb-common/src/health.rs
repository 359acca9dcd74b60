//! What the controller decided about a backend.

/// Whether the controller lets proxies send traffic to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    Healthy,
    Unhealthy,
}
