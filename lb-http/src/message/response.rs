//! A response's head.

use super::{ConnectionOptions, Fields, Span, Version};

/// How long a response's body is (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseBody {
    /// None, whatever the fields say.
    #[default]
    None,
    Length(u64),
    Chunked,
    /// It ends with its connection.
    UntilClose,
}

/// A response's head: checked, and in one form whatever HTTP version it came in.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub fields: Fields,
    pub status: u16,
    pub(crate) reason: Span,
    pub version: Version,
    pub body: ResponseBody,
    /// `Content-Length`, also where it frames nothing: in answers to `HEAD`, and in a 304.
    pub content_length: Option<u64>,
    pub connection: ConnectionOptions,
    /// It says that it has a body, and is of a kind that has none: its sender may send one all the
    /// same.
    pub(crate) is_framed_wrongly: bool,
    /// What a 101 switches to, and what a 426 asks for.
    pub(crate) upgrade: Span,
}

impl Response {
    /// Keeps the memory.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    pub fn reason(&self) -> &[u8] {
        self.fields.bytes(self.reason)
    }

    /// Whether another head follows it (RFC 9110, section 15.2). 101 is not of this kind: what
    /// follows it is no HTTP.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    pub fn upgrade(&self) -> Option<&[u8]> {
        (!self.upgrade.is_empty()).then(|| self.fields.bytes(self.upgrade))
    }

    /// Whether its connection may serve another request, once the response has been read whole.
    /// That of an HTTP/1.0 sender may not: nothing says where a body ends that it did not expect
    /// (RFC 9112, section 9.3).
    pub fn keeps_alive(&self) -> bool {
        self.version == Version::Http11
            && !self.connection.close
            && !self.is_framed_wrongly
            && self.body != ResponseBody::UntilClose
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h1::{HeadParser, Limits},
        message::Method,
    };

    fn response(head: &str) -> Response {
        let limits = Limits { head: 1000, fields: 20, target: 100 };
        let mut response = Response::default();
        let mut parser = HeadParser::default();
        let read = response.read(&mut parser, head.as_bytes(), &limits, Method::Get);
        assert_eq!(read, Ok(Some(head.len())));
        response
    }

    #[test]
    fn what_comes_before_a_response_is_interim_unless_it_switches() {
        for (status, is_interim) in
            [(100, true), (103, true), (199, true), (101, false), (200, false)]
        {
            let response = response(&format!("HTTP/1.1 {status} X y\r\n\r\n"));
            assert_eq!(response.is_interim(), is_interim, "{status}");
            assert_eq!(response.reason(), b"X y");
        }
    }

    #[test]
    fn the_memory_of_one_response_is_used_for_the_next() {
        let mut response = response("HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
        let capacity = response.fields.capacity();
        response.clear();
        assert_eq!((response.fields.capacity(), response.status), (capacity, 0));
        assert_eq!((response.reason(), response.fields.len()), (&b""[..], 0));
    }
}
