//! What of a request consistent hashing goes by.

use std::net::IpAddr;

use http::{Request, header::COOKIE};
use lb_common::spec::HashKey;

/// What of a request is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed<'a> {
    Key(&'a [u8]),
    /// The client's, because that is the key or because the request lacks the key.
    Address(IpAddr),
}

/// The hash of the key, or of the client's address if the request lacks the key.
pub fn hash_of<B>(
    key: &HashKey,
    client: IpAddr,
    request: &Request<B>,
    hash: impl Fn(&[u8]) -> u64,
) -> u64 {
    Hashed::of(key, client, request).hash(hash)
}

// === impl Hashed ===

impl<'a> Hashed<'a> {
    pub fn of<B>(key: &HashKey, client: IpAddr, request: &'a Request<B>) -> Self {
        let found = match key {
            HashKey::ClientAddress => None,
            HashKey::Path => Some(request.uri().path().as_bytes()),
            HashKey::Header(name) => request.headers().get(name).map(|value| value.as_bytes()),
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

fn cookie<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a [u8]> {
    let headers = request.headers().get_all(COOKIE).iter();
    let pairs = headers.flat_map(|value| value.as_bytes().split(|c| *c == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    type Case<'a> = (&'a HashKey, &'a [(&'a str, &'a str)], &'a str);

    /// Takes the first eight bytes for the hash, so that it says what was hashed.
    fn hashed(key: &HashKey, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().uri("/a/b?q");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let client = IpAddr::from([49, 50, 51, 52]);
        let hash = hash_of(key, client, &request, |bytes| {
            bytes.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
        });
        let bytes = hash.to_be_bytes();
        String::from_utf8_lossy(&bytes).trim_start_matches('\0').to_owned()
    }

    #[test]
    fn the_key_is_hashed_or_else_the_address() {
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let cookie = HashKey::Cookie("id".into());
        #[rustfmt::skip]
        let cases: [Case<'_>; 7] = [
            (&HashKey::ClientAddress, &[],                                      "1234"),
            (&HashKey::Path,          &[],                                      "/a/b"),
            (&header,                 &[("x-user", "me")],                      "me"),
            (&header,                 &[],                                      "1234"),
            (&cookie,                 &[("cookie", "a=b; id=7; c=d")],          "7"),
            (&cookie,                 &[("cookie", "idx=1"), ("cookie", "id=8")], "8"),
            (&cookie,                 &[("cookie", "xid=1")],                   "1234"),
        ];
        for (key, headers, expected) in cases {
            assert_eq!(hashed(key, headers), expected, "{key:?} {headers:?}");
        }
    }
}
