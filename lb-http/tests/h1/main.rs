//! HTTP/1 from outside: what bytes mean, and what holds for any of them.

mod checks;
mod properties;
mod request_vectors;
mod response_vectors;
mod text;
mod vectors;
