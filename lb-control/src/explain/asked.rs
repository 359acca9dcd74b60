//! What is asked about: a request, as a client would write it that is given its parts, or a connection.
//!
//! A proxy's own codec reads it then, so that what is refused here is what a proxy refuses, in the
//! same words. Only what cannot be written as the part that it is given for (a name with a line's end
//! in it would be two lines) is a problem of the question.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderName, HeaderValue, Method};
use lb_common::spec::Scheme;
use lb_prelude::client_hello::ClientHello;
use lb_proto::{error::Problems, v1};

const VALID_URL: &str =
    "\"http://example.com:8080/path?query\", or \"/path\" with a Host among the headers";

/// A question, parsed.
#[derive(Debug)]
pub struct Asked {
    pub what: What,
    /// The client's address.
    pub from: IpAddr,
    /// The name of a listener, if one was given.
    pub listener: Option<String>,
    /// Where the URL says to connect.
    pub server: Option<Server>,
}

#[derive(Debug)]
pub enum What {
    /// Its head, with its empty line.
    Request(Vec<u8>),
    /// What the client says first, if it speaks TLS.
    Connection(Option<ClientHello>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub scheme: Scheme,
    pub host: String,
    /// If the URL says one.
    pub port: Option<u16>,
}

/// What a client makes of a URL.
#[derive(Debug, Default)]
struct Url {
    target: String,
    server: Option<Server>,
    /// What it sends as `Host`.
    host: Option<String>,
}

// === impl Asked ===

impl Asked {
    /// # Errors
    /// Everything that no client could send.
    pub fn parse(wire: v1::ExplainRequest) -> Result<Self, Problems> {
        if let Some(connection) = Connection::asked(&wire.url) {
            return connection.parse(&wire);
        }
        let v1::ExplainRequest { method, url, headers, from, listener, alpn } = wire;
        let mut problems = Problems::default();
        if !alpn.is_empty() {
            problems
                .add("alpn", "is for a connection by TLS; give a URL like \"tls://example.com\"");
        }
        let method = if method.is_empty() { "GET" } else { &method };
        if Method::from_bytes(method.as_bytes()).is_err() {
            problems.add("method", format!("{method:?} is not valid; give a method like GET"));
        }
        let parsed = match Url::parse(&url, method) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                problems.add("url", format!("{url:?} {why}; give {VALID_URL}"));
                None
            }
        };
        check_headers(&headers, &mut problems);
        let from = parse_from(&from, &mut problems);
        let Url { target, server, host } = problems.or(parsed)?.unwrap_or_default();

        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        let mut line = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
        if !headers.iter().any(|header| header.name.eq_ignore_ascii_case("host"))
            && let Some(host) = host
        {
            line("Host", &host);
        }
        for v1::Header { name, value } in &headers {
            line(name, value);
        }
        head.push_str("\r\n");
        let what = What::Request(head.into_bytes());
        Ok(Self { what, from, listener: named(listener), server })
    }

    /// Whether it is a connection by TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.what, What::Connection(Some(_)))
    }
}

// === impl Connection ===

/// A URL of a connection.
#[derive(Clone, Copy)]
struct Connection<'a> {
    is_tls: bool,
    /// After the scheme.
    rest: &'a str,
}

impl<'a> Connection<'a> {
    fn asked(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let is_tls = scheme.eq_ignore_ascii_case("tls");
        (is_tls || scheme.eq_ignore_ascii_case("tcp")).then_some(Self { is_tls, rest })
    }

