//! Chunked bodies.

use lb_http::{
    h1::{BodyDecoder, BodyError, encode},
    message::{Fields, RequestBody},
};

use super::{Body, Pairs, cut};

/// Checks bytes that are read as a chunked body. Returns the body and where it ends, if it does.
pub fn chunked(bytes: &[u8], seed: u64) -> Option<(Vec<u8>, usize)> {
    let whole = read_chunks(&mut [bytes.to_vec()]);
    let mut pieces = cut(bytes, seed);
    assert_eq!(read_chunks(&mut pieces), whole, "cut into {pieces:?}");
    let (payload, consumed, trailers) = whole.ok()??;
    assert!(payload.len() < consumed);

    let mut written = to_chunks(&payload, &mut fastrand::Rng::with_seed(seed));
    for (name, value) in &trailers {
        written.extend_from_slice(&[&name[..], b":", value, b"\r\n"].concat());
    }
    written.extend_from_slice(b"\r\n");
    let again = read_chunks(&mut [written.clone()]).expect("it was written by the rules");
    assert_eq!(again, Some((payload.clone(), written.len(), trailers)));
    Some((payload, consumed))
}

/// In chunks of any sizes, up to the line of the last one.
pub fn to_chunks(payload: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut written = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(random.usize(1..=rest.len()));
        rest = after;
        match random.u8(..4) {
            0 => written.extend_from_slice(format!("{:X};a=\"b\"\r\n", chunk.len()).as_bytes()),
            1 => written.extend_from_slice(format!("0{:x}\r\n", chunk.len()).as_bytes()),
            _ => encode::chunk_begin(&mut written, chunk.len()),
        }
        written.extend_from_slice(chunk);
        written.extend_from_slice(encode::CRLF);
    }
    written.extend_from_slice(b"0\r\n");
    written
}

type Chunks = Option<(Vec<u8>, usize, Pairs)>;

/// The body, how many bytes it had, and its trailers; nothing if it is not complete.
fn read_chunks(pieces: &mut [Vec<u8>]) -> Result<Chunks, BodyError> {
    let decoder = BodyDecoder::of_request(RequestBody::Chunked);
    let mut body = Body { decoder, payload: Vec::new() };
    let mut consumed = 0;
    for piece in pieces {
        let length = piece.len();
        let mut buffer = piece.clone();
        let is_end = body.take(&mut buffer)?;
        consumed += length - buffer.len();
        if is_end {
            let trailers = body.decoder.trailers();
            let pairs = trailers.into_iter().flat_map(Fields::pairs);
            let pairs = pairs.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            return Ok(Some((body.payload, consumed, pairs)));
        }
    }
    Ok(None)
}
