//! A TLS client's first message: which server it wants, and which protocols it offers.

mod hello;
mod name;
mod reader;

pub use hello::{ClientHello, HelloError, MOST_HELLO, Protocols};
pub use reader::HelloReader;
