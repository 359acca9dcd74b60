//! Version 2: binary, with room for more than addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    crc32c::crc32c,
    header::{Addresses, Decoded, Header, HeaderError, MOST_BYTES, MOST_UNIQUE_ID, Tlvs},
};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What stands before the addresses.
const FIXED: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;

/// Whether it may be one, as far as it has come.
pub fn begins(bytes: &[u8]) -> bool {
    let seen = bytes.len().min(SIGNATURE.len());
    bytes[..seen] == SIGNATURE[..seen]
}

pub fn decode(bytes: &[u8]) -> Result<Option<Decoded>, HeaderError> {
    let Some([.., command, family, high, low]) = bytes.first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if !matches!(*command, LOCAL | PROXY) {
        return Err(HeaderError::Command(*command));
    }
    if MOST_BYTES < length {
        return Err(HeaderError::LongHeader(length));
    }
    let Some(bytes) = bytes.get(..length) else { return Ok(None) };
    let header = match (*command, *family) {
        // Where its addresses end is not known, so neither is where TLVs would begin.
        (LOCAL, _) | (_, UNSPEC) => Header::default(),
        (_, family) => passed_on(bytes, family)?,
    };
    Ok(Some(Decoded { header, length }))
}

fn passed_on(bytes: &[u8], family: u8) -> Result<Header, HeaderError> {
    let mut rest = Rest(&bytes[FIXED..]);
    let addresses = match family {
        TCP4 => {
            let [source, destination] = [rest.bytes::<4>()?, rest.bytes()?];
            Some(
                rest.with_ports(Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into())?,
            )
        }
        TCP6 => {
            let [source, destination] = [rest.bytes::<16>()?, rest.bytes()?];
            Some(
                rest.with_ports(Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into())?,
            )
        }
        // Datagrams, and sockets that have no addresses.
        0x12 => rest.bytes::<12>().map(|_| None)?,
        0x22 => rest.bytes::<36>().map(|_| None)?,
        0x31 | 0x32 => rest.bytes::<216>().map(|_| None)?,
        other => return Err(HeaderError::Family(other)),
    };
    let tlvs = tlvs(bytes, bytes.len() - rest.0.len())?;
    Ok(Header { addresses, tlvs })
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(HeaderError::CutOff)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn with_ports(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Addresses, HeaderError> {
        let [from, to] = [self.bytes()?, self.bytes()?].map(u16::from_be_bytes);
        Ok(Addresses {
            source: SocketAddr::new(source, from),
            destination: SocketAddr::new(destination, to),
        })
    }
}

/// Those that begin here in a header.
fn tlvs(header: &[u8], mut at: usize) -> Result<Tlvs, HeaderError> {
    let (mut tlvs, mut checksum) = (Tlvs::default(), None);
    while let Some(kind) = header.get(at) {
        let malformed = HeaderError::Tlv(*kind);
        let length = header.get(at + 1..at + 3).ok_or(malformed)?;
        let start = at + 3;
        let end = start + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let value = header.get(start..end).ok_or(malformed)?;
        let keep = |kept: &mut Option<Box<[u8]>>| match kept.replace(value.into()) {
            Some(_) => Err(malformed),
            None => Ok(()),
        };
        match *kind {
            ALPN => keep(&mut tlvs.alpn)?,
            AUTHORITY => keep(&mut tlvs.authority)?,
            UNIQUE_ID if value.len() <= MOST_UNIQUE_ID => keep(&mut tlvs.unique_id)?,
            UNIQUE_ID => return Err(malformed),
            CRC32C => {
                let sum: [u8; 4] = value.try_into().map_err(|_| malformed)?;
                if checksum.replace((start..end, u32::from_be_bytes(sum))).is_some() {
                    return Err(malformed);
                }
            }
            // The others are for other receivers.
            _ => {}
        }
        at = end;
    }
    match checksum {
        // It is that of the header with zeros in its place.
        Some((place, sum))
            if crc32c([&header[..place.start], &[0; 4], &header[place.end..]]) != sum =>
        {
            Err(HeaderError::Checksum)
        }
        _ => Ok(tlvs),
    }
}

/// Both addresses are of one family. TLVs that would make it too long for a receiver are left out.
pub fn encode(addresses: Option<&Addresses>, tlvs: &Tlvs, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    let (command, family) = match addresses {
        None => (LOCAL, UNSPEC),
        Some(Addresses { source, .. }) => (PROXY, if source.is_ipv4() { TCP4 } else { TCP6 }),
    };
    out.extend_from_slice(&[command, family, 0, 0]);
    if let Some(Addresses { source, destination }) = addresses {
        for end in [source, destination] {
            match end.ip() {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
        }
        out.extend_from_slice(&source.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
        let Tlvs { unique_id, alpn, authority } = tlvs;
        for (kind, value) in [(UNIQUE_ID, unique_id), (ALPN, alpn), (AUTHORITY, authority)] {
            let Some(value) = value else { continue };
            let Ok(length) = u16::try_from(value.len()) else { continue };
            if out.len() - start + 3 + value.len() <= MOST_BYTES {
                out.push(kind);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(value);
            }
        }
    }
    let length = u16::try_from(out.len() - start - FIXED).expect("a header has 4 KiB at most");
    out[start + FIXED - 2..start + FIXED].copy_from_slice(&length.to_be_bytes());
}
