//! Where a redirect leads.

use http::StatusCode;
use lb_common::spec::{Redirect, Scheme};
use lb_http::{h1::RequestError, message::Request};

use crate::{origin::Origin, refusal::Refusal};

/// The same with TLS.
pub const TO_HTTPS: Redirect = Redirect {
    status: StatusCode::PERMANENT_REDIRECT,
    scheme: Some(Scheme::Https),
    host: None,
    path: None,
};

/// The request's own URL as its client has it, with the parts that the redirect replaces.
///
/// # Errors
/// If neither of them names a host, as a request of HTTP/1.0 need not.
pub fn location(to: &Redirect, request: &Request, own: &Origin<'_>) -> Result<Vec<u8>, Refusal> {
    let scheme: &[u8] = match to.scheme.unwrap_or(own.scheme) {
        Scheme::Https => b"https://",
        Scheme::Http => b"http://",
    };
    let given = own.host;
    let host = match (&to.host, to.scheme) {
        (Some(host), _) => host.as_bytes(),
        // Another scheme has another port.
        (None, Some(_)) => without_port(given),
        (None, None) => given,
    };
    if host.is_empty() {
        return Err(RequestError::Malformed("the redirect needs a host").into());
    }
    let path = match (&to.path, request.path()) {
        (Some(path), _) => path.as_bytes(),
        // It is about the server as a whole, whose URL has no path (RFC 9112, section 3.2.4).
        (None, b"*") => b"",
        (None, path) => path,
    };
    let mut location = [scheme, host, path].concat();
    if let Some(query) = request.query() {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    Ok(location)
}

fn without_port(authority: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', authority) {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        network::Networks,
        spec::{Action, ForwardedHeader},
    };

    use super::*;
    use crate::fixture;

    fn redirected(redirect: &str, line: &str, host: &[&str]) -> Result<String, String> {
        redirected_from(Scheme::Http, redirect, line, host)
    }

    fn redirected_from(
        own: Scheme,
        redirect: &str,
        line: &str,
        host: &[&str],
    ) -> Result<String, String> {
        let toml = format!("[[routes]]\nname = 'r'\nredirect = {{ {redirect} }}\n");
        let state = fixture::desired(&toml);
        let Action::Redirect(to) = &state.routes["r"].action else { panic!("{state:?}") };
        let request = fixture::request(line, host);
        let (nobody, header) = (Networks::default(), ForwardedHeader::XForwarded);
        let own = Origin::of(&request, [192, 0, 2, 1].into(), own, &nobody, header);
        let location = location(to, &request, &own);
        location.map(|location| String::from_utf8(location).expect("is text")).map_err(|refusal| {
            assert_eq!(refusal.status().as_u16(), 400);
            refusal.to_string()
        })
    }

    #[track_caller]
    fn check(redirect: &str, host: &str, target: &str, expected: &str) {
        let line = format!("GET {target} HTTP/1.1");
        let location = redirected(redirect, &line, &[&format!("host: {host}")]);
        assert_eq!(location.as_deref(), Ok(expected), "{redirect} {host} {target}");
    }

    #[test]
    fn what_is_not_replaced_stays_and_another_scheme_has_another_port() {
        check("scheme = 'https'", "a.test:8080", "/p?q=1", "https://a.test/p?q=1");
        check("scheme = 'https'", "[::1]:8080", "/", "https://[::1]/");
        check("scheme = 'https'", "[::1]", "/?", "https://[::1]/?");
        check("host = 'b.test:81'", "a.test", "/p", "http://b.test:81/p");
        check("path = '/new'", "a.test:8080", "/p?q=1", "http://a.test:8080/new?q=1");
        check("path = '/new'", "a.test", "http://A.test:80/p", "http://A.test:80/new");
        check("host = 'b.test'", "a.test", "/%c3%bc", "http://b.test/%c3%bc");
    }

    #[test]
    fn who_came_through_tls_is_not_led_out_of_it_unless_that_is_asked_for() {
        let from_tls = |redirect: &str| {
            redirected_from(Scheme::Https, redirect, "GET /p HTTP/1.1", &["host: a.test:8443"])
        };
        assert_eq!(from_tls("path = '/new'").as_deref(), Ok("https://a.test:8443/new"));
        assert_eq!(from_tls("host = 'b.test'").as_deref(), Ok("https://b.test/p"));
        assert_eq!(from_tls("scheme = 'http'").as_deref(), Ok("http://a.test/p"));
    }

    #[test]
    fn what_is_about_the_whole_server_has_no_path() {
        let location = redirected("scheme = 'https'", "OPTIONS * HTTP/1.1", &["host: a"]);
        assert_eq!(location.as_deref(), Ok("https://a"));
    }

    #[test]
    fn a_redirect_to_no_host_is_refused() {
        let refused = Err("the redirect needs a host".to_owned());
        assert_eq!(redirected("path = '/moved'", "GET / HTTP/1.0", &[]), refused);
        assert_eq!(redirected("scheme = 'https'", "GET / HTTP/1.0", &[]), refused);
        let location = redirected("host = 'b'", "GET /p HTTP/1.0", &[]);
        assert_eq!(location.as_deref(), Ok("http://b/p"));
    }
}
