//! Messages to bytes. Heads are written once, from what was parsed and what the proxy adds.

use super::syntax::is_token;
use crate::{
    hop,
    message::{
        Field, Fields, Name, Nominated, Request, RequestBody, Response, ResponseBody, Span, Version,
    },
};

/// What a proxy says in a request besides what the client said.
#[derive(Clone, Copy, Debug)]
pub struct ToBackend<'a> {
    /// What goes on as the target; the request's own unless it was rewritten.
    pub target: &'a [u8],
    pub host: &'a [u8],
    pub forwarded: Forwarded<'a>,
    /// Whole lines: what is known of the client's certificate.
    pub client_cert: &'a [u8],
    pub via: bool,
    pub body: RequestBody,
    /// The upgrade that it asks for is to be asked for.
    pub upgrades: bool,
    pub trace: TraceContext<'a>,
}

/// For whom a request is passed on.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The client's address.
    pub address: &'a [u8],
    /// What came goes on, and the address of who passed it on is put behind it.
    pub passed_on_by: Option<&'a [u8]>,
    /// What the client takes for the server, with its port. Empty if it said none.
    pub host: &'a [u8],
    /// `http` or `https`, as the client came.
    pub proto: &'a [u8],
    /// To which it came.
    pub port: u16,
    /// What came was said by `Forwarded` (RFC 7239) and not by `X-Forwarded-For`, and goes on by it, too.
    pub by_forwarded: bool,
}

/// What of a trace goes on.
#[derive(Clone, Copy, Debug)]
pub enum TraceContext<'a> {
    /// What came.
    AsItCame,
    /// Another parent of the same trace.
    Parent(&'a [u8]),
    /// A trace that begins here.
    New(&'a [u8]),
}

/// What a proxy says in a response besides what the backend said.
#[derive(Clone, Copy, Debug)]
pub struct ToClient<'a> {
    pub body: ResponseBody,
    /// The client's version: what one of HTTP/1.0 takes for granted differs.
    pub version: Version,
    /// Whether the connection is to go on.
    pub keeps_alive: bool,
    /// Now, for a backend that has no clock (RFC 9110, section 6.6.1).
    pub date: &'a [u8],
    /// `x-lb-explain`.
    pub explain: Option<&'a [u8]>,
    /// `Strict-Transport-Security`, whatever the backend says of it (RFC 6797).
    pub hsts: Option<&'a [u8]>,
}

/// The end of a line, and of a chunk's data.
pub const CRLF: &[u8] = b"\r\n";

