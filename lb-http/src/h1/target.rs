//! Request targets and hosts (RFC 9112, section 3.2; RFC 3986, section 3.2).

use std::net::Ipv6Addr;

use super::syntax::{has_escapes, is_reg_name, is_reg_name_char, is_target, number};
use crate::message::{Form, Method, Span};

/// # Errors
/// What is wrong with it.
pub fn parse(target: &[u8], method: Method) -> Result<Form, &'static str> {
    if !is_target(target) {
        return Err("the target has a character that is not allowed there");
    }
    if method == Method::Connect {
        let (host, port) = split(target).ok_or("the target of a CONNECT is no host and port")?;
        return match is_host(host) && port.is_some_and(|port| !port.is_empty() && is_port(port)) {
            true => Ok(Form::Authority),
            false => Err("the target of a CONNECT is no host and port"),
        };
    }
    match target {
        [b'/', ..] => has_path(target).map(|()| Form::Origin),
        b"*" if method == Method::Options => Ok(Form::Asterisk),
        _ => absolute(target),
    }
}

fn absolute(target: &[u8]) -> Result<Form, &'static str> {
    let after = |scheme: &[u8]| {
        let (given, rest) = target.split_at_checked(scheme.len())?;
        given.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let (rest, is_https) = match (after(b"http://"), after(b"https://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        (None, None) => return Err("the target is neither a path nor an http URL"),
    };
    let end = rest.iter().position(|c| matches!(c, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.contains(&b'@') {
        return Err("the target has user information in it");
    }
    if !is_authority(authority) {
        return Err("the target's host is not a host");
    }
    has_path(rest)?;
    let end = target.len() - rest.len();
    Ok(Form::Absolute {
        authority: Span::new(end - authority.len(), end),
        rest: Span::new(end, target.len()),
        is_https,
    })
}

/// Refuses a path whose escapes are none, and one with an escaped NUL, which ends it for a reader
/// that takes it for a string of C. A query is not looked into: a percent sign alone is common there.
fn has_path(text: &[u8]) -> Result<(), &'static str> {
    let path = memchr::memchr(b'?', text).map_or(text, |end| &text[..end]);
    match has_escapes(path) && memchr::memmem::find(path, b"%00").is_none() {
        true => Ok(()),
        false => Err("the path has an escape that is not allowed there"),
    }
}

/// Whether it is a host with or without a port.
pub fn is_authority(text: &[u8]) -> bool {
    split(text).is_some_and(|(host, port)| is_host(host) && port.is_none_or(is_port))
}

/// Whether both name the same server: letters' case, and a port that is the scheme's own, make no
/// difference.
pub fn is_same_authority(a: &[u8], b: &[u8], is_https: bool) -> bool {
    let default: &[u8] = if is_https { b"443" } else { b"80" };
    let parts = |text| {
        let (host, port) = split(text)?;
        Some((host, port.filter(|port| !port.is_empty() && *port != default)))
    };
    match (parts(a), parts(b)) {
        (Some((host, port)), Some((other_host, other_port))) => {
            host.eq_ignore_ascii_case(other_host) && port == other_port
        }
        _ => false,
    }
}

/// A host, with its brackets if it has some, and what follows its colon. `None` if brackets are
/// not closed, or followed by something else.
fn split(authority: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = match authority {
        [b'[', ..] => memchr::memchr(b']', authority)? + 1,
        _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(port))),
        _ => None,
    }
}

fn is_host(host: &[u8]) -> bool {
    match host {
        [b'[', b'v' | b'V', address @ .., b']'] => is_future_address(address),
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
        }
        name => is_reg_name(name),
    }
}

/// A version in hexadecimal, and an address of its kind (RFC 3986, section 3.2.2).
fn is_future_address(text: &[u8]) -> bool {
    let dot = memchr::memchr(b'.', text).unwrap_or(0);
    let (version, address) = text.split_at(dot);
    !version.is_empty()
        && version.iter().all(u8::is_ascii_hexdigit)
        && 1 < address.len()
        && address.iter().all(|c| (is_reg_name_char(*c) && *c != b'%') || *c == b':')
}

/// Empty is the scheme's own.
fn is_port(port: &[u8]) -> bool {
    port.is_empty() || number(port).is_some_and(|port| port <= u64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        #[rustfmt::skip]
        let cases = [
            ("a", true), ("a.test", true), ("a:80", true), ("a:", true), ("a:65535", true), ("1.2.3.4:1", true),
            ("[::1]", true), ("[::1]:80", true), ("a!$&'()*+,;=", true), ("a%20b", true), ("a_b", true),
            ("", false), (":80", false), ("a:65536", false), ("a:x", false), ("a:80:80", false), ("a:-1", false),
            ("[::1", false), ("[::1]x", false), ("::1", false), ("[::g]", false), ("a[b", false), ("[]", false),
            ("a b", false), ("a/b", false), ("a@b", false), ("a%2", false), ("a%zz", false), ("a\"", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_authority(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_default_port_and_the_case_make_no_difference() {
        #[rustfmt::skip]
        let cases = [
            ("a", "A:80", false, true), ("a", "a:443", true, true), ("a", "a:443", false, false),
            ("a:", "a", false, true), ("a:81", "a", false, false), ("a:082", "a:82", false, false), ("a:82", "a:81", false, false),
            ("a", "b", false, false), ("[::1]:80", "[::1]", false, true),
        ];
        for (a, b, is_https, expected) in cases {
            assert_eq!(
                is_same_authority(a.as_bytes(), b.as_bytes(), is_https),
                expected,
                "{a} {b}"
            );
        }
    }
}
