//! What comes before a client may speak: whose connection it is, and whom it wants.

mod incoming;
mod outgoing;
mod passthrough;
mod senders;
