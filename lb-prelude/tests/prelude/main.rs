//! What a connection begins with, from outside: what bytes mean, and what holds for any of them.

mod checks;
mod client_hellos;
mod hello;
mod properties;
#[path = "../../../lb-http/tests/h1/text.rs"]
mod text;
mod vectors;
