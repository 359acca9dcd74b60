//! The vectors of `lb-http`'s tests.

#[path = "../../../lb-http/tests/h1/text.rs"]
pub mod text;
