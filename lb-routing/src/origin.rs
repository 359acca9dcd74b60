//! Who a request is from: the client at the other end of its connection, or, if that is a balancer
//! which is trusted, whom that says it is from.
//!
//! Each that passes a request on puts the address that it got it from behind those that came with it
//! (`X-Forwarded-For`, or `for` of RFC 7239's `Forwarded`). So the last one was said by who is connected,
//! the one before it by that one, and so on. The last that is nobody trusted is the client; what comes
//! before it was said by the client itself, and may be anything.
//!
//! Scheme, host and port are those that were said at the same place, if they are lists, too.

use std::net::IpAddr;

use lb_common::{
    network::Networks,
    spec::{ForwardedHeader, Scheme},
};
use lb_http::message::{Name, Request};

/// Who a request is from, and what its client asked for as that saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    pub address: IpAddr,
    pub scheme: Scheme,
    /// With the port, if one was said. Empty if there is none.
    pub host: &'a [u8],
    /// If another one was said than that of the host.
    pub port: Option<u16>,
    /// It came through somebody trusted.
    pub is_passed_on: bool,
}

/// So many that passed a request on are followed.
const MOST_HOPS: usize = 64;

impl<'a> Origin<'a> {
    /// `from` is who is connected, and `scheme` how.
    pub fn of(
        request: &'a Request,
        from: IpAddr,
        scheme: Scheme,
        trusted: &Networks,
        header: ForwardedHeader,
    ) -> Self {
        let itself = Self {
            address: from,
            scheme,
            host: request.authority(),
            port: None,
            is_passed_on: false,
        };
        if trusted.is_empty() || !trusted.contains(from) {
            return itself;
        }
        let itself = Self { is_passed_on: true, ..itself };
        match header {
            ForwardedHeader::XForwarded => itself.by_x_forwarded(request, trusted),
            ForwardedHeader::Forwarded => itself.by_forwarded(request, trusted),
        }
    }

    /// The port that the client came to: the one that was said, or that of the host, or that of the
    /// scheme.
    pub fn port(&self) -> u16 {
        let default = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        self.port.or_else(|| port_of(self.host)).unwrap_or(default)
    }

    fn by_x_forwarded(mut self, request: &'a Request, trusted: &Networks) -> Self {
        let mut hops = 0;
        for element in from_end(request, Name::XForwardedFor) {
            hops += 1;
            if !self.follow(element, hops, trusted) {
                break;
            }
        }
        let said = |name| from_end(request, name).take(hops.max(1)).last();
        if let Some(scheme) = said(Name::XForwardedProto).and_then(scheme) {
            self.scheme = scheme;
        }
        if let Some(host) = said(Name::XForwardedHost).filter(|host| is_host(host)) {
            self.host = host;
        }
        self.port = said(Name::XForwardedPort).and_then(number);
        self
    }

    fn by_forwarded(mut self, request: &'a Request, trusted: &Networks) -> Self {
        let elements = request.fields.all(Name::Forwarded).rev().flat_map(elements_from_end);
        for (hops, element) in (1..).zip(elements) {
            let mut address: &[u8] = b"";
            let (mut scheme_said, mut host_said) = (None, None);
            for pair in pairs(element) {
                let Some((name, value)) = pair_of(pair) else { continue };
                match () {
                    () if name.eq_ignore_ascii_case(b"for") => address = value,
                    () if name.eq_ignore_ascii_case(b"proto") => scheme_said = scheme(value),
                    () if name.eq_ignore_ascii_case(b"host") => {
                        host_said = Some(value).filter(|host| is_host(host));
                    }
                    () => {}
                }
            }
            let goes_on = self.follow(address, hops, trusted);
            self.scheme = scheme_said.unwrap_or(self.scheme);
            self.host = host_said.unwrap_or(self.host);
            if !goes_on {
                break;
            }
        }
        self
    }

    /// It is from there. Returns whether whoever is there is believed from whom it has it.
    fn follow(&mut self, element: &[u8], hops: usize, trusted: &Networks) -> bool {
        // Whoever does not say from whom it has it is the last that is known.
        let Some(address) = address(element) else { return false };
        self.address = address;
        hops < MOST_HOPS && trusted.contains(address)
    }
}

