//! Certificates that are ordered from a CA and renewed (ACME, RFC 8555).
//!
//! ```text
//!   look ──► due? ──► order ──► challenges ──► proxies ◄── the CA asks any of them
//!    ▲                  │
//!    └── material ◄── issued, or failed and tried again later
//! ```
//!
//! - `plan`, `schedule`, `record`: what is due and when, and what is kept of it; pure.
//! - `order`, with `account`, `challenge`, `client` and `material`: one order.
//! - `driver`: which order is when.
//! - `ledger`: how it goes, for those who ask.
//!
//! # Invariants
//!
//! - What is in force stays in force until something better is there.
//! - An order that fails is tried again after a pause that grows; a restart shortens no pause.
//! - A certificate has at most one order at a time, and so has a domain.
//! - The controller knows what is pure here; what drives orders knows the controller.

mod account;
mod challenge;
mod client;
pub mod driver;
mod failure;
mod ledger;
mod material;
mod order;
mod plan;
mod record;
mod schedule;

use lb_common::{material::Materials, secret::Secret, spec::Challenge};

use self::record::Record;

pub use challenge::possible;
pub use ledger::{Ledger, News, Standing, State};
pub use plan::Ordered;

/// What is seen of the state.
pub struct Seen {
    pub certificates: Vec<Ordered>,
    /// That could be answered, the likeliest first.
    pub challenges: Vec<Challenge>,
    /// How many proxies are.
    pub connected: usize,
}

/// What proxies go on answering for a certificate when the controller starts again, by what is kept of its
/// order.
pub fn answers(kept: Option<&Secret>) -> Materials {
    Record::read(kept).open.map(|open| open.answers()).unwrap_or_default()
}
