//! The request that is asked about, as a proxy would read it from a client that is given its parts.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header::HOST};
use lb_proto::{error::Problems, v1};

const VALID_URL: &str =
    "\"http://example.com:8080/path?query\", or \"/path\" with a Host among the headers";

/// A question, parsed.
#[derive(Debug)]
pub struct Asked {
    pub request: Request<()>,
    /// The client's address.
    pub from: IpAddr,
    /// The name of a listener, if one was given.
    pub listener: Option<String>,
    /// Where the URL says to connect.
    pub server: Option<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
}

// === impl Asked ===

impl Asked {
    /// # Errors
    /// Everything that no client could send.
    pub fn parse(wire: v1::ExplainRequest) -> Result<Self, Problems> {
        let v1::ExplainRequest { method, url, headers, from, listener } = wire;
        let mut problems = Problems::default();
        let method = parse_method(&method, &mut problems);
        let url = parse_url(&url, &method, &mut problems);
        let mut headers = parse_headers(&headers, &mut problems);
        let from = parse_from(&from, &mut problems);
        let (target, server, host) = problems.or(url)?.unwrap_or_default();
        if !headers.contains_key(HOST) {
            headers.extend(host.map(|host| (HOST, host)));
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        let listener = Some(listener).filter(|listener| !listener.is_empty());
        Ok(Self { request, from, listener, server })
    }
}

fn parse_method(text: &str, problems: &mut Problems) -> Method {
    let text = if text.is_empty() { "GET" } else { text };
    Method::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        problems.add("method", format!("{text:?} is not valid; give a method like GET"));
        Method::default()
    })
}

/// The request's target, the server to connect to, and the `Host` that clients send for it.
type Url = (Uri, Option<Server>, Option<HeaderValue>);

fn parse_url(text: &str, method: &Method, problems: &mut Problems) -> Option<Url> {
    let mut invalid = |why: &str| {
        problems.add("url", format!("{text:?} {why}; give {VALID_URL}"));
        None
    };
    if text.is_empty() {
        return invalid("is no URL");
    }
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => return invalid(&format!("is not valid: {error}")),
    };
    let Some(authority) = uri.authority() else { return Some((uri, None, None)) };
    match uri.scheme_str() {
        Some("http") => {}
        // Its target is nothing but a host and a port.
        None if *method == Method::CONNECT => {}
        Some("https") => return invalid("needs TLS, which listeners do not speak"),
        Some(_) => return invalid("is no http URL"),
        None => return invalid("says no scheme"),
    }
    if authority.as_str().contains('@') {
        return invalid("has user information in it, which clients send as a header");
    }
    let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
        None => 80,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return invalid("has no valid port"),
        },
    };
    // Clients leave the default port out.
    let host = authority.as_str().strip_suffix(":80").unwrap_or(authority.as_str());
    let Ok(host) = HeaderValue::from_str(host) else { return invalid("has no valid host") };
    let server = Server { host: authority.host().to_owned(), port };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    match format!("{}{query}", uri.path()).parse() {
        Ok(target) => Some((target, Some(server), Some(host))),
        // A CONNECT has no path at all.
        Err(_) => Some((uri, Some(server), Some(host))),
    }
}

fn parse_headers(wire: &[v1::Header], problems: &mut Problems) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (i, v1::Header { name, value }) in wire.iter().enumerate() {
        let parsed_name = HeaderName::from_bytes(name.as_bytes());
        if parsed_name.is_err() {
            let message = format!("{name:?} is not valid; give a header name like x-user");
            problems.add(format!("headers[{i}].name"), message);
        }
        // White space around a value is not part of it.
        let parsed_value = HeaderValue::from_str(value.trim_matches([' ', '\t']));
        if parsed_value.is_err() {
            let message = format!("{value:?} is not valid; give text without control characters");
            problems.add(format!("headers[{i}].value"), message);
        }
        if let (Ok(name), Ok(value)) = (parsed_name, parsed_value)
            && headers.try_append(name, value).is_err()
        {
            problems.add("headers", "there are too many; give fewer than 10000");
            break;
        }
    }
    headers
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

    /// Method, URL, headers; the request's line, its host, and the server.
    type Url<'a> = (
        &'a str,
        &'a str,
        &'a [(&'a str, &'a str)],
        &'a str,
        Option<&'a str>,
        Option<(&'a str, u16)>,
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
        let cases: [Url<'_>; 10] = [
            ("",        "http://a.test/p?q=1",    &[],                  "GET /p?q=1",  Some("a.test"),    Some(("a.test", 80))),
            ("GET",     "http://a.test",          &[],                  "GET /",       Some("a.test"),    Some(("a.test", 80))),
            ("GET",     "http://a.test?q",        &[],                  "GET /?q",     Some("a.test"),    Some(("a.test", 80))),
            ("GET",     "http://a.test:80/",      &[],                  "GET /",       Some("a.test"),    Some(("a.test", 80))),
            ("GET",     "http://[::1]:8080/x#f",  &[],                  "GET /x",      Some("[::1]:8080"), Some(("[::1]", 8080))),
            ("get",     "http://a.test/",         &[("Host", " b ")],   "get /",       Some("b"),         Some(("a.test", 80))),
            ("PUT",     "/p",                     &[("host", "b:1")],   "PUT /p",      Some("b:1"),       None),
            ("PUT",     "/p",                     &[],                  "PUT /p",      None,              None),
            ("OPTIONS", "*",                      &[("host", "b")],     "OPTIONS *",   Some("b"),         None),
            ("CONNECT", "a.test:443",             &[],                  "CONNECT a.test:443", Some("a.test:443"), Some(("a.test", 443))),
        ];
        for (method, url, headers, line, host, server) in cases {
            let asked = parse(method, url, headers).expect(url);
            assert_eq!(format!("{} {}", asked.request.method(), asked.request.uri()), line);
            let given = asked.request.headers().get(HOST).and_then(|host| host.to_str().ok());
            assert_eq!(given, host, "{url}");
            let server = server.map(|(host, port)| Server { host: host.into(), port });
            assert_eq!(asked.server, server, "{url}");
            assert_eq!(asked.from, IpAddr::from([127, 0, 0, 1]));
        }
    }

    #[test]
    fn what_no_client_could_send_is_told_by_field_with_what_would_be_valid() {
        #[rustfmt::skip]
        let cases: [Wrong<'_>; 9] = [
            ("G T", "/",                 &[],              "method: \"G T\" is not valid; give a method like GET"),
            ("GET", "",                  &[],              "url: \"\" is no URL; give \"http://"),
            ("GET", "/a b",              &[],              "url: \"/a b\" is not valid: "),
            ("GET", "a.test",            &[],              "url: \"a.test\" says no scheme; give \"http://"),
            ("GET", "https://a.test/",   &[],              "url: \"https://a.test/\" needs TLS"),
            ("GET", "ftp://a.test/",     &[],              "url: \"ftp://a.test/\" is no http URL"),
            ("GET", "http://u@a.test/",  &[],              "url: \"http://u@a.test/\" has user information"),
            ("GET", "http://a.test:99999/", &[],           "url: \"http://a.test:99999/\" "),
            ("GET", "/",                 &[("a", "1"), ("x y", "\n")], "headers[1].name: \"x y\" is not valid; give a header name like x-user\nheaders[1].value: \"\\n\" is not valid"),
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
