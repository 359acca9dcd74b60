//! HTTP/1.0 and HTTP/1.1: bytes to messages and back.

mod body;
mod chunked;
mod decoded;
pub mod encode;
mod framing;
mod head;
mod request;
mod response;
mod syntax;
mod target;

pub use body::BodyDecoder;
pub use decoded::{BodyError, Decoded};
pub use head::{HeadParser, Limits};
pub use request::RequestError;
pub use response::ResponseError;
