//! Writing a header.

use std::net::{IpAddr, SocketAddr};

use super::{
    header::{Addresses, Tlvs},
    v1, v2,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Appends a header: whose connection it is, or without addresses, that it is the sender's own.
pub fn encode(version: Version, addresses: Option<Addresses>, tlvs: &Tlvs, out: &mut Vec<u8>) {
    let addresses = addresses.map(of_one_family);
    match version {
        Version::V1 => v1::encode(addresses.as_ref(), out),
        Version::V2 => v2::encode(addresses.as_ref(), tlvs, out),
    }
}

/// As IPv4 if both are, as IPv6 if one is.
fn of_one_family(Addresses { source, destination }: Addresses) -> Addresses {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return Addresses { source, destination };
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    Addresses { source: mapped(source), destination: mapped(destination) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{decode, header::Header},
        *,
    };

    fn addresses(source: &str, destination: &str) -> Addresses {
        let parse = |text: &str| text.parse().expect("an address with a port");
        Addresses { source: parse(source), destination: parse(destination) }
    }

    #[test]
    fn ends_of_two_families_are_written_as_ipv6() {
        let mixed = addresses("192.0.2.1:5", "[2001:db8::1]:443");
        let mut line = Vec::new();
        encode(Version::V1, Some(mixed), &Tlvs::default(), &mut line);
        assert_eq!(line, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 5 443\r\n");
        let mapped = addresses("[::ffff:192.0.2.1]:5", "192.0.2.9:443");
        line.clear();
        encode(Version::V1, Some(mapped), &Tlvs::default(), &mut line);
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.9 5 443\r\n");
    }

    #[test]
    fn what_is_too_long_for_a_receiver_is_left_out() {
        let ends = addresses("192.0.2.1:5", "192.0.2.9:443");
        let long = |bytes: usize| Some(vec![b'a'; bytes].into_boxed_slice());
        let tlvs = Tlvs { unique_id: long(9), alpn: long(70_000), authority: long(4096) };
        let mut out = Vec::new();
        encode(Version::V2, Some(ends), &tlvs, &mut out);
        let read = decode(&out).expect("it is well formed").expect("all of it is there");
        let kept = Tlvs { unique_id: long(9), ..Tlvs::default() };
        assert_eq!(read.header, Header { addresses: Some(ends), tlvs: kept });
    }
}
