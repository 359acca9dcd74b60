//! Runs vectors: whole, byte by byte, and, if they are short, cut in two at every place. What is
//! read must be the same, and as expected.

use std::fmt::Write;

use lb_http::h1::{BodyDecoder, Limits};

use crate::text::{self, Vector};

/// What was found in the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub read: String,
    /// `None` if the message was not read whole.
    pub written: Option<Vec<u8>>,
}

/// Those of a proxy that is not configured otherwise.
pub const LIMITS: Limits = Limits { head: 64 * 1024, fields: 100, target: 16 * 1024 };

/// Vectors up to this long are cut at every place.
const SHORT: usize = 400;

/// Runs all vectors in all pieces, and says which are not as expected.
pub fn check(files: &[&str], at_least: usize, run: impl Fn(&Vector, &[&[u8]]) -> Vec<Found>) {
    let vectors: Vec<Vector> = files.iter().flat_map(|file| text::parse(file)).collect();
    assert!(at_least <= vectors.len(), "{} vectors", vectors.len());
    let mut failures = String::new();
    for vector in &vectors {
        let whole = run(vector, &[&vector.bytes]);
        compare(vector, &whole, &mut failures);
        let single: Vec<&[u8]> = vector.bytes.chunks(1).collect();
        if run(vector, &single) != whole {
            writeln!(failures, "{}: otherwise byte by byte", vector.name).expect("a string");
        }
        let cuts = if vector.bytes.len() <= SHORT { vector.bytes.len() } else { 0 };
        for cut in 1..cuts {
            let (first, second) = vector.bytes.split_at(cut);
            if run(vector, &[first, second]) != whole {
                writeln!(failures, "{}: otherwise cut at {cut}", vector.name).expect("a string");
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

fn compare(vector: &Vector, found: &[Found], failures: &mut String) {
    let expected: Vec<&str> = vector.messages.iter().map(|m| m.read.as_str()).collect();
    let read: Vec<&str> = found.iter().map(|found| found.read.as_str()).collect();
    if expected != read {
        let name = &vector.name;
        writeln!(failures, "{name}\n  expected {expected:?}\n  read     {read:?}")
            .expect("a string");
        return;
    }
    for (expected, found) in vector.messages.iter().zip(found) {
        let Some(written) = &expected.written else { continue };
        let found = found.written.as_deref().unwrap_or(b"nothing");
        if written != found {
            let (name, expected, found) = (&vector.name, show(written), show(found));
            writeln!(failures, "{name}\n  expected {expected}\n  written  {found}")
                .expect("a string");
        }
    }
}

/// A body as it is read, in one piece or many.
#[derive(Default)]
pub struct Body {
    pub decoder: BodyDecoder,
    pub payload: Vec<u8>,
}

/// How far a body has come.
pub enum Taken {
    InPart,
    Whole,
    Malformed,
}

impl Body {
    /// Takes what is the body's from the front of `buffer`.
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> Taken {
        match self.decoder.decode(buffer) {
            Ok(decoded) => {
                assert!(decoded.payload.end <= decoded.consumed, "{decoded:?}");
                assert_eq!(decoded.is_end, self.decoder.is_end());
                self.payload.extend_from_slice(&buffer[decoded.payload]);
                buffer.drain(..decoded.consumed);
                if decoded.is_end { Taken::Whole } else { Taken::InPart }
            }
            Err(_) => Taken::Malformed,
        }
    }
}

/// Bytes as text; as vectors have them, save that nothing is repeated.
pub fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            0 => text.push_str("\\0"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => write!(text, "\\x{other:02x}").expect("a string"),
        }
    }
    text
}
