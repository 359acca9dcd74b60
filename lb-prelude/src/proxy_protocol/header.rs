//! What a header says, in whichever version.

use std::net::SocketAddr;

/// Whose connection it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `None` if it is the sender's own, or the sender does not say.
    pub addresses: Option<Addresses>,
    pub tlvs: Tlvs,
}

/// The ends of the connection that the sender passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What else it says that is passed on. Version 1 has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// At most 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
    /// The protocol that the client and the sender have agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// The server that the client asked for.
    pub authority: Option<Box<[u8]>>,
}

/// A header, and how many bytes it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub header: Header,
    pub length: usize,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The connection begins with something else.
    #[error("no PROXY protocol header")]
    Absent,
    #[error("a PROXY line of more than {MOST_LINE} bytes")]
    LongLine,
    #[error("a malformed PROXY line: {0}")]
    Line(&'static str),
    #[error("a PROXY header of {0} bytes; at most {MOST_BYTES} are read")]
    LongHeader(usize),
    #[error("a PROXY header with version and command {0:#04x}")]
    Command(u8),
    #[error("a PROXY header with family and transport {0:#04x}")]
    Family(u8),
    #[error("a PROXY header that is too short for its addresses")]
    CutOff,
    #[error("a PROXY header with a malformed TLV of type {0:#04x}")]
    Tlv(u8),
    #[error("a PROXY header with a wrong checksum")]
    Checksum,
}

/// Of a header. Certificates are the longest that balancers put in, and have less.
pub const MOST_BYTES: usize = 4 * 1024;
/// Of a line of version 1, with its end.
pub const MOST_LINE: usize = 107;
pub const MOST_UNIQUE_ID: usize = 128;
