//! Clients' connections: accepting them, and serving each to its end in a task of its own.

pub mod accept;
mod client_cert;
pub mod h1;
mod linger;
pub mod tcp;
pub mod tls;
