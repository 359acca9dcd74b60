//! Answers of the proxy's own: refusals with their reasons, redirects, and fixed answers.

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{CONTENT_TYPE, LOCATION},
};
use lb_common::spec::{Answer, Redirect};
use lb_routing::redirect;

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

/// To where the route says.
///
/// # Errors
/// If there is no such place for this request.
pub fn redirect<B>(to: &Redirect, request: &Request<B>) -> Result<Response<Bytes>, ProxyError> {
    let location = redirect::location(to, request)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = to.status;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
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
