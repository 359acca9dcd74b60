//! What must hold for any bytes, whoever made them: properties draw them, fuzzers search them.
//!
//! - In which pieces bytes come makes no difference to what is read, errors included.
//! - What is written of a message that was read is read again, and means the same.
//! - What does not go on is not there.

mod chunks;
pub mod requests;
mod responses;

use lb_http::{
    h1::{BodyDecoder, BodyError, Limits, encode},
    hop,
    message::Fields,
};

pub use chunks::{chunked, to_chunks};
pub use requests::requests;
pub use responses::responses;

/// Those of a proxy that is not configured otherwise.
const LIMITS: Limits = Limits { head: 64 * 1024, fields: 100, target: 16 * 1024 };
/// For heads that a proxy has added to.
const MORE: Limits = Limits { head: 128 * 1024, fields: 120, target: 32 * 1024 };

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<M, E> {
    Message(M),
    /// A head that is not complete.
    Head,
    /// A message whose body is not complete.
    Body(M),
    Refused(E),
    BadBody(BodyError),
    /// Bytes that are not read as HTTP.
    Left(usize),
}

/// Cuts bytes into pieces: single ones, small ones, or any.
fn cut(bytes: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let most = [1, 4, bytes.len().max(1)][random.usize(..3)];
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(1..=most.min(rest.len())));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

/// A body's decoder, and what it has found.
#[derive(Default)]
struct Body {
    decoder: BodyDecoder,
    payload: Vec<u8>,
}

impl Body {
    /// Takes what is the body's from the front of `buffer`.
    fn take(&mut self, buffer: &mut Vec<u8>) -> Result<bool, BodyError> {
        let decoded = self.decoder.decode(buffer)?;
        assert!(decoded.payload.start <= decoded.payload.end, "{decoded:?}");
        assert!(decoded.payload.end <= decoded.consumed, "{decoded:?}");
        assert!(decoded.consumed <= buffer.len(), "{decoded:?}");
        assert!(decoded.is_end || decoded.consumed == buffer.len(), "{decoded:?}");
        self.payload.extend_from_slice(&buffer[decoded.payload]);
        buffer.drain(..decoded.consumed);
        // What trailers may have, twice over, as a buffer grows.
        assert!(self.decoder.buffered() <= 64 * 1024);
        Ok(decoded.is_end)
    }
}

/// Those that go on after these fields.
fn trailers(head: &Fields, body: &Body) -> Pairs {
    let Some(trailers) = body.decoder.trailers() else { return Vec::new() };
    let bytes = |span| trailers.bytes(span).to_vec();
    let goes_on = trailers.iter().filter(|field| {
        hop::trailer_goes_on(field.known) && !head.nominated().has(trailers.bytes(field.name))
    });
    goes_on.map(|field| (bytes(field.name), bytes(field.value))).collect()
}

fn write_body(out: &mut Vec<u8>, head: &Fields, body: &Body, is_chunked: bool) {
    if is_chunked && !body.payload.is_empty() {
        encode::chunk_begin(out, body.payload.len());
        out.extend_from_slice(&body.payload);
        out.extend_from_slice(encode::CRLF);
    } else {
        out.extend_from_slice(&body.payload);
    }
    if is_chunked {
        encode::last_chunk_after(out, head, body.decoder.trailers());
    }
}
