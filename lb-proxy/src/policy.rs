//! What a request may cost before it is given up. Pure.

pub mod budget;
pub mod retry;
