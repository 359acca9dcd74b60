//! Answers of the proxy's own: refusals with their reasons, redirects, and fixed answers.

use bytes::Bytes;
use http::StatusCode;
use lb_common::spec::{Answer, Redirect};
use lb_http::message::Request;
use lb_routing::{origin::Origin, redirect, refusal::Refusal};

use super::error::ProxyError;

const TEXT: &[u8] = b"text/plain; charset=utf-8";
/// What requests may be made with, as far as it is up to the proxy: all but CONNECT and TRACE.
const ALLOW: &[u8] = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub fields: Vec<(Bytes, Bytes)>,
    pub body: Bytes,
}

/// What went wrong, with its reason.
pub fn refuse(error: &ProxyError) -> Reply {
    let mut fields = vec![
        (Bytes::from_static(b"Proxy-Status"), error.proxy_status().into()),
        (Bytes::from_static(b"Content-Type"), Bytes::from_static(TEXT)),
    ];
    if error.status() == StatusCode::METHOD_NOT_ALLOWED {
        fields.push(allow());
    }
    Reply { status: error.status(), fields, body: format!("{error}\n").into() }
}

/// To where the route says.
///
/// # Errors
/// If there is no such place for this request.
pub fn redirect(to: &Redirect, request: &Request, own: &Origin<'_>) -> Result<Reply, Refusal> {
    let location = redirect::location(to, request, own)?;
    let fields = vec![(Bytes::from_static(b"Location"), location.into())];
    Ok(Reply { status: to.status, fields, body: Bytes::new() })
}

/// What the configuration says.
pub fn answer(answer: &Answer, body: &Bytes) -> Reply {
    let bytes = Bytes::copy_from_slice;
    let given = answer.headers.iter();
    let mut fields: Vec<_> = given
        .map(|(name, value)| (bytes(name.as_str().as_bytes()), bytes(value.as_bytes())))
        .collect();
    if !body.is_empty() && !answer.headers.contains_key(http::header::CONTENT_TYPE) {
        fields.push((Bytes::from_static(b"Content-Type"), Bytes::from_static(TEXT)));
    }
    Reply { status: answer.status, fields, body: body.clone() }
}

/// This text.
pub fn text(body: &Bytes) -> Reply {
    let fields = vec![(Bytes::from_static(b"Content-Type"), Bytes::from_static(TEXT))];
    Reply { status: StatusCode::OK, fields, body: body.clone() }
}

/// That the request has come as far as it may (RFC 9110, section 7.6.2).
pub fn options() -> Reply {
    Reply { status: StatusCode::OK, fields: vec![allow()], body: Bytes::new() }
}

fn allow() -> (Bytes, Bytes) {
    (Bytes::from_static(b"Allow"), Bytes::from_static(ALLOW))
}
