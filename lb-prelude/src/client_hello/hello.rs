//! What the message says. Only what is routed by is looked at: the rest is for whoever answers it, which
//! is stricter.

use super::name::server_name;

/// Whom a client wants. Of one with an encrypted hello (ECH), what its outer one says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// A DNS name in lower case, without a dot at its end.
    pub server_name: Option<Box<str>>,
    pub protocols: Protocols,
}

/// The protocols (ALPN) that a client offers, those first that it likes best.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// As in the message: each after its length. As a list of texts, it would take many times as much.
    list: Box<[u8]>,
}

/// Why there is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It is something else.
    #[error("no TLS")]
    NoTls,
    #[error("a malformed TLS record")]
    Record,
    #[error("a TLS handshake that begins with a message of type {0}")]
    Message(u8),
    #[error("a ClientHello of {0} bytes; at most {MOST_HELLO} are read")]
    TooLong(usize),
    #[error("a malformed ClientHello")]
    Malformed,
    #[error("a ClientHello with a server name that is none")]
    ServerName,
}

/// Of the message, without the four bytes of its header.
pub const MOST_HELLO: usize = 16 * 1024;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
const MOST_SESSION_ID: usize = 32;

// === impl ClientHello ===

impl ClientHello {
    /// Of the message's content (RFC 8446, section 4.1.2).
    pub(super) fn parse(content: &[u8]) -> Result<Self, HelloError> {
        let mut rest = Rest(content);
        let _version_and_random = rest.take(2 + 32)?;
        if MOST_SESSION_ID < rest.list8()?.len() {
            return Err(HelloError::Malformed);
        }
        let _cipher_suites = rest.list16()?;
        let _compression_methods = rest.list8()?;
        let mut hello = Self::default();
        // Old clients have none.
        if rest.0.is_empty() {
            return Ok(hello);
        }
        let mut extensions = Rest(rest.list16()?);
        if !rest.0.is_empty() {
            return Err(HelloError::Malformed);
        }
        let (mut has_name, mut has_protocols) = (false, false);
        while !extensions.0.is_empty() {
            let (kind, content) = (extensions.number()?, extensions.list16()?);
            let is_again = match kind {
                SERVER_NAME => {
                    hello.server_name = name(content)?;
                    std::mem::replace(&mut has_name, true)
                }
                ALPN => {
                    hello.protocols = Protocols::parse(content)?;
                    std::mem::replace(&mut has_protocols, true)
                }
                _ => false,
            };
            if is_again {
                return Err(HelloError::Malformed);
            }
        }
        Ok(hello)
    }

    /// As if a client had wanted that.
    pub fn offering<'a>(
        server_name: Option<&str>,
        protocols: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut list = Vec::new();
        for protocol in protocols {
            // None is longer.
            list.extend(u8::try_from(protocol.len()));
            list.extend_from_slice(protocol);
        }
        let server_name = server_name.map(|name| name.to_ascii_lowercase().into());
        Self { server_name, protocols: Protocols { list: list.into() } }
    }
}

/// RFC 6066, section 3.
fn name(extension: &[u8]) -> Result<Option<Box<str>>, HelloError> {
    let mut rest = Rest(extension);
    let mut names = Rest(rest.list16()?);
    let (kind, name) = (names.take(1)?, names.list16());
    // How long another kind of name would be is not known, so nothing behind it can be read.
    if !rest.0.is_empty() || kind != [HOST_NAME] {
        return Err(HelloError::ServerName);
    }
    let found = server_name(name?).map_err(|_| HelloError::ServerName)?;
    match names.0 {
        [] => Ok(found),
        [HOST_NAME, ..] => Err(HelloError::ServerName),
        [_, ..] => Ok(found),
    }
}

// === impl Protocols ===

impl Protocols {
    /// RFC 7301, section 3.1.
    fn parse(extension: &[u8]) -> Result<Self, HelloError> {
        let mut rest = Rest(extension);
        let list = rest.list16()?;
        let mut protocols = Rest(list);
        while !protocols.0.is_empty() {
            if protocols.list8()?.is_empty() {
                return Err(HelloError::Malformed);
            }
        }
        if !rest.0.is_empty() || list.is_empty() {
            return Err(HelloError::Malformed);
        }
        Ok(Self { list: list.into() })
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Rest(&self.list);
        std::iter::from_fn(move || rest.list8().ok())
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, HelloError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows its length in one byte.
    fn list8(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// What follows its length in two bytes.
    fn list16(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.number()?;
        self.take(length.into())
    }
}
