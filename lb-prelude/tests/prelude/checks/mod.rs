//! What holds for any bytes. Fuzzing and property tests call it.

use std::net::SocketAddr;

use lb_prelude::{
    client_hello::{ClientHello, HelloError, HelloReader},
    proxy_protocol::{Addresses, Header, HeaderError, MOST_BYTES, Tlvs, Version, decode, encode},
};
use rustls::server::Acceptor;

/// A header is read at its last byte and not before, whatever follows it, and is the same once it is
/// written again.
pub fn proxy_protocol(bytes: &[u8]) {
    let decoded = match decode(bytes) {
        Ok(Some(decoded)) => decoded,
        Ok(None) => {
            assert!(bytes.len() < MOST_BYTES, "more is wanted than there may be");
            return;
        }
        Err(HeaderError::Absent) => {
            // What is no header does not become one.
            assert_eq!(decode(&[bytes, b"\r\n"].concat()), Err(HeaderError::Absent));
            return;
        }
        Err(_) => return,
    };
    assert!(decoded.length <= bytes.len().min(MOST_BYTES));
    for cut in 0..decoded.length {
        assert_eq!(decode(&bytes[..cut]), Ok(None), "after {cut} of {} bytes", decoded.length);
    }
    assert_eq!(decode(&bytes[..decoded.length]).as_ref(), Ok(&Some(decoded.clone())));
    again(&decoded.header);
}

fn again(header: &Header) {
    let Header { addresses, tlvs } = header;
    for (version, tlvs) in [(Version::V1, &Tlvs::default()), (Version::V2, tlvs)] {
        let mut written = Vec::new();
        encode(version, *addresses, tlvs, &mut written);
        let read = decode(&written).expect("it is well formed").expect("all of it is there");
        assert_eq!(read.length, written.len());
        let expected = addresses.map(canonical);
        assert_eq!(read.header.addresses.map(canonical), expected, "{version:?}");
        // The sender's own connection has nothing more to say.
        if expected.is_some() {
            assert_eq!(read.header.tlvs, *tlvs, "{version:?}");
        }
    }
}

/// An IPv4 address that is written as an IPv6 one is the same address.
fn canonical(Addresses { source, destination }: Addresses) -> (SocketAddr, SocketAddr) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    (canonical(source), canonical(destination))
}

/// A hello is read the same in whatever pieces it comes, and what rustls accepts says the same to it.
pub fn client_hello(bytes: &[u8], seed: u64) {
    let whole = HelloReader::default().read(bytes);
    let single = read(bytes, || 1);
    assert_eq!(single, whole, "byte by byte");
    let mut rng = fastrand::Rng::with_seed(seed);
    assert_eq!(read(bytes, || rng.usize(1..=300)), whole, "in pieces");
    // It may be longer for them.
    if let Some(theirs) = accepted(bytes)
        && !matches!(whole, Err(HelloError::TooLong(_)))
    {
        assert_eq!(whole, Ok(Some(theirs)));
    }
}

/// Reads pieces of these lengths.
pub fn read(
    bytes: &[u8],
    mut length: impl FnMut() -> usize,
) -> Result<Option<ClientHello>, HelloError> {
    let (mut reader, mut end) = (HelloReader::default(), 0);
    while end < bytes.len() {
        end = (end + length()).min(bytes.len());
        if let Some(hello) = reader.read(&bytes[..end])? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

/// What rustls reads, if it accepts it.
fn accepted(mut bytes: &[u8]) -> Option<ClientHello> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
            return Some(ClientHello::offering(name, hello.alpn().into_iter().flatten()));
        }
    }
    None
}
