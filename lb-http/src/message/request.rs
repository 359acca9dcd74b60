//! A request's head.

use super::{ConnectionOptions, Fields, Method, Span, Version};

/// How long a request's body is (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestBody {
    /// There is no body, and no length was given.
    #[default]
    None,
    Length(u64),
    Chunked,
}

/// How a request names what it wants (RFC 9112, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// A path, and its query if it has one.
    #[default]
    Origin,
    /// An http or https URL: its authority, and what comes after. Positions are in the target.
    Absolute { authority: Span, rest: Span, is_https: bool },
    /// `*`, of the server as a whole.
    Asterisk,
    /// Of a CONNECT.
    Authority,
}

/// A request's head: checked, and in one form whatever HTTP version it came in. The memory of one
/// that was served is used for the next.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub fields: Fields,
    pub method: Method,
    pub(crate) method_text: Span,
    pub(crate) form: Form,
    /// As it goes on: a path with its query, `*`, or an authority.
    pub(crate) target: Span,
    pub(crate) path: Span,
    /// The host, from the target if it has one or else from `Host`. Empty if there is neither.
    pub(crate) authority: Span,
    pub version: Version,
    pub body: RequestBody,
    pub connection: ConnectionOptions,
    /// It came with `Expect: 100-continue`, and its body waits for the go-ahead.
    pub expects_continue: bool,
    /// `TE` says that its sender reads trailers.
    pub takes_trailers: bool,
    /// What it asks to switch to.
    pub(crate) upgrade: Span,
    /// Bytes that its head had.
    pub length: usize,
    /// How often it may be passed on; `OPTIONS` only.
    pub max_forwards: Option<u32>,
}

impl Request {
    /// Keeps the memory.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    pub fn method_text(&self) -> &[u8] {
        self.fields.bytes(self.method_text)
    }

    /// As it goes on: a path with its query, or `*`.
    pub fn target(&self) -> &[u8] {
        self.fields.bytes(self.target)
    }

    /// The target without its query.
    pub fn path(&self) -> &[u8] {
        self.fields.bytes(self.path)
    }

    /// What follows the path's `?`.
    pub fn query(&self) -> Option<&[u8]> {
        self.target().get(self.path().len() + 1..)
    }

    /// Host and port as the client named them; empty if it did not.
    pub fn authority(&self) -> &[u8] {
        self.fields.bytes(self.authority)
    }

    /// What it asks to switch to (RFC 9110, section 7.8): `Upgrade`, if `Connection` names it.
    pub fn upgrade(&self) -> Option<&[u8]> {
        (!self.upgrade.is_empty()).then(|| self.fields.bytes(self.upgrade))
    }

    pub fn has_body(&self) -> bool {
        !matches!(self.body, RequestBody::None | RequestBody::Length(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadParser, Limits};

    fn request(head: &str) -> Request {
        let limits = Limits { head: 1000, fields: 20, target: 100 };
        let mut request = Request::default();
        let read = request.read(&mut HeadParser::default(), head.as_bytes(), &limits);
        assert_eq!(read, Ok(Some(head.len())));
        request
    }

    #[test]
    fn a_target_has_a_path_and_maybe_a_query() {
        #[rustfmt::skip]
        let cases = [
            ("GET /a", "/a", None), ("GET /a?", "/a", Some("")), ("GET /a?b?c", "/a", Some("b?c")),
            ("GET http://a", "/", None), ("GET http://a?b", "/", Some("b")), ("GET http://a/c?b", "/c", Some("b")),
            ("OPTIONS *", "*", None), ("OPTIONS http://a", "*", None),
        ];
        for (line, path, query) in cases {
            let request = request(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(request.path(), path.as_bytes(), "{line}");
            assert_eq!(request.query(), query.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn a_body_of_nothing_is_none() {
        let has_body = |fields: &str| {
            request(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).has_body()
        };
        assert!(!has_body("") && !has_body("Content-Length: 0\r\n"));
        assert!(has_body("Content-Length: 1\r\n") && has_body("Transfer-Encoding: chunked\r\n"));
    }
}
