//! What holds for any bytes, on bytes that are drawn: those of the vectors, changed at random.

use fastrand::Rng;
use lb_http::message::Method;

use crate::{
    checks::{self, Read},
    text::{self, Vector},
};

/// Changed this often, each in another way.
const CHANGES: usize = 60;
/// Longer ones are for limits, and take long.
const LONGEST: usize = 1000;

fn short(files: &[&str]) -> Vec<Vector> {
    let vectors = files.iter().flat_map(|file| text::parse(file));
    vectors.filter(|vector| vector.bytes.len() <= LONGEST).collect()
}

fn requests() -> Vec<Vector> {
    short(&[
        include_str!("requests/line.txt"),
        include_str!("requests/target.txt"),
        include_str!("requests/host.txt"),
        include_str!("requests/fields.txt"),
        include_str!("requests/length.txt"),
        include_str!("requests/chunked.txt"),
        include_str!("requests/connection.txt"),
    ])
}

/// Removes, repeats, replaces or inserts a few bytes, or puts in some of another vector.
fn change(vectors: &[Vector], bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    const PIECES: &[&[u8]] = &[
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b"\"",
        b"\x7f",
        b"\xff",
        b"0",
        b"A: b\r\n",
        b"Host: a\r\n",
        b"Content-Length: 1\r\n",
        b"Connection: close, A\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"1\r\nx\r\n",
        b"0\r\n\r\n",
        b"Trailer: A\r\n",
    ];
    let mut bytes = bytes.to_vec();
    for _ in 0..random.usize(1..=3) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..8)).min(bytes.len());
        match random.u8(..5) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.extend_from_within(at..end),
            2 => drop(bytes.splice(at..end, PIECES[random.usize(..PIECES.len())].iter().copied())),
            3 => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].iter().copied())),
            _ => {
                let other = &vectors[random.usize(..vectors.len())].bytes;
                let from = random.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn requests_mean_the_same_in_any_pieces_and_when_they_are_passed_on() {
    let vectors = requests();
    let mut random = Rng::with_seed(1);
    let (mut passed, mut refused) = (0, 0);
    for vector in &vectors {
        for _ in 0..CHANGES {
            let bytes = change(&vectors, &vector.bytes, &mut random);
            let read = checks::requests(&bytes, random.u64(..));
            passed += read.iter().filter(|read| matches!(read, Read::Message(_))).count();
            refused += read.iter().filter(|read| matches!(read, Read::Refused(_))).count();
        }
    }
    assert!(passed > 2_000 && refused > 5_000, "{passed} passed, {refused} refused");
}

#[test]
fn responses_mean_the_same_in_any_pieces_and_when_they_are_passed_on() {
    let vectors = short(&[
        include_str!("responses/line.txt"),
        include_str!("responses/framing.txt"),
        include_str!("responses/fields.txt"),
    ]);
    let mut random = Rng::with_seed(2);
    let (mut passed, mut refused) = (0, 0);
    for vector in &vectors {
        for _ in 0..CHANGES {
            let bytes = change(&vectors, &vector.bytes, &mut random);
            let method = [Method::Get, Method::Head][random.usize(..2)];
            let read = checks::responses(&bytes, method, random.u64(..));
            passed += read.iter().filter(|read| matches!(read, Read::Message(_))).count();
            refused += read.iter().filter(|read| matches!(read, Read::Refused(_))).count();
        }
    }
    assert!(passed > 1_500 && refused > 1_500, "{passed} passed, {refused} refused");
}

#[test]
fn chunks_are_the_same_body_in_any_pieces() {
    let vectors = short(&[include_str!("requests/chunked.txt")]);
    let mut random = Rng::with_seed(3);
    let mut complete = 0;
    for vector in &vectors {
        // What follows the head.
        let head =
            vector.bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
        for _ in 0..CHANGES {
            let bytes = change(&vectors, &vector.bytes[head..], &mut random);
            complete += usize::from(checks::chunked(&bytes, random.u64(..)).is_some());
        }
    }
    assert!(complete > 400, "{complete} complete");
}

#[test]
fn any_bytes_in_chunks_are_read_as_they_were() {
    let mut random = Rng::with_seed(4);
    for _ in 0..300 {
        let payload: Vec<u8> = (0..random.usize(..2_000)).map(|_| random.u8(..)).collect();
        let mut bytes = checks::to_chunks(&payload, &mut random);
        let has_trailers = random.bool();
        bytes.extend_from_slice(if has_trailers { b"A: b\r\n\r\n" } else { b"\r\n" });
        let length = bytes.len();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert_eq!(checks::chunked(&bytes, random.u64(..)), Some((payload, length)));
    }
}
