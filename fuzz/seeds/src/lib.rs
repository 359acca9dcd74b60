//! The vectors of the crates' tests.

#[path = "../../../lb-prelude/tests/prelude/hello.rs"]
pub mod hello;
#[path = "../../../lb-http/tests/h1/text.rs"]
pub mod text;
