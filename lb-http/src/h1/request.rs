//! A request's head, read and checked. What passes here can be read in one way only.

use super::{
    framing,
    head::{HeadError, HeadParser, Limits, Progress},
    syntax::{is_token, number},
    target,
};
use crate::message::{Form, Method, Name, Request, RequestBody, Span, Version};

/// Why a request is refused. Nothing that follows it on its connection can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the target is too long")]
    TargetTooLong,
    #[error("the head is too long")]
    HeadTooLong,
    #[error("the head has too many fields")]
    TooManyFields,
    #[error("the version is not one of HTTP/1")]
    Version,
    #[error("an expectation other than 100-continue")]
    Expectation,
}

/// A first line so long has no end of its method where others have one.
const LONGEST_METHOD: usize = 64;
/// Options that `Connection` may have: each is looked for among all fields.
const MOST_OPTIONS: usize = 64;

impl RequestError {
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TargetTooLong => 414,
            Self::HeadTooLong | Self::TooManyFields => 431,
            Self::Version => 505,
            Self::Expectation => 417,
        }
    }
}

impl From<HeadError> for RequestError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::Malformed(what),
            HeadError::StartTooLong => Self::TargetTooLong,
            HeadError::TooLong => Self::HeadTooLong,
            HeadError::TooManyFields => Self::TooManyFields,
        }
    }
}

/// A line that is too long is so for its target, if it has come as far as that.
fn told_apart(error: HeadError, input: &[u8]) -> RequestError {
    let has_method = input.iter().take(LONGEST_METHOD).any(|c| *c == b' ');
    match error {
        HeadError::StartTooLong if !has_method => {
            RequestError::Malformed("the first line begins with no method")
        }
        error => error.into(),
    }
}

