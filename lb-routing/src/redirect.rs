//! Where a redirect leads.

use http::{HeaderValue, Request, header::HOST};
use lb_common::spec::{Redirect, Scheme};

use crate::refusal::Refusal;

/// The request's own URL with the parts that the redirect replaces.
///
/// # Errors
/// If a header cannot say it. No admitted request leads there: what a URL may have in it, a header
/// may.
pub fn location<B>(to: &Redirect, request: &Request<B>) -> Result<HeaderValue, Refusal> {
    let scheme = match to.scheme {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http) | None => "http",
    };
    let given = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = match (&to.host, to.scheme) {
        (Some(host), _) => host,
        // Another scheme has another port.
        (None, Some(_)) => without_port(given),
        (None, None) => given,
    };
    let path = to.path.as_deref().unwrap_or(request.uri().path());
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    HeaderValue::from_str(&format!("{scheme}://{host}{path}{query}"))
        .map_err(|_| Refusal::BadRequest("the redirect's location is no header value"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::spec::Action;

    use super::*;
    use crate::fixture;

    #[track_caller]
    fn check(redirect: &str, host: &str, target: &str, expected: &str) {
        let toml = format!("[[routes]]\nname = 'r'\nredirect = {{ {redirect} }}\n");
        let state = fixture::desired(&toml);
        let Action::Redirect(to) = &state.routes["r"].action else { panic!("{state:?}") };
        let request = Request::builder().uri(target).header(HOST, host).body(()).expect("parts");
        let location = location(to, &request).expect("a header can say it");
        assert_eq!(location.as_bytes(), expected.as_bytes(), "{redirect} {host} {target}");
    }

    #[test]
    fn what_is_not_replaced_stays_and_another_scheme_has_another_port() {
        check("scheme = 'https'", "a.test:8080", "/p?q=1", "https://a.test/p?q=1");
        check("scheme = 'https'", "[::1]:8080", "/", "https://[::1]/");
        check("host = 'b.test:81'", "a.test", "/p", "http://b.test:81/p");
        check("path = '/new'", "a.test:8080", "/p?q=1", "http://a.test:8080/new?q=1");
        check("host = 'b.test'", "a.test", "/ü", "http://b.test/ü");
    }
}
