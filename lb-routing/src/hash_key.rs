//! What of a request consistent hashing goes by.

use std::net::IpAddr;

use lb_common::spec::HashKey;
use lb_http::message::{Name, Request};

use crate::field;

/// What of a request is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed<'a> {
    Key(&'a [u8]),
    /// The client's, because that is the key or because the request lacks the key.
    Address(IpAddr),
}

/// The hash of the key, or of the client's address if the request lacks the key.
pub fn hash_of(
    key: &HashKey,
    client: IpAddr,
    request: &Request,
    hash: impl Fn(&[u8]) -> u64,
) -> u64 {
    Hashed::of(key, client, request).hash(hash)
}

/// Where there is no request, the client's address is all there is to go by.
pub fn hash_of_address(client: IpAddr, hash: impl Fn(&[u8]) -> u64) -> u64 {
    Hashed::Address(client.to_canonical()).hash(hash)
}

// === impl Hashed ===

impl<'a> Hashed<'a> {
    pub fn of(key: &'a HashKey, client: IpAddr, request: &'a Request) -> Self {
        let found = match key {
            HashKey::ClientAddress => None,
            HashKey::Path => Some(request.path()),
            HashKey::Header(name) => field::values(request, name).next(),
            HashKey::Cookie(name) => cookie(request, name),
        };
        found.map_or_else(|| Self::Address(client.to_canonical()), Self::Key)
    }

    pub fn hash(&self, hash: impl Fn(&[u8]) -> u64) -> u64 {
        match self {
            Self::Key(bytes) => hash(bytes),
            Self::Address(IpAddr::V4(address)) => hash(&address.octets()),
            Self::Address(IpAddr::V6(address)) => hash(&address.octets()),
        }
    }
}

fn cookie<'a>(request: &'a Request, name: &str) -> Option<&'a [u8]> {
    let lines = request.fields.all(Name::Cookie);
    let pairs = lines.flat_map(|value| value.split(|c| *c == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, header::HOST};

    use super::*;
    use crate::fixture;

    type Case<'a> = (&'a HashKey, &'a [&'a str], &'a str);

    /// The first eight bytes, so that the hash says what was hashed.
    fn first_bytes(bytes: &[u8]) -> u64 {
        bytes.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }

    fn text(hash: u64) -> String {
        let bytes = hash.to_be_bytes();
        String::from_utf8_lossy(&bytes).trim_start_matches('\0').to_owned()
    }

    #[test]
    fn the_key_is_hashed_or_else_the_address() {
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let host = HashKey::Header(HOST);
        let cookie = HashKey::Cookie("id".into());
        #[rustfmt::skip]
        let cases: [Case<'_>; 8] = [
            (&HashKey::ClientAddress, &[],                              "1234"),
            (&HashKey::Path,          &[],                              "/a/b"),
            (&header,                 &["X-User: me", "x-user: you"],   "me"),
            (&header,                 &[],                              "1234"),
            (&host,                   &[],                              "a.test"),
            (&cookie,                 &["cookie: a=b; id=7; c=d"],      "7"),
            (&cookie,                 &["Cookie: idx=1", "cookie: id=8"], "8"),
            (&cookie,                 &["cookie: xid=1"],               "1234"),
        ];
        for (key, lines, expected) in cases {
            let lines = [&["host: a.test"], lines].concat();
            let request = fixture::request("GET /a/b?q HTTP/1.1", &lines);
            let hash = hash_of(key, IpAddr::from([49, 50, 51, 52]), &request, first_bytes);
            assert_eq!(text(hash), expected, "{key:?} {lines:?}");
        }
    }

    #[test]
    fn a_client_is_the_same_by_tcp_and_http_and_by_either_form_of_its_address() {
        let request = fixture::request("GET / HTTP/1.1", &["host: a"]);
        for client in ["49.50.51.52", "::ffff:49.50.51.52"] {
            let client: IpAddr = client.parse().expect("is an address");
            let by_http = hash_of(&HashKey::ClientAddress, client, &request, first_bytes);
            assert_eq!(text(by_http), "1234");
            assert_eq!(hash_of_address(client, first_bytes), by_http);
        }
    }
}