impl Request {
    /// Reads a head that begins `input`, as far as it has come; to be called with a fresh parser
    /// and an empty request, and then again, when there is more, with the same and all bytes so
    /// far. Returns the head's length when it is complete.
    ///
    /// # Errors
    /// As soon as it is certain that it is no proper request.
    pub fn read(
        &mut self,
        parser: &mut HeadParser,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, RequestError> {
        loop {
            let progress = parser.read(input, limits, &mut self.fields);
            match progress.map_err(|error| told_apart(error, input))? {
                Progress::Partial => return Ok(None),
                Progress::Start(line) => {
                    self.start_line(input, line)?;
                    if limits.target < self.target.of(input).len() {
                        return Err(RequestError::TargetTooLong);
                    }
                    self.form = target::parse(self.target.of(input), self.method)
                        .map_err(RequestError::Malformed)?;
                }
                Progress::Complete(length) => {
                    self.length = length;
                    self.understand()?;
                    return Ok(Some(length));
                }
            }
        }
    }

    fn understand(&mut self) -> Result<(), RequestError> {
        self.read_target().map_err(RequestError::Malformed)?;
        self.connection = self
            .fields
            .read_connection(MOST_OPTIONS)
            .ok_or(RequestError::Malformed("connection has too many options"))?;
        let framing = framing::of_request(&self.fields).map_err(RequestError::Malformed)?;
        self.body = match (framing.is_chunked, framing.length) {
            (true, _) if self.version == Version::Http10 => {
                return Err(RequestError::Malformed("a transfer coding in HTTP/1.0"));
            }
            (true, _) => RequestBody::Chunked,
            (false, Some(length)) => RequestBody::Length(length),
            (false, None) => RequestBody::None,
        };
        // HTTP/1.0 knows no expectations and no upgrades (RFC 9110, sections 7.8 and 10.1.1).
        if self.version >= Version::Http11 {
            self.read_expectation()?;
            self.read_upgrade();
        }
        self.takes_trailers =
            self.fields.list(Name::Te).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        if self.method == Method::Options {
            self.max_forwards = self
                .fields
                .get(Name::MaxForwards)
                .and_then(|value| Some(u32::try_from(number(value)?).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    /// Takes the target as it came; [`read_target`](Self::read_target) decides what goes on.
    fn start_line(&mut self, input: &[u8], line: Span) -> Result<(), RequestError> {
        let malformed =
            RequestError::Malformed("the first line is not a method, a target and a version");
        let text = line.of(input);
        let method = memchr::memchr(b' ', text).ok_or(malformed)?;
        let target = memchr::memrchr(b' ', text).filter(|end| method < *end).ok_or(malformed)?;
        if !is_token(&text[..method]) {
            return Err(malformed);
        }
        self.version = match &text[target + 1..] {
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => Version::Http11,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(RequestError::Version);
            }
            _ => return Err(malformed),
        };
        if &text[..method] == b"PRI" {
            return Err(RequestError::Malformed("PRI is the beginning of HTTP/2"));
        }
        self.method = Method::of(&text[..method]);
        let start = line.start as usize;
        self.method_text = Span::new(start, start + method);
        self.target = Span::new(start + method + 1, start + target);
        Ok(())
    }

    /// Decides what goes on as the target, and as the host (RFC 9112, section 3.2.2).
    fn read_target(&mut self) -> Result<(), &'static str> {
        let host = {
            let mut hosts = self.fields.iter().filter(|field| field.known == Name::Host);
            let host = hosts.next().map(|field| field.value);
            if hosts.next().is_some() {
                return Err("more than one host");
            }
            host
        };
        if host.is_none() && self.version >= Version::Http11 {
            return Err("no host");
        }
        let given = host.map(|host| self.fields.bytes(host));
        if given.is_some_and(|given| !target::is_authority(given)) {
            return Err("the host is not a host");
        }
        let (named, is_https, rest) = match self.form {
            Form::Origin | Form::Asterisk => (None, false, self.target),
            Form::Authority => (Some(self.target), false, self.target),
            Form::Absolute { is_https, authority, rest } => {
                let (authority, rest) = (authority.within(self.target), rest.within(self.target));
                (Some(authority), is_https, rest)
            }
        };
        if let (Some(named), Some(given)) = (named, given)
            && !target::is_same_authority(given, self.fields.bytes(named), is_https)
        {
            return Err("the target's host is not the one in the host field");
        }
        self.authority = named.or(host).unwrap_or_default();
        if matches!(self.form, Form::Absolute { .. }) {
            self.target = self.origin_form(rest);
        }
        let path = memchr::memchr(b'?', self.target()).unwrap_or(self.target().len());
        self.path = Span::new(self.target.start as usize, self.target.start as usize + path);
        Ok(())
    }

    /// What of an absolute target comes after its host, as a path. If that does not begin with one,
    /// it is written behind the head.
    fn origin_form(&mut self, rest: Span) -> Span {
        let block = &mut self.fields.block;
        let missing: &[u8] = match rest.of(block) {
            [b'/', ..] => return rest,
            [] if self.method == Method::Options => b"*",
            _ => b"/",
        };
        let start = block.len();
        block.extend_from_slice(missing);
        block.extend_from_within(rest.start as usize..rest.end as usize);
        Span::new(start, block.len())
    }

    fn read_expectation(&mut self) -> Result<(), RequestError> {
        for expectation in self.fields.list(Name::Expect) {
            if !expectation.eq_ignore_ascii_case(b"100-continue") {
                return Err(RequestError::Expectation);
            }
            self.expects_continue = true;
        }
        // There is nothing to wait for.
        self.expects_continue &= self.has_body();
        Ok(())
    }

    fn read_upgrade(&mut self) {
        let mut fields = self.fields.iter().filter(|field| field.known == Name::Upgrade);
        if let (true, Some(field), None) = (self.connection.upgrade, fields.next(), fields.next()) {
            self.upgrade = field.value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why() {
        const LINE: &str = "the first line is not a method, a target and a version";
        let options = format!("Connection: {}\r\n", "a,".repeat(65));
        #[rustfmt::skip]
        let cases = [
            ("GET HTTP/1.1", "", LINE),
            ("GET", "", LINE),
            (" / HTTP/1.1", "", "this is no HTTP"),
            ("G@T / HTTP/1.1", "", LINE),
            ("GET / HTTP/1.x", "", LINE),
            ("PRI * HTTP/1.1", "", "PRI is the beginning of HTTP/2"),
            ("GET  HTTP/1.1", "", "the target has a character that is not allowed there"),
            ("GET /a b HTTP/1.1", "", "the target has a character that is not allowed there"),
            ("GET /%zz HTTP/1.1", "", "the path has an escape that is not allowed there"),
            ("GET * HTTP/1.1", "", "the target is neither a path nor an http URL"),
            ("GET http://u@a/ HTTP/1.1", "", "the target has user information in it"),
            ("GET http://a:x/ HTTP/1.1", "", "the target's host is not a host"),
            ("GET http://b/ HTTP/1.1", "", "the target's host is not the one in the host field"),
            ("CONNECT b:1 HTTP/1.1", "", "the target's host is not the one in the host field"),
            ("CONNECT a HTTP/1.1", "", "the target of a CONNECT is no host and port"),
            ("GET / HTTP/1.1", "Host: a\r\n", "more than one host"),
            ("GET / HTTP/1.1", &options, "connection has too many options"),
            ("GET / HTTP/1.1", "Content-Length: x\r\n", "the content-length is not a number"),
            ("GET / HTTP/1.1", "Content-Length: 1\r\nContent-Length: 1\r\n", "more than one content-length"),
            ("GET / HTTP/1.1", "Transfer-Encoding: a\r\nTransfer-Encoding: b\r\n", "more than one transfer-encoding"),
            ("GET / HTTP/1.1", "Transfer-Encoding: gzip\r\n", "a transfer coding besides chunked"),
            ("GET / HTTP/1.1", "Transfer-Encoding: a\r\nContent-Length: 1\r\n", "both content-length and transfer-encoding"),
            ("GET / HTTP/1.0", "Transfer-Encoding: chunked\r\n", "a transfer coding in HTTP/1.0"),
        ];
        for (line, fields, why) in cases {
            let head = format!("{line}\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(read(&head), Err(RequestError::Malformed(why)), "{head}");
        }
        assert_eq!(read("GET / HTTP/1.1\r\n\r\n"), Err(RequestError::Malformed("no host")));
        let empty = RequestError::Malformed("the host is not a host");
        assert_eq!(read("GET / HTTP/1.1\r\nHost:\r\n\r\n"), Err(empty));
    }

    fn read(head: &str) -> Result<Option<usize>, RequestError> {
        let limits = Limits { head: 1000, fields: 20, target: 100 };
        let mut request = Request::default();
        let read = request.read(&mut HeadParser::default(), head.as_bytes(), &limits);
        assert!(read != Ok(Some(head.len())) || request.length == head.len());
        read
    }

    #[test]
    fn a_target_may_be_as_long_as_its_limit() {
        let line = |length: usize| read(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(length - 1)));
        assert_eq!(line(100), Ok(None));
        assert_eq!(line(101), Err(RequestError::TargetTooLong));
    }

    #[test]
    fn a_refusal_has_its_status() {
        #[rustfmt::skip]
        let cases = [
            (RequestError::Malformed(""), 400), (RequestError::TargetTooLong, 414), (RequestError::HeadTooLong, 431),
            (RequestError::TooManyFields, 431), (RequestError::Version, 505), (RequestError::Expectation, 417),
        ];
        for (error, status) in cases {
            assert_eq!(error.status(), status);
        }
    }
}
