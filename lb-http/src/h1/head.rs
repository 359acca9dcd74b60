//! A head's lines, as they come: each is looked at once, however the bytes are cut into pieces.
//!
//! A line ends with CRLF and nothing else. RFC 9112, section 2.2, lets a reader take a bare LF for
//! it; who does reads heads that others read otherwise, so it is refused.

use super::syntax::{is_token_char, is_value, trim};
use crate::message::{Field, Fields, Name, Span};

/// What a head may be at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In bytes, all lines and their ends included.
    pub head: usize,
    pub fields: usize,
    /// Of a request's target, in bytes.
    pub target: usize,
}

/// How far a head has been read. Belongs to one head, whose bytes it is shown from the first one
/// each time.
#[derive(Debug, Default)]
pub struct HeadParser {
    /// Where the line begins that is not complete yet.
    line: usize,
    /// Up to where that has been searched for its end.
    searched: usize,
    /// The first line that is not empty.
    start: Option<Span>,
}

/// What has come of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not even the next line.
    Partial,
    /// The first line, without its end. What is wrong with it is to be said before more is read.
    Start(Span),
    /// All of it, up to its empty line: so many bytes.
    Complete(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    Malformed(&'static str),
    StartTooLong,
    TooLong,
    TooManyFields,
}

/// Empty lines before a request are skipped (RFC 9112, section 2.2), but not more than this.
const MOST_EMPTY: usize = 8;
/// What a first line has besides its target: a method, a version, what is between, and its end.
const START_LINE: usize = 64;

impl HeadParser {
    /// Whether something of a head has come.
    pub fn has_begun(&self) -> bool {
        self.searched > 0
    }

    /// Reads the lines that are complete in `input`, which begins with the head and has grown since
    /// the last call. When the head is complete, its bytes are in `fields`.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        limits: &Limits,
        fields: &mut Fields,
    ) -> Result<Progress, HeadError> {
        loop {
            if self.start.is_none() {
                begins_well(&input[self.line.min(input.len())..])?;
            }
            let Some(lf) = line_end(input.get(self.searched..).unwrap_or_default()) else {
                self.searched = input.len();
                // One more byte at least is to come.
                return self.within(limits, input.len() + 1).map(|()| Progress::Partial);
            };
            let (begin, end) = (self.line, self.searched + lf + 1);
            self.within(limits, end)?;
            (self.line, self.searched) = (end, end);
            if !input[begin..end].ends_with(b"\r\n") {
                return Err(HeadError::Malformed("a line does not end with CRLF"));
            }
            let line = Span::new(begin, end - 2);
            match (self.start, line.is_empty()) {
                (Some(_), true) => {
                    fields.block.clear();
                    fields.block.extend_from_slice(&input[..end]);
                    return Ok(Progress::Complete(end));
                }
                (Some(_), false) => {
                    if limits.fields <= fields.table.len() {
                        return Err(HeadError::TooManyFields);
                    }
                    fields.table.push(field(input, line).map_err(HeadError::Malformed)?);
                }
                (None, true) if MOST_EMPTY < end => {
                    return Err(HeadError::Malformed("too many empty lines"));
                }
                (None, true) => {}
                (None, false) => {
                    self.start = Some(line);
                    return Ok(Progress::Start(line));
                }
            }
        }
    }

    /// Reads fields that have no first line before them. Returns how many bytes they have.
    pub(super) fn read_trailers(
        &mut self,
        input: &[u8],
        limits: &Limits,
        fields: &mut Fields,
    ) -> Result<Option<usize>, HeadError> {
        self.start.get_or_insert_default();
        match self.read(input, limits, fields)? {
            Progress::Complete(length) => Ok(Some(length)),
            Progress::Partial | Progress::Start(_) => Ok(None),
        }
    }

    /// Whether the line that has begun may be so long that it ends at `end`. Said of a line that is
    /// complete and of one that is not in the same way, so that it makes no difference in which
    /// pieces it came.
    fn within(&self, limits: &Limits, end: usize) -> Result<(), HeadError> {
        let is_first = self.start.is_none();
        if is_first && limits.target.saturating_add(START_LINE) < end - self.line {
            return Err(HeadError::StartTooLong);
        }
        match end <= limits.head {
            true => Ok(()),
            false if is_first => Err(HeadError::StartTooLong),
            false => Err(HeadError::TooLong),
        }
    }
}

