//! Version 1: a line of text.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use memchr::memchr;

use super::header::{Addresses, Decoded, Header, HeaderError, MOST_LINE, Tlvs};

const BEGIN: &[u8] = b"PROXY ";

/// Whether it may be one, as far as it has come.
pub fn begins(bytes: &[u8]) -> bool {
    let seen = bytes.len().min(BEGIN.len());
    bytes[..seen] == BEGIN[..seen]
}

pub fn decode(bytes: &[u8]) -> Result<Option<Decoded>, HeaderError> {
    let seen = &bytes[..bytes.len().min(MOST_LINE)];
    let Some(end) = memchr(b'\n', seen) else {
        return if seen.len() < MOST_LINE { Ok(None) } else { Err(HeaderError::LongLine) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(HeaderError::Line("it has no CRLF"))?;
    if !line.iter().all(|c| matches!(c, b' '..=b'~')) {
        return Err(HeaderError::Line("it has characters that are not visible ASCII"));
    }
    let text = str::from_utf8(&line[BEGIN.len()..]).expect("it is ASCII");
    let header = Header { addresses: addresses(text)?, tlvs: Tlvs::default() };
    Ok(Some(Decoded { header, length: end + 1 }))
}

fn addresses(text: &str) -> Result<Option<Addresses>, HeaderError> {
    let mut words = text.split(' ');
    let is_v6 = match words.next() {
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => false,
        Some("TCP6") => true,
        _ => return Err(HeaderError::Line("its protocol is none of TCP4, TCP6, UNKNOWN")),
    };
    let (Some(source), Some(destination), Some(from), Some(to), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HeaderError::Line("it has not two addresses and two ports"));
    };
    Ok(Some(Addresses {
        source: SocketAddr::new(address(source, is_v6)?, port(from)?),
        destination: SocketAddr::new(address(destination, is_v6)?, port(to)?),
    }))
}

fn address(text: &str, is_v6: bool) -> Result<IpAddr, HeaderError> {
    let parsed = match is_v6 {
        true => Ipv6Addr::from_str(text).map(IpAddr::V6),
        false => Ipv4Addr::from_str(text).map(IpAddr::V4),
    };
    parsed.map_err(|_| HeaderError::Line("an address is none of its protocol's"))
}

fn port(text: &str) -> Result<u16, HeaderError> {
    let is_canonical =
        text == "0" || (text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0'));
    let parsed = u16::from_str(text).ok().filter(|_| is_canonical);
    parsed.ok_or(HeaderError::Line("a port is not a number from 0 to 65535"))
}

/// Both addresses are of one family.
pub fn encode(addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    let written = match addresses {
        None => write!(out, "PROXY UNKNOWN\r\n"),
        Some(Addresses { source, destination }) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.port(), destination.port());
            write!(out, "PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip())
        }
    };
    written.expect("memory takes all");
}
