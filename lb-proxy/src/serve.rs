//! Clients' connections: accepting them, and serving each to its end in a task of its own.

pub mod accept;
mod acme;
mod client_cert;
mod h1;
mod input;
mod linger;
mod prelude;
mod tcp;
mod tls;
