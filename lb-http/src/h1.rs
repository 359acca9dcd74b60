//! HTTP/1.0 and HTTP/1.1: bytes to messages and back.

pub mod body;
mod chunked;
pub mod encode;
mod framing;
mod head;
mod request;
mod response;
mod syntax;
mod target;

pub use body::{BodyDecoder, BodyError, Decoded};
pub use head::{HeadParser, Limits};
pub use request::RequestError;
pub use response::ResponseError;