    fn parse(self, wire: &v1::ExplainRequest) -> Result<Asked, Problems> {
        let v1::ExplainRequest { method, url, headers, from, listener, alpn } = wire;
        let mut problems = Problems::default();
        if !(method.is_empty() || method.eq_ignore_ascii_case("tcp")) {
            problems.add("method", format!("{method:?} is none of a connection; give \"TCP\""));
        }
        if !headers.is_empty() {
            problems.add("headers", "are none of a connection; give none");
        }
        if !(self.is_tls || alpn.is_empty()) {
            problems
                .add("alpn", "is for a connection by TLS; give a URL like \"tls://example.com\"");
        }
        for (i, protocol) in alpn.iter().enumerate() {
            if !(1..=255).contains(&protocol.len()) {
                let message = "is not valid; give a protocol like h2, of 1 to 255 bytes";
                problems.add(format!("alpn[{i}]"), message);
            }
        }
        let server = match split(self.rest.strip_suffix('/').unwrap_or(self.rest)) {
            Ok((host, port)) if !host.contains(['/', '?', '#', '@', ' ']) => Some((host, port)),
            other => {
                let why = other.err().unwrap_or("is more than a host and a port");
                let valid = "\"tls://example.com:443\" or \"tcp://10.0.0.1:5432\"";
                problems.add("url", format!("{url:?} {why}; give {valid}"));
                None
            }
        };
        let from = parse_from(from, &mut problems);
        let (host, port) = problems.or(server)?.unwrap_or_default();
        // Of an address, clients say no name (RFC 6066, section 3).
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let name = Some(host.strip_suffix('.').unwrap_or(host)).filter(|_| !is_address);
        let protocols = alpn.iter().map(|text| text.as_bytes());
        let hello = self.is_tls.then(|| ClientHello::offering(name, protocols));
        let scheme = if self.is_tls { Scheme::Https } else { Scheme::Http };
        let server = Some(Server { scheme, host: host.into(), port });
        Ok(Asked { what: What::Connection(hello), from, listener: named(listener.clone()), server })
    }
}

fn named(listener: String) -> Option<String> {
    Some(listener).filter(|listener| !listener.is_empty())
}

// === impl Url ===

impl Url {
    /// Says what is wrong with it otherwise.
    fn parse(text: &str, method: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is no URL");
        }
        if text.bytes().any(|c| c <= b' ' || c == 0x7f) {
            return Err("has white space or control characters in it");
        }
        if text.starts_with('/') || text == "*" {
            return Ok(Self { target: text.into(), ..Self::default() });
        }
        let is_connect = method == "CONNECT";
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some(_) => return Err("is no http URL"),
            // Its target is nothing but a host and a port.
            None if is_connect => {
                let (host, port) = split(text)?;
                let server = Some(Server { scheme: Scheme::Http, host: host.into(), port });
                return Ok(Self { target: text.into(), server, host: Some(text.into()) });
            }
            None => return Err("says no scheme"),
        };
        // Clients keep the fragment to themselves.
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("has user information in it, which clients send as a header");
        }
        let (host, port) = split(authority)?;
        let target = match port.unwrap_or(default_port(scheme)) {
            port if is_connect => format!("{host}:{port}"),
            _ if path.starts_with('/') => path.into(),
            _ => format!("/{path}"),
        };
        let server = Some(Server { scheme, host: host.into(), port });
        // Clients leave the default port out.
        let host = match port.filter(|port| *port != default_port(scheme)) {
            None => host.into(),
            Some(port) => format!("{host}:{port}"),
        };
        Ok(Self { target, server, host: Some(host) })
    }
}

/// A URL without a port has this one.
pub fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// The host, whatever it is, and the port if there is one.
fn split(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let after_brackets = authority.rfind(']').unwrap_or(0);
    let (host, port) = match authority[after_brackets..].split_once(':') {
        Some((rest, port)) => (&authority[..after_brackets + rest.len()], port),
        None => (authority, ""),
    };
    let port = match port.parse() {
        _ if port.is_empty() => None,
        Ok(number @ 1..) if port.bytes().all(|c| c.is_ascii_digit()) => Some(number),
        _ => return Err("has no valid port"),
    };
    if host.is_empty() {
        return Err("names no host");
    }
    Ok((host, port))
}

/// Each must be one line. What the lines mean is for the proxies to say.
fn check_headers(wire: &[v1::Header], problems: &mut Problems) {
    for (i, v1::Header { name, value }) in wire.iter().enumerate() {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("{name:?} is not valid; give a header name like x-user");
            problems.add(format!("headers[{i}].name"), message);
        }
        if HeaderValue::from_bytes(value.as_bytes()).is_err() {
            let message = format!("{value:?} is not valid; give text without control characters");
            problems.add(format!("headers[{i}].value"), message);
        }
    }
}