/// The elements of a list, the last one first.
fn from_end(request: &Request, name: Name) -> impl Iterator<Item = &[u8]> {
    let elements = request.fields.all(name).rev().flat_map(|value| value.rsplit(|c| *c == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The elements of `Forwarded`, the last one first. Read from the end, because what is trusted has put its
/// own there: a quote without an end that came before it does not reach it.
fn elements_from_end(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    let elements = std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        for (i, c) in text.iter().enumerate().rev() {
            match c {
                b'"' if !is_escaped(&text[..i]) => is_quoted = !is_quoted,
                b',' if !is_quoted => {
                    rest = Some(&text[..i]);
                    return Some(&text[i + 1..]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    });
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether what follows this is escaped by it.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|c| **c == b'\\').count() % 2 == 1
}

/// The parts of an element. What is in quotes may be what a client said, its `Host` for instance.
fn pairs(element: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = element.split(move |c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            b'"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        *c == b';' && !is_quoted
    });
    parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty())
}

/// A name and its value, without the quotes around that. What is escaped in it is not for any of the
/// values that are read.
fn pair_of(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', pair)?;
    let (name, value) = (&pair[..at], &pair[at + 1..]);
    let value =
        value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    Some((name, value))
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
/// `unknown` and names that hide something are none.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let alone = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => match text.split_once(':') {
            Some((before, after)) if !after.contains(':') => before,
            _ => text,
        },
    };
    Some(alone.parse::<IpAddr>().ok()?.to_canonical())
}

fn scheme(text: &[u8]) -> Option<Scheme> {
    match () {
        () if text.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
        () if text.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
        // Some say so of a WebSocket.
        () if text.eq_ignore_ascii_case(b"ws") => Some(Scheme::Http),
        () if text.eq_ignore_ascii_case(b"wss") => Some(Scheme::Https),
        () => None,
    }
}

/// Whether it has nothing in it that a host and a port do not have.
fn is_host(text: &[u8]) -> bool {
    let fits = |c: &u8| c.is_ascii_alphanumeric() || b"-._:[]".contains(c);
    (1..=255).contains(&text.len()) && text.iter().all(fits)
}

fn port_of(host: &[u8]) -> Option<u16> {
    let colon = memchr::memrchr(b':', host)?;
    number(&host[colon + 1..])
}

