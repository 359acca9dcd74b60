//! The chunked coding (RFC 9112, section 7.1), read strictly: a size has hex digits only, and every
//! line ends with CRLF.

use super::{
    decoded::{BodyError, Decoded},
    head::{HeadError, HeadParser, Limits},
    syntax::is_value,
};
use crate::message::Fields;

/// Where in a chunked body its reader is.
#[derive(Debug, Default)]
pub struct ChunkedDecoder {
    state: State,
    /// Bytes so far that say nothing: of chunk extensions, and zeros before a size. Nobody uses
    /// them, and everybody has to read them.
    idle: usize,
    /// Only for a body that has trailers.
    trailers: Option<Box<Trailers>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size {
        has_digits: bool,
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    LastCr,
    LastLf,
    Trailers,
    End,
    /// What is wrong with it. It cannot be read on.
    Malformed(&'static str),
}

#[derive(Debug, Default)]
struct Trailers {
    /// All bytes of them so far.
    section: Vec<u8>,
    parser: HeadParser,
    fields: Fields,
}

/// A size that has reached this takes no further digit: 52 bits are what all readers can count.
const LAST_DIGIT_BELOW: u64 = 1 << 48;
/// Of all chunks of a body.
const MOST_IDLE: usize = 4 * 1024;
const TRAILER_LIMITS: Limits = Limits { head: 16 * 1024, fields: 100, target: 0 };

impl Default for State {
    fn default() -> Self {
        Self::Size { has_digits: false, size: 0 }
    }
}

impl ChunkedDecoder {
    pub fn is_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref().map(|trailers| &trailers.fields).filter(|_| self.is_end())
    }

    /// Memory that trailers hold, in bytes.
    pub fn buffered(&self) -> usize {
        self.trailers.as_ref().map_or(0, |trailers| trailers.section.capacity())
    }

    /// Reads what is in `bytes`, and moves the data of its chunks together: behind that of the first
    /// one, which stays where it is. What was malformed once stays so.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BodyError> {
        let decoded = self.read(bytes);
        if let Err(BodyError::Malformed(what)) = decoded {
            self.state = State::Malformed(what);
        }
        decoded
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<Decoded, BodyError> {
        let mut payload = 0..0;
        let mut at = 0;
        while at < bytes.len() && !self.is_end() {
            if let State::Data { left } = self.state {
                let run = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                if payload.is_empty() {
                    payload = at..at + run;
                } else {
                    bytes.copy_within(at..at + run, payload.end);
                    payload.end += run;
                }
                at += run;
                self.state = match left - run as u64 {
                    0 => State::DataCr,
                    left => State::Data { left },
                };
                continue;
            }
            if let State::Trailers = self.state {
                at += self.read_trailers(&bytes[at..])?;
                continue;
            }
            self.state = self.step(bytes[at])?;
            // The first byte of trailers is read by who reads them.
            at += usize::from(!matches!(self.state, State::Trailers));
        }
        Ok(Decoded { payload, consumed: at, is_end: self.is_end() })
    }

    /// What comes after a byte that is not of a chunk's data.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        let next = match (self.state, byte) {
            (State::Size { has_digits: true, size }, b'\r') => State::SizeLf { size },
            (State::Size { has_digits: true, size }, b';') => State::Extension { size },
            (State::Size { has_digits, size }, byte) => {
                let digit = char::from(byte).to_digit(16);
                let digit = digit.ok_or(malformed("a chunk's size is not hexadecimal"))?;
                if LAST_DIGIT_BELOW <= size {
                    return Err(malformed("a chunk's size is too long"));
                }
                if has_digits && size == 0 {
                    self.count_idle()?;
                }
                State::Size { has_digits: true, size: size << 4 | u64::from(digit) }
            }
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, byte) => {
                self.count_idle()?;
                if !is_value(&[byte]) {
                    return Err(malformed("a chunk's extension has a control character"));
                }
                State::Extension { size }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::LastCr,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::SizeLf { .. }, _) => return Err(malformed("a chunk's size ends without LF")),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::default(),
            (State::DataCr | State::DataLf, _) => {
                return Err(malformed("a chunk is longer than its size"));
            }
            (State::LastCr, b'\r') => State::LastLf,
            (State::LastCr, _) => State::Trailers,
            (State::LastLf, b'\n') => State::End,
            (State::LastLf, _) => return Err(malformed("the last chunk does not end with CRLF")),
            (State::Malformed(what), _) => return Err(malformed(what)),
            (state @ (State::Data { .. } | State::Trailers | State::End), _) => state,
        };
        Ok(next)
    }

    fn count_idle(&mut self) -> Result<(), BodyError> {
        self.idle += 1;
        match self.idle <= MOST_IDLE {
            true => Ok(()),
            false => Err(malformed("the chunks' extensions are too long")),
        }
    }

    /// Returns how many of the bytes are of the trailers.
    fn read_trailers(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let trailers = self.trailers.get_or_insert_default();
        let before = trailers.section.len();
        // What fills it without an end is refused at once.
        let room = TRAILER_LIMITS.head.saturating_sub(before);
        trailers.section.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Trailers { section, parser, fields } = &mut **trailers;
        match parser.read_trailers(section, &TRAILER_LIMITS, fields) {
            Ok(None) => Ok(section.len() - before),
            Ok(Some(length)) => {
                self.state = State::End;
                Ok(length - before)
            }
            Err(HeadError::Malformed(what)) => Err(malformed(what)),
            Err(HeadError::StartTooLong | HeadError::TooLong | HeadError::TooManyFields) => {
                Err(malformed("the trailers are too long"))
            }
        }
    }
}