fn parse_from(text: &str, problems: &mut Problems) -> IpAddr {
    if text.is_empty() {
        return Ipv4Addr::LOCALHOST.into();
    }
    text.parse().unwrap_or_else(|_| {
        let message = format!("{text:?} is not valid; give an IP address like 192.0.2.1");
        problems.add("from", message);
        Ipv4Addr::LOCALHOST.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method, URL, headers; the first line, the host, and the server.
    type Url<'a> = (
        &'a str,
        &'a str,
        &'a [(&'a str, &'a str)],
        &'a str,
        Option<&'a str>,
        Option<(&'a str, Option<u16>)>,
    );
    /// Method, URL, headers; what is told.
    type Wrong<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

    fn parse(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Asked, String> {
        let header = |(name, value): &(&str, &str)| v1::Header {
            name: (*name).into(),
            value: (*value).into(),
        };
        let headers = headers.iter().map(header).collect();
        let (method, url) = (method.into(), url.into());
        let wire = v1::ExplainRequest { method, url, headers, ..<_>::default() };
        Asked::parse(wire).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_url_becomes_what_a_client_would_send() {
        #[rustfmt::skip]
        let cases: [Url<'_>; 16] = [
            ("",        "http://a.test/p?q=1",    &[],                  "GET /p?q=1",  Some("a.test"),    Some(("a.test", None))),
            ("GET",     "http://a.test",          &[],                  "GET /",       Some("a.test"),    Some(("a.test", None))),
            ("GET",     "HTTP://a.test?q",        &[],                  "GET /?q",     Some("a.test"),    Some(("a.test", None))),
            ("GET",     "http://a.test:80/",      &[],                  "GET /",       Some("a.test"),    Some(("a.test", Some(80)))),
            ("GET",     "http://a.test:/",        &[],                  "GET /",       Some("a.test"),    Some(("a.test", None))),
            ("GET",     "http://[::1]:8080/x#f",  &[],                  "GET /x",      Some("[::1]:8080"), Some(("[::1]", Some(8080)))),
            ("GET",     "http://a.test#@b.test/", &[],                  "GET /",       Some("a.test"),    Some(("a.test", None))),
            ("GET",     "https://a.test:443/p",   &[],                  "GET /p",      Some("a.test"),    Some(("a.test", Some(443)))),
            ("GET",     "https://a.test:80/p",    &[],                  "GET /p",      Some("a.test:80"), Some(("a.test", Some(80)))),
            ("get",     "http://a.test/",         &[("Host", " b ")],   "get /",       Some("b"),         Some(("a.test", None))),
            ("PUT",     "/p",                     &[("host", "b:1")],   "PUT /p",      Some("b:1"),       None),
            ("PUT",     "/p#f",                   &[],                  "PUT /p#f",    None,              None),
            ("OPTIONS", "*",                      &[("host", "b")],     "OPTIONS *",   Some("b"),         None),
            ("CONNECT", "a.test:443",             &[],                  "CONNECT a.test:443", Some("a.test:443"), Some(("a.test", Some(443)))),
            ("CONNECT", "http://a.test/",         &[],                  "CONNECT a.test:80", Some("a.test"), Some(("a.test", None))),
            ("CONNECT", "a.test",                 &[],                  "CONNECT a.test", Some("a.test"), Some(("a.test", None))),
        ];
        for (method, url, headers, line, host, server) in cases {
            let asked = parse(method, url, headers).expect(url);
            let host = host.map(|host| format!("Host: {host}\r\n"));
            let What::Request(head) = asked.what else { panic!("{url}: it is a request") };
            let head = String::from_utf8(head).expect("is text");
            let lines = head.strip_prefix(line).and_then(|rest| rest.strip_prefix(" HTTP/1.1\r\n"));
            let given = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
            let expected = if headers.is_empty() { host } else { Some(given.collect()) };
            let expected = format!("{}\r\n", expected.unwrap_or_default());
            assert_eq!(lines, Some(&*expected), "{url}: {head:?}");
            let is_https = url.starts_with("https:");
            let scheme = if is_https { Scheme::Https } else { Scheme::Http };
            let server = server.map(|(host, port)| Server { scheme, host: host.into(), port });
            assert_eq!(asked.server, server, "{url}");
            assert_eq!(asked.from, IpAddr::from([127, 0, 0, 1]));
        }
    }

    fn connection(url: &str, alpn: &[&str]) -> Result<Asked, String> {
        let alpn = alpn.iter().map(|text| (*text).to_owned()).collect();
        let wire = v1::ExplainRequest { url: url.into(), alpn, ..<_>::default() };
        Asked::parse(wire).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_url_of_a_connection_says_whom_the_client_wants() {
        for (url, name, port) in [
            ("tls://A.test:8443", Some("a.test"), Some(8443)),
            ("TLS://a.test./", Some("a.test"), None),
            ("tls://10.0.0.1:1", None, Some(1)),
            ("tls://[::1]", None, None),
        ] {
            let asked = connection(url, &["h2", "x"]).expect(url);
            let server = asked.server.as_ref().expect("it names one");
            assert_eq!((server.port, asked.is_tls()), (port, true), "{url}");
            let What::Connection(Some(hello)) = asked.what else { panic!("{url}") };
            assert_eq!(hello.server_name.as_deref(), name, "{url}");
            assert_eq!(hello.protocols.iter().collect::<Vec<_>>(), [&b"h2"[..], b"x"]);
        }
        let plain = connection("tcp://db:5432", &[]).expect("it is right");
        assert!(matches!(plain.what, What::Connection(None)));
        for (url, alpn, told) in [
            (
                "tls://a.test/path",
                &[][..],
                "url: \"tls://a.test/path\" is more than a host and a port; give",
            ),
            ("tls://:443", &[], "url: \"tls://:443\" names no host; give"),
            ("tcp://a:0", &[], "url: \"tcp://a:0\" has no valid port; give"),
            ("tls://a", &["h2", ""], "alpn[1]: is not valid; give a protocol like h2"),
            ("tcp://a:1", &["h2"], "alpn: is for a connection by TLS"),
            ("http://a/", &["h2"], "alpn: is for a connection by TLS"),
        ] {
            let refused = connection(url, alpn).expect_err(url);
            assert!(refused.starts_with(told), "{refused}");
        }
        let with = |method: &str, headers| {
            let (method, url) = (method.into(), "tls://a".into());
            let wire = v1::ExplainRequest { method, url, headers, ..<_>::default() };
            Asked::parse(wire).map(|_| ()).map_err(|problems| problems.to_string())
        };
        assert_eq!(with("tcp", vec![]), Ok(()));
        let told = with("GET", vec![v1::Header::default()]).expect_err("it is no request");
        assert_eq!(
            told,
            "method: \"GET\" is none of a connection; give \"TCP\"\nheaders: are none of a connection; give none"
        );
    }

    #[test]
    fn what_no_client_could_send_is_told_by_field_with_what_would_be_valid() {
        #[rustfmt::skip]
        let cases: [Wrong<'_>; 12] = [
            ("G T", "/",                 &[],              "method: \"G T\" is not valid; give a method like GET"),
            ("GET", "",                  &[],              "url: \"\" is no URL; give \"http://"),
            ("GET", "/a b",              &[],              "url: \"/a b\" has white space or control characters in it; give \"http://"),
            ("GET", "/ HTTP/1.1\r\nX: y", &[],             "url: \"/ HTTP/1.1\\r\\nX: y\" has white space"),
            ("GET", "a.test",            &[],              "url: \"a.test\" says no scheme; give \"http://"),
            ("GET", "ftp://a.test/",     &[],              "url: \"ftp://a.test/\" is no http URL"),
            ("GET", "http://u@a.test/",  &[],              "url: \"http://u@a.test/\" has user information"),
            ("GET", "http:///a",         &[],              "url: \"http:///a\" names no host"),
            ("GET", "http://a.test:99999/", &[],           "url: \"http://a.test:99999/\" has no valid port"),
            ("GET", "http://a.test:+8/", &[],              "url: \"http://a.test:+8/\" has no valid port"),
            ("GET", "/",                 &[("a", "1"), ("x y", "\n")], "headers[1].name: \"x y\" is not valid; give a header name like x-user\nheaders[1].value: \"\\n\" is not valid"),
            ("GET", "/",                 &[("", "1")],     "headers[0].name: \"\" is not valid"),
        ];
        for (method, url, headers, expected) in cases {
            let told = parse(method, url, headers).expect_err(url);
            assert!(told.starts_with(expected), "{told:?} instead of {expected:?}");
        }
        let wire = v1::ExplainRequest { url: "/".into(), from: "here".into(), ..<_>::default() };
        let told = Asked::parse(wire).expect_err("is no address").to_string();
        assert_eq!(told, "from: \"here\" is not valid; give an IP address like 192.0.2.1");
    }
}