fn number(text: &[u8]) -> Option<u16> {
    let is_number = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let number: u32 = is_number
        .then(|| text.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))?;
    u16::try_from(number).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use lb_common::network;

    use super::*;
    use crate::fixture;

    /// Lines of a request, and what comes of them.
    type Case<'a, T> = (&'a [&'a str], T);

    fn trusted() -> Networks {
        Networks::new(vec![
            network::parse("10.0.0.0/8").expect("a network"),
            network::parse("2001:db8::/32").expect("a network"),
        ])
    }

    /// What comes of a request from 10.0.0.1: address, scheme, host and port.
    fn found(header: ForwardedHeader, lines: &[&str]) -> (String, Scheme, String, u16) {
        let lines = [&["host: own.test:8080"], lines].concat();
        let request = fixture::request("GET / HTTP/1.1", &lines);
        let from = IpAddr::from([10, 0, 0, 1]);
        let origin = Origin::of(&request, from, Scheme::Http, &trusted(), header);
        assert!(origin.is_passed_on);
        let host = String::from_utf8_lossy(origin.host).into_owned();
        (origin.address.to_string(), origin.scheme, host, origin.port())
    }

    #[track_caller]
    fn check(header: ForwardedHeader, lines: &[&str], expected: (&str, Scheme, &str, u16)) {
        let (address, scheme, host, port) = expected;
        assert_eq!(found(header, lines), (address.into(), scheme, host.into(), port), "{lines:?}");
    }

    use ForwardedHeader::{Forwarded, XForwarded};
    use Scheme::{Http, Https};

    #[test]
    fn the_last_address_that_is_nobody_trusted_is_the_client() {
        #[rustfmt::skip]
        let cases: [Case<'_, &str>; 14] = [
            (&[],                                                              "10.0.0.1"),
            (&["x-forwarded-for: 192.0.2.1"],                                  "192.0.2.1"),
            (&["x-forwarded-for: 6.6.6.6, 192.0.2.1, 10.9.9.9"],               "192.0.2.1"),
            (&["x-forwarded-for: 6.6.6.6", "x-forwarded-for: 192.0.2.1,10.9.9.9"], "192.0.2.1"),
            (&["x-forwarded-for: 10.0.0.7, 10.9.9.9"],                         "10.0.0.7"),
            (&["x-forwarded-for: 192.0.2.1, unknown, 10.9.9.9"],               "10.9.9.9"),
            (&["x-forwarded-for: 192.0.2.1, _hidden"],                         "10.0.0.1"),
            (&["x-forwarded-for: 192.0.2.1:4711 ,, "],                         "192.0.2.1"),
            (&["x-forwarded-for: [2001:db8::1]:4711, 2001:db8::2"],            "2001:db8::1"),
            (&["x-forwarded-for: 2a00::1, [2001:db8::2]"],                     "2a00::1"),
            (&["x-forwarded-for: ::ffff:192.0.2.1"],                           "192.0.2.1"),
            (&["x-forwarded-for: 1.2.3.4.5"],                                  "10.0.0.1"),
            (&["x-forwarded-for: 192.0.2.1", "forwarded: for=6.6.6.6"],        "192.0.2.1"),
            (&["forwarded: for=6.6.6.6", "x-real-ip: 6.6.6.6"],                "10.0.0.1"),
        ];
        for (lines, expected) in cases {
            assert_eq!(found(XForwarded, lines).0, expected, "{lines:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        let lines = ["host: a", "x-forwarded-for: 6.6.6.6", "x-forwarded-proto: https"];
        let request = fixture::request("GET / HTTP/1.1", &lines);
        let from = IpAddr::from([192, 0, 2, 1]);
        for networks in [trusted(), Networks::default()] {
            let origin = Origin::of(&request, from, Http, &networks, XForwarded);
            assert!(!origin.is_passed_on);
            assert_eq!((origin.address, origin.scheme, origin.port()), (from, Http, 80));
        }
    }

    #[test]
    fn scheme_host_and_port_are_those_of_the_clients_place() {
        let own = "own.test:8080";
        let list = ["x-forwarded-for: 192.0.2.1, 10.0.0.3"];
        #[rustfmt::skip]
        let cases: [Case<'_, (Scheme, &str, u16)>; 9] = [
            (&[],                                             (Http, own, 8080)),
            (&["x-forwarded-proto: https"],                   (Https, own, 8080)),
            (&["x-forwarded-proto: https, http"],             (Https, own, 8080)),
            (&["x-forwarded-proto: http, https, http"],       (Https, own, 8080)),
            (&["x-forwarded-proto: WSS", "x-forwarded-host: a.test"], (Https, "a.test", 443)),
            (&["x-forwarded-proto: gopher"],                  (Http, own, 8080)),
            (&["x-forwarded-host: a.test:81"],                (Http, "a.test:81", 81)),
            (&["x-forwarded-host: a\"b", "x-forwarded-port: 0"], (Http, own, 8080)),
            (&["x-forwarded-port: 8443"],                     (Http, own, 8443)),
        ];
        for (lines, (scheme, host, port)) in cases {
            let lines = [&list, lines].concat();
            check(XForwarded, &lines, ("192.0.2.1", scheme, host, port));
        }
    }

    #[test]
    fn the_standards_header_is_read_with_its_quotes() {
        let own = "own.test:8080";
        #[rustfmt::skip]
        let cases: [Case<'_, (&str, Scheme, &str, u16)>; 12] = [
            (&["forwarded: for=192.0.2.1"], ("192.0.2.1", Http, own, 8080)),
            (&["forwarded: For=\"[2a00::1]:80\";proto=https ; host=\"a.test\""], ("2a00::1", Https, "a.test", 443)),
            (&["forwarded: for=6.6.6.6, for=192.0.2.1;proto=https, for=10.1.1.1;proto=http"], ("192.0.2.1", Https, own, 8080)),
            (&["forwarded: for=192.0.2.1;by=\"a,b;for=6.6.6.6\""], ("192.0.2.1", Http, own, 8080)),
            (&["forwarded: for=192.0.2.1;by=\"\\\",for=6.6.6.6\""], ("192.0.2.1", Http, own, 8080)),
            (&["forwarded: for=unknown"], ("10.0.0.1", Http, own, 8080)),
            (&["forwarded: proto=https"], ("10.0.0.1", Https, own, 8080)),
            (&["forwarded: for=10.0.0.5;proto=https;host=evil.test;x=\", for=192.0.2.1;proto=http"], ("192.0.2.1", Http, own, 8080)),
            (&["forwarded: \", for=\"[2a00::1]\""], ("2a00::1", Http, own, 8080)),
            (&["forwarded: x=\"\\, for=192.0.2.1"], ("192.0.2.1", Http, own, 8080)),
            (&["forwarded: for=192.0.2.1;host=\"a;for=6.6.6.6;x=\\\";for=6.6.6.6\""], ("192.0.2.1", Http, own, 8080)),
            (&["forwarded: nothing", "x-forwarded-for: 6.6.6.6"], ("10.0.0.1", Http, own, 8080)),
        ];
        for (lines, expected) in cases {
            check(Forwarded, lines, expected);
        }
    }

    #[test]
    fn not_more_than_so_many_are_followed() {
        let long = format!("x-forwarded-for: 192.0.2.1{}", ", 10.0.0.2".repeat(MOST_HOPS));
        assert_eq!(found(XForwarded, &[&long]).0, "10.0.0.2");
        let long = format!("x-forwarded-for: 192.0.2.1{}", ", 10.0.0.2".repeat(MOST_HOPS - 1));
        assert_eq!(found(XForwarded, &[&long]).0, "192.0.2.1");
    }
}