fn line_end(rest: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', rest);
    #[cfg(test)]
    tests::SEARCHED.set(tests::SEARCHED.get() + end.map_or(rest.len(), |lf| lf + 1));
    end
}

/// Whether it may be the beginning of a first line, or of an empty one before it: that of a TLS
/// handshake or of another protocol need not be waited for to its line's end.
fn begins_well(line: &[u8]) -> Result<(), HeadError> {
    match line {
        [] | [b'\r'] | [b'\r', b'\n', ..] => Ok(()),
        [first, ..] if is_token_char(*first) => Ok(()),
        [b'\n', ..] => Err(HeadError::Malformed("a line does not end with CRLF")),
        _ => Err(HeadError::Malformed("this is no HTTP")),
    }
}

/// Reads a field's line. `line` is a part of `input`.
pub(super) fn field(input: &[u8], line: Span) -> Result<Field, &'static str> {
    let text = line.of(input);
    let Some(length) = text.iter().position(|c| !is_token_char(*c)) else {
        return Err("a field has no colon");
    };
    match (length, text[length]) {
        (0, b' ' | b'\t') => return Err("a field's line begins with white space"),
        (0, b':') => return Err("a field has no name"),
        (_, b':') => {}
        (_, b' ' | b'\t') => return Err("white space before a field's colon"),
        _ => return Err("a field's name has a character that is not allowed there"),
    }
    let (name, rest) = text.split_at(length);
    let value = trim(&rest[1..]);
    if !is_value(value) {
        return Err("a field's value has a control character");
    }
    let start = line.start as usize;
    // Where the value is within the line.
    let leading = rest.len() - 1 - trim_start(&rest[1..]).len();
    let begin = start + length + 1 + leading;
    Ok(Field {
        known: Name::of(name),
        name: Span::new(start, start + length),
        value: Span::new(begin, begin + value.len()),
        is_nominated: false,
    })
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Bytes among which the ends of lines were searched.
        pub static SEARCHED: Cell<usize> = const { Cell::new(0) };
    }

    const LIMITS: Limits = Limits { head: 200, fields: 3, target: 20 };

    /// Reads a head's beginning that comes in one piece, past its first line.
    fn read(input: &[u8]) -> Result<Progress, HeadError> {
        let (mut parser, mut fields) = (HeadParser::default(), Fields::default());
        loop {
            match parser.read(input, &LIMITS, &mut fields) {
                Ok(Progress::Start(_)) => {}
                other => return other,
            }
        }
    }

    #[test]
    fn a_byte_is_searched_once_however_the_head_is_cut() {
        let head = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nA: bbbbbbbbbbbbbbbbbbbbbb\r\n\r\nGET";
        for step in 1..=head.len() {
            let (mut parser, mut fields) = (HeadParser::default(), Fields::default());
            SEARCHED.set(0);
            let mut length = None;
            for end in (step..head.len() + step).step_by(step) {
                let input = &head[..end.min(head.len())];
                while length.is_none() {
                    match parser.read(input, &LIMITS, &mut fields).expect("a proper head") {
                        Progress::Complete(complete) => length = Some(complete),
                        Progress::Start(_) => {}
                        Progress::Partial => break,
                    }
                }
            }
            assert_eq!(length, Some(head.len() - 3), "in pieces of {step}");
            assert_eq!(SEARCHED.get(), head.len() - 3, "in pieces of {step}");
            assert_eq!(fields.block, head[..head.len() - 3], "in pieces of {step}");
        }
    }

    #[test]
    fn a_head_has_begun_when_a_byte_of_it_has_come() {
        let (mut parser, mut fields) = (HeadParser::default(), Fields::default());
        assert!(!parser.has_begun());
        assert_eq!(parser.read(b"", &LIMITS, &mut fields), Ok(Progress::Partial));
        assert!(!parser.has_begun());
        assert_eq!(parser.read(b"G", &LIMITS, &mut fields), Ok(Progress::Partial));
        assert!(parser.has_begun());
    }

    #[test]
    fn a_first_line_is_handed_out_before_what_follows_is_read() {
        let (mut parser, mut fields) = (HeadParser::default(), Fields::default());
        let input = b"\r\nGET / HTTP/1.1\r\nnonsense\r\n";
        let start = Progress::Start(Span::new(2, 16));
        assert_eq!(parser.read(input, &LIMITS, &mut fields), Ok(start));
        assert!(parser.read(input, &LIMITS, &mut fields).is_err());
    }

    /// The longest that is taken and the shortest that is not, both of them before they have ended.
    #[test]
    fn what_is_too_long_is_refused_while_it_comes() {
        let line = |length: usize| "G".repeat(length);
        assert_eq!(read(line(20 + 64 - 1).as_bytes()), Ok(Progress::Partial));
        assert_eq!(read(line(20 + 64).as_bytes()), Err(HeadError::StartTooLong));
        assert_eq!(read((line(20 + 64 - 2) + "\r\n").as_bytes()), Ok(Progress::Partial));
        assert_eq!(read((line(20 + 64 - 1) + "\r\n").as_bytes()), Err(HeadError::StartTooLong));

        // An empty line before it is not of it.
        let after = |line: String| "\r\n".to_owned() + &line + "\r\n";
        assert_eq!(read(after(line(20 + 64 - 2)).as_bytes()), Ok(Progress::Partial));
        assert_eq!(read(after(line(20 + 64 - 1)).as_bytes()), Err(HeadError::StartTooLong));

        let head = |length: usize| format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(length - 19));
        assert_eq!(read(head(199).as_bytes()), Ok(Progress::Partial));
        assert_eq!(read(head(200).as_bytes()), Err(HeadError::TooLong));
        assert_eq!(read((head(196) + "\r\n\r\n").as_bytes()), Ok(Progress::Complete(200)));
        assert_eq!(read((head(197) + "\r\n\r\n").as_bytes()), Err(HeadError::TooLong));

        let fields = |count: usize| "GET / HTTP/1.1\r\n".to_owned() + &"A: b\r\n".repeat(count);
        assert_eq!(read(fields(3).as_bytes()), Ok(Progress::Partial));
        assert_eq!(read(fields(4).as_bytes()), Err(HeadError::TooManyFields));
    }

    #[test]
    fn a_first_line_is_too_long_also_where_the_whole_head_is() {
        let limits = Limits { head: 10, ..LIMITS };
        let (mut parser, mut fields) = (HeadParser::default(), Fields::default());
        let read = parser.read(b"GET /aaaaaaaa", &limits, &mut fields);
        assert_eq!(read, Err(HeadError::StartTooLong));
    }

    #[test]
    fn what_is_no_http_is_refused_at_its_first_byte() {
        for first in 0..=255u8 {
            let is_refused = read(&[first]).is_err();
            assert_eq!(is_refused, !is_token_char(first) && first != b'\r', "{first}");
        }
        assert!(read(b"\rG").is_err());
        assert!(read(b"\r\n\0").is_err());
        let why = HeadError::Malformed("a line does not end with CRLF");
        assert_eq!((read(b"\n"), read(b"\r\n\n")), (Err(why), Err(why)));
        assert_eq!(read(b"\r\n\r\n\r\n\r\n"), Ok(Progress::Partial));
        assert!(read(b"\r\n\r\n\r\n\r\n\r\n").is_err());
    }

    #[test]
    fn a_field_is_where_its_bytes_are() {
        let input = b"xxA-b:\t c d \tyy";
        let found = field(input, Span::new(2, 13)).expect("a proper field");
        assert_eq!((found.name.of(input), found.value.of(input)), (&b"A-b"[..], &b"c d"[..]));
        assert!(!found.is_nominated);
    }

    #[test]
    fn a_field_that_is_none_says_why() {
        let why = |line: &str| field(line.as_bytes(), Span::new(0, line.len())).expect_err(line);
        assert_eq!(why("a"), "a field has no colon");
        assert_eq!(why(" a: b"), "a field's line begins with white space");
        assert_eq!(why("\ta: b"), "a field's line begins with white space");
        assert_eq!(why(": b"), "a field has no name");
        assert_eq!(why("a : b"), "white space before a field's colon");
        assert_eq!(why("a\t: b"), "white space before a field's colon");
        assert_eq!(why("a\"b: c"), "a field's name has a character that is not allowed there");
        assert_eq!(why("\"b: c"), "a field's name has a character that is not allowed there");
        assert_eq!(why("a: \u{7}"), "a field's value has a control character");
    }
}