/// Writes a request's head.
pub fn request(out: &mut Vec<u8>, request: &Request, to: &ToBackend<'_>) {
    out.extend_from_slice(request.method_text());
    out.push(b' ');
    out.extend_from_slice(to.target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    line(out, b"Host", to.host);
    copy(out, &request.fields, |field| {
        let is_replaced = match to.trace {
            TraceContext::AsItCame => false,
            TraceContext::Parent(_) => field.known == Name::Traceparent,
            TraceContext::New(_) => matches!(field.known, Name::Traceparent | Name::Tracestate),
        };
        let is_counted = field.known == Name::MaxForwards && request.max_forwards.is_some();
        hop::request_field_goes_on(field) && !is_replaced && !is_counted
    });
    forwarded(out, &request.fields, &to.forwarded);
    out.extend_from_slice(to.client_cert);
    if to.via {
        via(out, request.version);
    }
    if let TraceContext::Parent(parent) | TraceContext::New(parent) = to.trace {
        line(out, b"traceparent", parent);
    }
    if let Some(left) = request.max_forwards {
        number(out, b"Max-Forwards: ", u64::from(left.saturating_sub(1)));
    }
    if request.expects_continue {
        line(out, b"Expect", b"100-continue");
    }
    match to.body {
        RequestBody::None => {}
        RequestBody::Length(length) => number(out, b"Content-Length: ", length),
        RequestBody::Chunked => chunked(out, &request.fields),
    }
    match (to.upgrades, request.upgrade(), request.takes_trailers) {
        (true, Some(protocol), _) => {
            upgrade(out, protocol);
        }
        (_, _, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        _ => {}
    }
    out.extend_from_slice(CRLF);
}

/// Writes a response's head, which may be an interim one.
pub fn response(out: &mut Vec<u8>, response: &Response, to: &ToClient<'_>) {
    status_line(out, response.status, response.reason());
    let mut has_date = response.is_interim();
    copy(out, &response.fields, |field| {
        let is_replaced = to.hsts.is_some() && field.known == Name::StrictTransportSecurity;
        let goes_on = hop::response_field_goes_on(field) && !is_replaced;
        has_date |= goes_on && field.known == Name::Date;
        goes_on
    });
    if !has_date {
        line(out, b"Date", to.date);
    }
    via(out, response.version);
    added(out, to);
    if response.status == 101 {
        upgrade(out, response.upgrade().unwrap_or_default());
    } else if !response.is_interim() {
        match (to.body, response.content_length) {
            (ResponseBody::Length(length), _) => number(out, b"Content-Length: ", length),
            (ResponseBody::Chunked, _) => chunked(out, &response.fields),
            // It says what a GET would get.
            (ResponseBody::None, Some(length)) if response.status != 204 => {
                number(out, b"Content-Length: ", length);
            }
            (ResponseBody::None | ResponseBody::UntilClose, _) => {}
        }
        connection(out, to.version, to.keeps_alive);
        // What a client is to upgrade to is all that this status says (RFC 9110, section 15.5.22).
        if let (426, Version::Http11, Some(protocol)) =
            (response.status, to.version, response.upgrade())
        {
            upgrade(out, protocol);
        }
    }
    out.extend_from_slice(CRLF);
}

/// Writes the head of a response that is the proxy's own, up to its empty line. With no length, it
/// is one that has no body and says nothing of it.
pub fn own<'a>(
    out: &mut Vec<u8>,
    (status, reason): (u16, &str),
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    length: Option<usize>,
    to: &ToClient<'_>,
) {
    status_line(out, status, reason.as_bytes());
    for (name, value) in fields {
        line(out, name, value);
    }
    line(out, b"Date", to.date);
    added(out, to);
    if let Some(length) = length {
        number(out, b"Content-Length: ", length as u64);
    }
    connection(out, to.version, to.keeps_alive);
    out.extend_from_slice(CRLF);
}

/// Writes what comes before a chunk's data. [`CRLF`] follows the data.
pub fn chunk_begin(out: &mut Vec<u8>, length: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(CRLF);
}

/// Writes the last chunk, and those of the trailers that may go on.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>) {
    end_chunks(out, &Nominated::default(), trailers);
}

/// Writes the last chunk after a message with these fields, whose `Connection` may name trailers as
/// well (RFC 9110, section 7.6.1).
pub fn last_chunk_after(out: &mut Vec<u8>, head: &Fields, trailers: Option<&Fields>) {
    let nominated = trailers.map_or_else(Nominated::default, |_| head.nominated());
    end_chunks(out, &nominated, trailers);
}

fn end_chunks(out: &mut Vec<u8>, nominated: &Nominated<'_>, trailers: Option<&Fields>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        let goes_on = |field: &Field| {
            hop::trailer_goes_on(field.known) && !nominated.has(trailers.bytes(field.name))
        };
        copy(out, trailers, goes_on);
    }
    out.extend_from_slice(CRLF);
}

/// What every kind of response may say besides.
fn added(out: &mut Vec<u8>, to: &ToClient<'_>) {
    if let Some(explain) = to.explain {
        line(out, b"x-lb-explain", explain);
    }
    if let Some(hsts) = to.hsts {
        line(out, b"Strict-Transport-Security", hsts);
    }
}

