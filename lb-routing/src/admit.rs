//! Whether a request may be forwarded at all, before anybody asks where to. That it can be read in
//! one way only, [`lb_http`] has seen to.

use lb_http::message::{Method, Request};

use crate::refusal::Refusal;

/// What a 405 says in `Allow` (RFC 9110, section 15.5.6). Others than these are forwarded, too, but
/// there is no end to their list.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// Refuses `CONNECT`, which would make a proxy a tunnel to anywhere, and `TRACE`, whose answer
/// would show the client what proxies add to its request.
///
/// # Errors
/// If its method is one of these.
pub fn admit(request: &Request) -> Result<(), Refusal> {
    match request.method {
        Method::Connect | Method::Trace => {
            let method = String::from_utf8_lossy(request.method_text());
            Err(Refusal::MethodRefused(method.into_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_request_to_tunnel_or_to_reflect_is_refused_and_every_other_is_not() {
        #[rustfmt::skip]
        let cases = [
            ("CONNECT a:80",  Err("method CONNECT is not forwarded")),
            ("TRACE /",       Err("method TRACE is not forwarded")),
            ("OPTIONS *",     Ok(())),
            ("GET /",         Ok(())),
            ("trace /",       Ok(())),
            ("PROPFIND /",    Ok(())),
        ];
        for (line, expected) in cases {
            let host = if line.ends_with(":80") { "host: a:80" } else { "host: a" };
            let request = fixture::request(&format!("{line} HTTP/1.1"), &[host]);
            let result = admit(&request).map_err(|refusal| {
                assert_eq!(refusal.status().as_u16(), 405);
                refusal.to_string()
            });
            assert_eq!(result, expected.map_err(str::to_owned), "{line}");
        }
    }
}
