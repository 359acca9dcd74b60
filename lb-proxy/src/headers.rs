//! What a proxy changes in a message's head: hop-by-hop headers end here, and the ones that say
//! who passed it on begin here. Heads are edited in place.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE, VIA,
    },
};
use lb_routing::admit::is_just_chunked;

use crate::explain::X_LB_EXPLAIN;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const OUR_VIA: HeaderValue = HeaderValue::from_static("1.1 lb");

/// Refuses a response whose end a client might see elsewhere than we do.
///
/// # Errors
/// What is wrong with it.
pub fn admit_response(headers: &HeaderMap) -> Result<(), String> {
    if !headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    if headers.contains_key(CONTENT_LENGTH) {
        return Err("both content-length and transfer-encoding".into());
    }
    if is_just_chunked(headers) { Ok(()) } else { Err("a transfer coding besides chunked".into()) }
}

/// Prepares a request's head for a backend. `client` is the address it came from.
pub fn to_backend(headers: &mut HeaderMap, client: &HeaderValue, has_body: bool) {
    let wants_trailers = end_hops(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if has_body && !headers.contains_key(CONTENT_LENGTH) {
        // hyper would take a GET's body for none if this did not say otherwise.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(host) = headers.get(HOST) {
        let host = host.clone();
        headers.insert(X_FORWARDED_HOST, host);
    } else {
        headers.remove(X_FORWARDED_HOST);
    }
    headers.remove(X_LB_EXPLAIN);
    // What the client says about itself is not to be trusted, so it is replaced.
    headers.insert(X_FORWARDED_FOR, client.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.append(VIA, OUR_VIA);
}

/// Prepares a response's head for the client.
pub fn to_client(headers: &mut HeaderMap) {
    end_hops(headers);
    headers.remove(X_LB_EXPLAIN);
    headers.append(VIA, OUR_VIA);
}

/// Removes what concerns one connection only, and what `Connection` names. Says whether the sender
/// takes trailers.
fn end_hops(headers: &mut HeaderMap) -> bool {
    // One pass decides; most messages have nothing to remove.
    let mut any = false;
    for name in headers.keys() {
        any |= *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == TE
            || *name == UPGRADE
            || *name == EXPECT
            || *name == PROXY_AUTHENTICATE
            || *name == PROXY_AUTHORIZATION
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION;
    }
    if !any {
        return false;
    }
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        // These frame the message or say where it goes: no client may have them dropped.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    let wants_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in &named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        TRANSFER_ENCODING,
        TE,
        UPGRADE,
        // The proxy itself answers it, when it begins to read the body.
        EXPECT,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
    wants_trailers
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim)).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
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

    #[track_caller]
    fn check(before: &[(&str, &str)], edit: impl Fn(&mut HeaderMap), after: &[(&str, &str)]) {
        let mut map = headers(before);
        edit(&mut map);
        assert_eq!(map, headers(after));
    }

    const CLIENT: HeaderValue = HeaderValue::from_static("192.0.2.1");

    #[test]
    fn a_request_says_who_it_came_from_whatever_the_client_claims() {
        check(
            &[("host", "a:80"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")],
            |map| to_backend(map, &CLIENT, false),
            &[
                ("host", "a:80"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "a:80"),
                ("via", "1.1 lb"),
            ],
        );
    }

    #[test]
    fn hop_by_hop_headers_end_here_and_so_does_what_connection_names() {
        check(
            &[
                ("connection", "close, X-Private"),
                ("connection", "host, content-length"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("proxy-connection", "keep-alive"),
                ("content-length", "3"),
                ("host", "a"),
                ("via", "1.0 first"),
            ],
            to_client,
            &[("content-length", "3"), ("host", "a"), ("via", "1.0 first"), ("via", "1.1 lb")],
        );
    }

    #[test]
    fn a_client_that_takes_trailers_is_told_on() {
        let mut map = headers(&[("te", "trailers, deflate;q=0.5"), ("connection", "te")]);
        to_backend(&mut map, &CLIENT, false);
        assert_eq!(map.get(TE), Some(&HeaderValue::from_static("trailers")));
        assert_eq!(map.get(CONNECTION), Some(&HeaderValue::from_static("te")));
    }

    #[test]
    fn a_body_without_a_length_is_chunked() {
        let mut map = headers(&[]);
        to_backend(&mut map, &CLIENT, true);
        assert_eq!(map.get(TRANSFER_ENCODING), Some(&HeaderValue::from_static("chunked")));
        let mut map = headers(&[("content-length", "3")]);
        to_backend(&mut map, &CLIENT, true);
        assert_eq!(map.get(TRANSFER_ENCODING), None);
    }
}
