//! Which texts are names of servers.

use std::net::IpAddr;

/// The text is neither a name nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoName;

/// Of a name. (RFC 1035, section 3.1, without the length of the root.)
const MOST_NAME: usize = 253;
const MOST_LABEL: usize = 63;

/// A DNS name in lower case, without a dot at its end. `None` if it is an address, which is no name but
/// is sent as one by some clients.
pub fn server_name(bytes: &[u8]) -> Result<Option<Box<str>>, NoName> {
    let text = str::from_utf8(bytes).map_err(|_| NoName)?;
    if text.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    // A last label that is a number would make it an address to some readers.
    let is_name = text.len() <= MOST_NAME
        && name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(is_number);
    if is_name { Ok(Some(name.to_ascii_lowercase().into())) } else { Err(NoName) }
}

/// With underscores, as names have them that are no hosts' but are asked for all the same.
fn is_label(label: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    (1..=MOST_LABEL).contains(&label.len())
        && label.bytes().all(fits)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|c| c.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_dns_and_an_address_is_none() {
        let label = "a".repeat(63);
        let long = [&*label; 4].join(".");
        #[rustfmt::skip]
        let cases = [
            ("example.com",     Ok(Some("example.com"))),
            ("WWW.Example.COM", Ok(Some("www.example.com"))),
            ("example.com.",    Ok(Some("example.com"))),
            ("localhost",       Ok(Some("localhost"))),
            ("_dns.example",    Ok(Some("_dns.example"))),
            ("1.example",       Ok(Some("1.example"))),
            ("xn--mnchen-3ya.de", Ok(Some("xn--mnchen-3ya.de"))),
            (&label,            Ok(Some(&*label))),
            (&long[..253],      Ok(Some(&long[..253]))),
            ("192.0.2.1",       Ok(None)),
            ("2001:db8::1",     Ok(None)),
            ("",                Err(NoName)),
            (".",               Err(NoName)),
            ("a..b",            Err(NoName)),
            (".a",              Err(NoName)),
            ("-a.b",            Err(NoName)),
            ("a-.b",            Err(NoName)),
            ("a b",             Err(NoName)),
            ("a\0.b",           Err(NoName)),
            ("*.b",             Err(NoName)),
            ("b\u{fc}cher.de",  Err(NoName)),
            ("[2001:db8::1]",   Err(NoName)),
            ("a:443",           Err(NoName)),
            ("1.2.3",           Err(NoName)),
            ("a.0x1f",          Err(NoName)),
            (&long[..254],      Err(NoName)),
        ];
        for (text, expected) in cases {
            let found = server_name(text.as_bytes());
            assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().copied(), "{text}");
        }
        let longer = format!("{label}a");
        assert_eq!(server_name(longer.as_bytes()), Err(NoName));
        assert_eq!(server_name(b"\xff.a"), Err(NoName));
    }
}