fn malformed(what: &'static str) -> BodyError {
    BodyError::Malformed(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_malformed_once_stays_so() {
        for bytes in ["x\r\n", "0\r\nX\r\n\r\n", "1\r\naa\r\n", "0\r\n: 1\r\n\r\n"] {
            let mut decoder = ChunkedDecoder::default();
            let mut decode = |bytes: &str| decoder.decode(&mut bytes.as_bytes().to_vec());
            let first = decode(bytes).expect_err("it is malformed");
            for next in [bytes, "0\r\n\r\n"] {
                assert_eq!(decode(next), Err(first), "{bytes:?}, then {next:?}");
            }
        }
    }

    #[test]
    fn data_moves_together_behind_that_of_the_first_chunk() {
        let mut decoder = ChunkedDecoder::default();
        let mut bytes = *b"3\r\nabc\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\nGET";
        let decoded = decoder.decode(&mut bytes).expect("proper chunks");
        assert_eq!(decoded, Decoded { payload: 3..9, consumed: bytes.len() - 3, is_end: true });
        assert_eq!(&bytes[3..9], b"abcdef");
        assert_eq!(&bytes[decoded.consumed..], b"GET", "what follows is not touched");
    }

    #[test]
    fn data_of_one_chunk_does_not_move() {
        let mut decoder = ChunkedDecoder::default();
        let mut bytes = *b"5;x\r\nhel";
        let decoded = decoder.decode(&mut bytes).expect("a proper chunk");
        assert_eq!(decoded, Decoded { payload: 5..8, consumed: 8, is_end: false });
        assert_eq!(bytes, *b"5;x\r\nhel");
        let mut bytes = *b"lo\r\n0";
        let decoded = decoder.decode(&mut bytes).expect("a proper chunk");
        assert_eq!(decoded, Decoded { payload: 0..2, consumed: 5, is_end: false });
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        let mut decoder = ChunkedDecoder::default();
        assert!(!decoder.is_end());
        let mut bytes = *b"0\r\n\r\n";
        assert_eq!(decoder.decode(&mut bytes).map(|decoded| decoded.consumed), Ok(5));
        assert!(decoder.is_end());
        let mut more = *b"x";
        let nothing = Decoded { payload: 0..0, consumed: 0, is_end: true };
        assert_eq!(decoder.decode(&mut more), Ok(nothing));
    }

    #[test]
    fn trailers_are_there_once_they_are_complete_and_hold_memory() {
        let mut decoder = ChunkedDecoder::default();
        assert_eq!(decoder.buffered(), 0);
        decoder.decode(&mut b"0\r\nA: b\r\nC: d\r\n".to_vec()).expect("proper trailers");
        assert!(decoder.trailers().is_none() && decoder.buffered() >= 12);
        let decoded = decoder.decode(&mut b"\r\nGET".to_vec()).expect("proper trailers");
        assert_eq!(decoded, Decoded { payload: 0..0, consumed: 2, is_end: true });
        let trailers = decoder.trailers().expect("some came");
        let pairs: Vec<_> = trailers.pairs().collect();
        assert_eq!(pairs, [(&b"A"[..], &b"b"[..]), (&b"C"[..], &b"d"[..])]);
    }

    /// However large a body is and however it is cut, what it makes the decoder hold is bounded.
    #[test]
    fn trailers_hold_no_more_than_their_limit() {
        for piece in [1, 1000, 100_000] {
            let mut decoder = ChunkedDecoder::default();
            decoder.decode(&mut b"0\r\n".to_vec()).expect("a proper last chunk");
            let text = b"A: ".iter().copied().chain(std::iter::repeat_n(b'b', 100_000));
            let mut text: Vec<u8> = text.collect();
            let mut pieces = text.chunks_mut(piece);
            let error = pieces.find_map(|piece| decoder.decode(piece).err());
            assert_eq!(error, Some(malformed("the trailers are too long")));
            assert!(decoder.buffered() <= 2 * TRAILER_LIMITS.head + 2, "{}", decoder.buffered());
        }
    }

    #[test]
    fn trailers_of_just_their_limit_are_taken() {
        for (extra, is_taken) in [(0, true), (1, false)] {
            let value = "b".repeat(16_384 - "A: \r\n\r\n".len() + extra);
            let mut bytes = format!("0\r\nA: {value}\r\n\r\n").into_bytes();
            assert_eq!(ChunkedDecoder::default().decode(&mut bytes).is_ok(), is_taken);
        }
    }

    #[test]
    fn what_is_malformed_says_why() {
        #[rustfmt::skip]
        let cases = [
            ("x", "a chunk's size is not hexadecimal"),
            ("\r", "a chunk's size is not hexadecimal"),
            (";", "a chunk's size is not hexadecimal"),
            ("10000000000000", "a chunk's size is too long"),
            ("1;\n", "a chunk's extension has a control character"),
            ("1\rx", "a chunk's size ends without LF"),
            ("1\r\nab", "a chunk is longer than its size"),
            ("1\r\na\rb", "a chunk is longer than its size"),
            ("0\r\n\rx", "the last chunk does not end with CRLF"),
            ("0\r\nA\r\n", "a field has no colon"),
        ];
        for (text, why) in cases {
            let result = ChunkedDecoder::default().decode(&mut text.as_bytes().to_vec());
            assert_eq!(result, Err(malformed(why)), "{text:?}");
        }
    }
}
