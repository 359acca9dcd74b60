//! Answers of the proxy's own: refusals with their reasons, redirects, and fixed answers.

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, LOCATION},
};
use lb_common::spec::{Answer, Redirect, Scheme};

use crate::error::ProxyError;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What went wrong, with its reason.
pub fn refuse(error: &ProxyError) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{error}\n")));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert("proxy-status", error.proxy_status());
    headers
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub fn redirect<B>(to: &Redirect, request: &Request<B>) -> Response<Bytes> {
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
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = to.status;
    match HeaderValue::from_str(&format!("{scheme}://{host}{path}{query}")) {
        Ok(location) => {
            response.headers_mut().insert(LOCATION, location);
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// What the configuration says.
pub fn answer(answer: &Answer, body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    if !body.is_empty() {
        response.headers_mut().entry(CONTENT_TYPE).or_insert(TEXT);
    }
    response
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
}
