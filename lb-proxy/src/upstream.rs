//! Backends' side: connecting, connections that idle, and what an attempt holds.

pub mod connect;
pub mod lease;
pub mod pool;
