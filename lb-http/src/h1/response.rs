//! A response's head, read and checked as strictly as a request's.

use super::{
    framing,
    head::{HeadError, HeadParser, Limits, Progress},
    syntax::is_value,
};
use crate::message::{Method, Name, Response, ResponseBody, Span, Version};

/// Why a response is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the head is too long")]
    TooLong,
    #[error("the head has too many fields")]
    TooManyFields,
}

/// As for requests.
const MOST_OPTIONS: usize = 64;
const PREFIX: &[u8] = b"HTTP/1.";

impl From<HeadError> for ResponseError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::Malformed(what),
            HeadError::StartTooLong | HeadError::TooLong => Self::TooLong,
            HeadError::TooManyFields => Self::TooManyFields,
        }
    }
}

impl Response {
    /// Reads a head as [`Request::read`](crate::message::Request::read) does; `method` is that of
    /// the request which it answers.
    ///
    /// # Errors
    /// As soon as it is certain that it is no proper response.
    pub fn read(
        &mut self,
        parser: &mut HeadParser,
        input: &[u8],
        limits: &Limits,
        method: Method,
    ) -> Result<Option<usize>, ResponseError> {
        let prefix = PREFIX.len().min(input.len());
        if input[..prefix] != PREFIX[..prefix] {
            return Err(ResponseError::Malformed("this is no HTTP/1 response"));
        }
        loop {
            match parser.read(input, limits, &mut self.fields)? {
                Progress::Partial => return Ok(None),
                Progress::Start(line) => {
                    self.start_line(input, line).map_err(ResponseError::Malformed)?;
                }
                Progress::Complete(length) => {
                    self.understand(method).map_err(ResponseError::Malformed)?;
                    return Ok(Some(length));
                }
            }
        }
    }

    fn understand(&mut self, method: Method) -> Result<(), &'static str> {
        self.connection =
            self.fields.read_connection(MOST_OPTIONS).ok_or("connection has too many options")?;
        let framing = framing::of_response(&self.fields)?;
        if framing.is_chunked && self.version == Version::Http10 {
            return Err("a transfer coding in HTTP/1.0");
        }
        self.content_length = framing.length;
        self.is_framed_wrongly = matches!(self.status, 100..200 | 204)
            && (framing.is_chunked || framing.length.is_some_and(|length| length > 0));
        self.body = match self.status {
            100..200 | 204 | 304 => ResponseBody::None,
            _ if method == Method::Head => ResponseBody::None,
            _ => match (framing.is_chunked, framing.length) {
                (true, _) => ResponseBody::Chunked,
                (false, Some(length)) => ResponseBody::Length(length),
                (false, None) => ResponseBody::UntilClose,
            },
        };
        let mut fields = self.fields.iter().filter(|field| field.known == Name::Upgrade);
        if let (true, Some(field), None) = (self.connection.upgrade, fields.next(), fields.next()) {
            self.upgrade = field.value;
        }
        Ok(())
    }

    /// `HTTP/1.1 200 OK`; the reason may be empty, and some leave out the space before it.
    fn start_line(&mut self, input: &[u8], line: Span) -> Result<(), &'static str> {
        const MALFORMED: &str = "the first line is not a version and a status";
        let text = line.of(input);
        let (minor, rest) = text[PREFIX.len().min(text.len())..].split_first().ok_or(MALFORMED)?;
        self.version = match minor {
            b'0' => Version::Http10,
            b'1'..=b'9' => Version::Http11,
            _ => return Err(MALFORMED),
        };
        let [b' ', digits @ ..] = rest else { return Err(MALFORMED) };
        let (digits, reason) = digits.split_at_checked(3).ok_or(MALFORMED)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(MALFORMED);
        }
        self.status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        // A first digit above 5 is of no class, but some servers answer so, and clients take it for
        // a 5 (RFC 9110, section 15).
        if self.status < 100 {
            return Err("the status is below 100");
        }
        match reason {
            [] => {}
            [b' ', reason @ ..] if is_value(reason) => {
                let end = line.end as usize;
                self.reason = Span::new(end - reason.len(), end);
            }
            _ => return Err(MALFORMED),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Option<usize>, ResponseError> {
        let limits = Limits { head: 1000, fields: 20, target: 100 };
        Response::default().read(&mut HeadParser::default(), head.as_bytes(), &limits, Method::Get)
    }

    #[test]
    fn a_response_that_is_none_says_why() {
        const LINE: &str = "the first line is not a version and a status";
        let options = format!("HTTP/1.1 200 OK\r\nConnection: {}\r\n\r\n", "a,".repeat(65));
        #[rustfmt::skip]
        let cases = [
            ("SSH", "this is no HTTP/1 response"),
            ("HTTP/2", "this is no HTTP/1 response"),
            ("HTTP/1.\r\n", LINE),
            ("HTTP/1.x 200 OK\r\n", LINE),
            ("HTTP/1.1200 OK\r\n", LINE),
            ("HTTP/1.1 20\r\n", LINE),
            ("HTTP/1.1 2x0 OK\r\n", LINE),
            ("HTTP/1.1 2000\r\n", LINE),
            ("HTTP/1.1 200 \u{1}\r\n", LINE),
            ("HTTP/1.1 099 OK\r\n", "the status is below 100"),
            (&options, "connection has too many options"),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "a transfer coding in HTTP/1.0"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "two lengths that differ"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1,\r\n\r\n", "the content-length is not a number"),
        ];
        for (head, why) in cases {
            assert_eq!(read(head), Err(ResponseError::Malformed(why)), "{head}");
        }
    }

    #[test]
    fn what_is_too_much_is_said_to_be() {
        let long = |length| format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(length));
        assert_eq!(read(&long(979)), Ok(None));
        assert_eq!(read(&long(980)), Err(ResponseError::TooLong));
        assert_eq!(read(&format!("HTTP/1.1 200 {}", "b".repeat(200))), Err(ResponseError::TooLong));
        let many = |count| "HTTP/1.1 200 OK\r\n".to_owned() + &"A: b\r\n".repeat(count);
        assert_eq!(read(&many(20)), Ok(None));
        assert_eq!(read(&many(21)), Err(ResponseError::TooManyFields));
    }
}
