//! Bodies: where they end, and what of the bytes on the wire is theirs.

use super::{
    chunked::ChunkedDecoder,
    decoded::{BodyError, Decoded},
};
use crate::message::{Fields, RequestBody, ResponseBody};

/// Reads one body. Pure: it is shown bytes, and says what they are.
#[derive(Debug, Default)]
pub enum BodyDecoder {
    /// There is none, or it has ended.
    #[default]
    Empty,
    Length {
        left: u64,
    },
    Chunked(ChunkedDecoder),
    /// It ends where its connection does.
    UntilClose,
}

impl BodyDecoder {
    pub fn of_request(body: RequestBody) -> Self {
        match body {
            RequestBody::None => Self::Empty,
            RequestBody::Length(left) => Self::Length { left },
            RequestBody::Chunked => Self::Chunked(ChunkedDecoder::default()),
        }
    }

    pub fn of_response(body: ResponseBody) -> Self {
        match body {
            ResponseBody::None => Self::Empty,
            ResponseBody::Length(left) => Self::Length { left },
            ResponseBody::Chunked => Self::Chunked(ChunkedDecoder::default()),
            ResponseBody::UntilClose => Self::UntilClose,
        }
    }

    /// Whether nothing more is to come. A body that ends with its connection is never complete.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Length { left } => *left == 0,
            Self::Chunked(chunked) => chunked.is_end(),
            Self::UntilClose => false,
        }
    }

    /// Bytes that are still to come for certain, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Length { left } => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Fields that came after a chunked body, once it has ended.
    pub fn trailers(&self) -> Option<&Fields> {
        match self {
            Self::Chunked(chunked) => chunked.trailers(),
            Self::Empty | Self::Length { .. } | Self::UntilClose => None,
        }
    }

    /// Memory that it holds besides itself, in bytes.
    pub fn buffered(&self) -> usize {
        match self {
            Self::Chunked(chunked) => chunked.buffered(),
            Self::Empty | Self::Length { .. } | Self::UntilClose => 0,
        }
    }

    /// Reads the bytes that came next on the connection; may move some of them within `bytes`.
    ///
    /// # Errors
    /// If they cannot be of this body.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BodyError> {
        let take = match self {
            Self::Empty => 0,
            Self::Length { left } => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                take
            }
            Self::Chunked(chunked) => return chunked.decode(bytes),
            Self::UntilClose => bytes.len(),
        };
        Ok(Decoded { payload: 0..take, consumed: take, is_end: self.is_end() })
    }

    /// So many bytes of the body went another way than through [`decode`](Self::decode).
    pub fn skip(&mut self, bytes: u64) {
        if let Self::Length { left } = self {
            *left = left.saturating_sub(bytes);
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// If the body has not.
    pub fn end(&mut self) -> Result<(), BodyError> {
        match self {
            Self::UntilClose => {
                *self = Self::Empty;
                Ok(())
            }
            _ if self.is_end() => Ok(()),
            _ => Err(BodyError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_a_length_ends_there() {
        let mut body = BodyDecoder::of_request(RequestBody::Length(5));
        assert_eq!(body.left(), Some(5));
        let part = Decoded { payload: 0..3, consumed: 3, is_end: false };
        assert_eq!(body.decode(&mut b"hel".to_vec()), Ok(part));
        assert_eq!((body.left(), body.end()), (Some(2), Err(BodyError::Truncated)));
        let rest = Decoded { payload: 0..2, consumed: 2, is_end: true };
        assert_eq!(body.decode(&mut b"loGET".to_vec()), Ok(rest));
        assert_eq!((body.left(), body.end(), body.is_end()), (Some(0), Ok(()), true));
    }

    #[test]
    fn what_goes_another_way_counts() {
        let mut body = BodyDecoder::of_response(ResponseBody::Length(5));
        body.skip(3);
        assert_eq!((body.left(), body.is_end()), (Some(2), false));
        body.skip(3);
        assert_eq!((body.left(), body.is_end()), (Some(0), true));
        let mut body = BodyDecoder::of_response(ResponseBody::UntilClose);
        body.skip(3);
        assert!(!body.is_end());
    }

    #[test]
    fn a_body_without_a_length_ends_with_its_connection() {
        let mut body = BodyDecoder::of_response(ResponseBody::UntilClose);
        let all = Decoded { payload: 0..5, consumed: 5, is_end: false };
        assert_eq!(body.decode(&mut b"hello".to_vec()), Ok(all));
        assert_eq!((body.left(), body.is_end()), (None, false));
        assert_eq!((body.end(), body.is_end()), (Ok(()), true));
    }

    #[test]
    fn no_body_takes_nothing() {
        for mut body in [
            BodyDecoder::of_request(RequestBody::None),
            BodyDecoder::of_request(RequestBody::Length(0)),
            BodyDecoder::of_response(ResponseBody::None),
            BodyDecoder::default(),
        ] {
            let nothing = Decoded { payload: 0..0, consumed: 0, is_end: true };
            assert_eq!(body.decode(&mut b"GET".to_vec()), Ok(nothing));
            assert_eq!((body.left(), body.buffered(), body.end()), (Some(0), 0, Ok(())));
            assert!(body.trailers().is_none());
        }
    }

    #[test]
    fn chunks_end_with_the_last_one_and_have_trailers() {
        for mut body in [
            BodyDecoder::of_request(RequestBody::Chunked),
            BodyDecoder::of_response(ResponseBody::Chunked),
        ] {
            body.decode(&mut b"1\r\na\r\n0\r\nB: c\r\n".to_vec()).expect("proper chunks");
            assert_eq!((body.left(), body.is_end()), (None, false));
            assert_eq!(body.end(), Err(BodyError::Truncated));
            assert!(body.buffered() > 0 && body.trailers().is_none());
            body.decode(&mut b"\r\n".to_vec()).expect("proper trailers");
            assert!(body.is_end() && body.trailers().is_some_and(|fields| fields.len() == 1));
        }
    }
}
