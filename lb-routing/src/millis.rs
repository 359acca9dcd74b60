//! Time, as pure code has it.

/// Milliseconds since the proxy started: what hot atomics keep instead of an `Instant`.
pub type Millis = u64;
