//! How long a message's body is, and whether that can be read in one way only (RFC 9112, section
//! 6).
//!
//! Every doubt is an error: whoever forwards a message that two readers cut in two ways lets a
//! client put words into another's mouth.

use super::syntax::{number, trim};
use crate::message::{Fields, Name};

/// What the fields say of a body's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    pub length: Option<u64>,
    pub is_chunked: bool,
}

/// Of a request.
///
/// # Errors
/// What is wrong. Two lengths are, even if they are equal.
pub fn of_request(fields: &Fields) -> Result<Framing, &'static str> {
    let length =
        match only(fields, Name::ContentLength).map_err(|()| "more than one content-length")? {
            None => None,
            Some(value) => Some(length_of(value).ok_or("the content-length is not a number")?),
        };
    with_coding(fields, length)
}

/// Of a response. Lengths that are equal are one (RFC 9110, section 8.6): some backends add theirs
/// to what an application set.
///
/// # Errors
/// What is wrong.
pub fn of_response(fields: &Fields) -> Result<Framing, &'static str> {
    let mut length = None;
    let values = fields.all(Name::ContentLength).flat_map(|value| value.split(|c| *c == b','));
    for value in values.map(trim) {
        let value = length_of(value).ok_or("the content-length is not a number")?;
        if length.is_some_and(|length| length != value) {
            return Err("two lengths that differ");
        }
        length = Some(value);
    }
    with_coding(fields, length)
}

fn with_coding(fields: &Fields, length: Option<u64>) -> Result<Framing, &'static str> {
    let coding =
        only(fields, Name::TransferEncoding).map_err(|()| "more than one transfer-encoding")?;
    match (coding, length) {
        (None, _) => Ok(Framing { length, is_chunked: false }),
        (Some(_), Some(_)) => Err("both content-length and transfer-encoding"),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing { length, is_chunked: true })
        }
        (Some(_), None) => Err("a transfer coding besides chunked"),
    }
}

/// A length. One that a signed integer cannot hold is none: some readers count in those.
fn length_of(value: &[u8]) -> Option<u64> {
    number(value).filter(|length| i64::try_from(*length).is_ok())
}

/// The value of a field that may be there once.
fn only(fields: &Fields, name: Name) -> Result<Option<&[u8]>, ()> {
    let mut values = fields.all(name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(()),
        (value, None) => Ok(value),
    }
}
