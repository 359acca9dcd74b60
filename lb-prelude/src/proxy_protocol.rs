//! The PROXY protocol: a balancer says with the first bytes of a connection whose it is. Its description
//! is HAProxy's `proxy-protocol.txt`.

mod crc32c;
mod decode;
mod encode;
mod header;
mod v1;
mod v2;

pub use decode::decode;
pub use encode::{Version, encode};
pub use header::{Addresses, Decoded, Header, HeaderError, MOST_BYTES, Tlvs};