fn forwarded(out: &mut Vec<u8>, fields: &Fields, by: &Forwarded<'_>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    match by.passed_on_by.filter(|_| !by.by_forwarded) {
        None => out.extend_from_slice(by.address),
        Some(address) => {
            came(out, fields, Name::XForwardedFor);
            out.extend_from_slice(address);
        }
    }
    out.extend_from_slice(CRLF);
    if !by.host.is_empty() {
        line(out, b"X-Forwarded-Host", by.host);
    }
    number(out, b"X-Forwarded-Port: ", by.port.into());
    line(out, b"X-Forwarded-Proto", by.proto);
    if by.by_forwarded {
        out.extend_from_slice(b"Forwarded: ");
        let address = match by.passed_on_by {
            None => by.address,
            Some(address) => {
                came(out, fields, Name::Forwarded);
                address
            }
        };
        // A colon is not for a token (RFC 7239, section 6).
        match address.contains(&b':') {
            true => out.extend([b"for=\"[", address, b"]\""].concat()),
            false => out.extend([b"for=", address].concat()),
        }
        if !by.host.is_empty() {
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(by.host);
            out.push(b'"');
        }
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(by.proto);
        out.extend_from_slice(CRLF);
    }
}

/// The elements of a list as they came, each with a comma. What would take in those that follow it is left
/// out.
fn came(out: &mut Vec<u8>, fields: &Fields, name: Name) {
    for value in fields.all(name).filter(|value| !value.is_empty() && ends_its_quotes(value)) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
}

fn ends_its_quotes(value: &[u8]) -> bool {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in value {
        match (c, is_escaped) {
            (b'"', false) => is_quoted = !is_quoted,
            (b'\\', false) if is_quoted => {
                is_escaped = true;
                continue;
            }
            _ => {}
        }
        is_escaped = false;
    }
    !is_quoted
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(CRLF);
}

fn connection(out: &mut Vec<u8>, version: Version, keeps_alive: bool) {
    match (version, keeps_alive) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => line(out, b"Connection", b"keep-alive"),
        (_, false) => line(out, b"Connection", b"close"),
    }
}

fn upgrade(out: &mut Vec<u8>, protocol: &[u8]) {
    line(out, b"Connection", b"Upgrade");
    line(out, b"Upgrade", protocol);
}

/// So many trailers are announced, if so many are: it is a hint (RFC 9110, section 6.6.2), and each of
/// them costs time.
const MOST_ANNOUNCED: usize = 64;

/// That a body is chunked, and which fields follow it.
fn chunked(out: &mut Vec<u8>, fields: &Fields) {
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    let mut announced = fields.list(Name::Trailer).take(MOST_ANNOUNCED).peekable();
    if announced.peek().is_none() {
        return;
    }
    let nominated = fields.nominated();
    let mut separator: &[u8] = b"Trailer: ";
    let goes_on = |name: &&[u8]| {
        is_token(name) && hop::trailer_goes_on(Name::of(name)) && !nominated.has(name)
    };
    for name in announced.filter(goes_on) {
        out.extend_from_slice(separator);
        out.extend_from_slice(name);
        separator = b", ";
    }
    if separator == b", " {
        out.extend_from_slice(CRLF);
    }
}

/// The message has come in this version (RFC 9110, section 7.6.3).
fn via(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(b"Via: ");
    out.extend_from_slice(version.as_str().as_bytes());
    out.extend_from_slice(hop::VIA);
    out.extend_from_slice(CRLF);
}

/// Writes those fields that go on. Lines that follow each other, and came as they are written here,
/// are copied at once.
fn copy(out: &mut Vec<u8>, fields: &Fields, mut goes_on: impl FnMut(&Field) -> bool) {
    let mut run = Span::default();
    for field in fields.iter() {
        if !goes_on(field) {
            continue;
        }
        match fields.plain_line(field) {
            Some(next) if next.start == run.end => run.end = next.end,
            Some(next) => {
                out.extend_from_slice(fields.bytes(run));
                run = next;
            }
            None => {
                out.extend_from_slice(fields.bytes(run));
                run = Span::default();
                line(out, fields.bytes(field.name), fields.bytes(field.value));
            }
        }
    }
    out.extend_from_slice(fields.bytes(run));
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(CRLF);
}

fn number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    decimal(out, value);
    out.extend_from_slice(CRLF);
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
