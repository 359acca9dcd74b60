//! Whether a request may be forwarded at all, before anybody asks where to.

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};

use crate::refusal::Refusal;

/// Refuses what may not be forwarded, and brings the rest to one form: a path as the target, and
/// exactly one `Host`.
///
/// # Errors
/// What is wrong with the request.
pub fn admit<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::MethodRefused(Method::CONNECT));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("more than one host header"));
    }
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Err(Refusal::BadRequest("no host header"));
    }
    if host.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(Refusal::BadRequest("the host header is not a host"));
    }
    if request.headers().contains_key(TRANSFER_ENCODING) && !is_just_chunked(request.headers()) {
        return Err(Refusal::BadRequest("a transfer coding besides chunked"));
    }
    if request.uri().authority().is_some() {
        absolute_to_origin(request)?;
    }
    Ok(())
}

/// `GET http://host/path` becomes `GET /path` with that host (RFC 9112, section 3.2.2).
fn absolute_to_origin<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let uri = request.uri();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.scheme_str().is_none_or(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Refusal::BadRequest("the target is neither a path nor an http URL"));
    }
    if authority.contains('@') {
        return Err(Refusal::BadRequest("the target has user information in it"));
    }
    let host = HeaderValue::from_str(authority)
        .map_err(|_| Refusal::BadRequest("the target's host is not a host"))?;
    let without_default = |host: &[u8]| host.strip_suffix(b":80").unwrap_or(host).to_owned();
    let wanted = without_default(authority.as_bytes());
    let differs =
        |given: &HeaderValue| !without_default(given.as_bytes()).eq_ignore_ascii_case(&wanted);
    if request.headers().get(HOST).is_some_and(differs) {
        return Err(Refusal::BadRequest("the target's host is not the one in the host header"));
    }
    let path = uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(HOST, host);
    Ok(())
}

/// Whether its only transfer coding is one that both ends of a proxy understand.
pub fn is_just_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    first.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && values.next().is_none()
}

fn is_host(host: &[u8]) -> bool {
    let fits = |c: &u8| {
        c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':' | b'[' | b']' | b'~')
    };
    !host.is_empty() && host.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
                (name, HeaderValue::from_str(value).expect("a header value"))
            })
            .collect()
    }

    #[test]
    fn requests_without_one_clear_host_are_refused() {
        #[rustfmt::skip]
        let cases = [
            ("GET",     "/a",             vec![("host", "a")],                 Ok(("/a", Some("a")))),
            ("GET",     "http://b:1/a?q", vec![("host", "b:1")],               Ok(("/a?q", Some("b:1")))),
            ("GET",     "http://b",       vec![("host", "B")],                 Ok(("/", Some("b")))),
            ("GET",     "http://b:80/",   vec![("host", "b")],                 Ok(("/", Some("b:80")))),
            ("GET",     "http://b/",      vec![("host", "a")],                 Err(400)),
            ("PUT",     "/a",  vec![("host", "a"), ("transfer-encoding", "gzip, chunked")], Err(400)),
            ("PUT",     "/a",  vec![("host", "a"), ("transfer-encoding", "chunked")], Ok(("/a", Some("a")))),
            ("GET",     "http://u@b/",    vec![("host", "u@b")],               Err(400)),
            ("GET",     "ftp://b/",       vec![("host", "b")],                 Err(400)),
            ("GET",     "/a",             vec![],                              Err(400)),
            ("GET",     "/a",             vec![("host", "a"), ("host", "a")],  Err(400)),
            ("GET",     "/a",             vec![("host", "a,b")],               Err(400)),
            ("GET",     "/a",             vec![("host", "")],                  Err(400)),
            ("CONNECT", "a:80",           vec![("host", "a:80")],              Err(405)),
            ("OPTIONS", "*",              vec![("host", "a")],                 Ok(("*", Some("a")))),
        ];
        for (method, target, lines, expected) in cases {
            let mut request =
                Request::builder().method(method).uri(target).body(()).expect("parts");
            *request.headers_mut() = headers(&lines);
            let result = admit(&mut request).map_err(|refusal| refusal.status().as_u16());
            let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
            let result =
                result.map(|()| (request.uri().path_and_query().map_or("", |p| p.as_str()), host));
            assert_eq!(result, expected, "{method} {target} {lines:?}");
        }
    }
}
