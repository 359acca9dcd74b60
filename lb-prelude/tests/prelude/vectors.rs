//! The vectors of `proxy_protocol.txt`, whole and in all of their beginnings.

use std::fmt::Write;

use lb_prelude::proxy_protocol::{Header, HeaderError, decode};

use crate::text;

/// As vectors have it.
fn shown(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(None) => "more".into(),
        Err(error) => format!("refused: {error}"),
        Ok(Some(decoded)) => {
            let Header { addresses, tlvs } = decoded.header;
            let mut text = match addresses {
                Some(ends) => format!("{} {}", ends.source, ends.destination),
                None => "own".into(),
            };
            write!(text, ", of {}", decoded.length).expect("a string");
            let kept =
                [("unique_id", tlvs.unique_id), ("alpn", tlvs.alpn), ("authority", tlvs.authority)];
            for (name, value) in kept.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                write!(text, " {name}={}", value.escape_ascii()).expect("a string");
            }
            text
        }
    }
}

#[test]
fn headers_mean_what_the_vectors_say() {
    let vectors = text::parse(include_str!("proxy_protocol.txt"));
    assert!(70 <= vectors.len(), "{} vectors", vectors.len());
    for text::Vector { name, bytes, messages, .. } in vectors {
        let [expected] = &messages[..] else { panic!("{name}: one line says what is read") };
        assert_eq!(shown(&bytes), expected.read, "{name}");
        // A beginning is waited for, unless it is refused for the same reason already.
        for cut in 0..bytes.len() {
            let cut = &bytes[..cut];
            let is_as_whole = shown(cut) == expected.read;
            let waits = matches!(decode(cut), Ok(None));
            assert!(is_as_whole || waits, "{name}: {:?}", cut.escape_ascii().to_string());
        }
    }
}

#[test]
fn what_is_no_header_is_known_at_its_first_other_byte() {
    for header in [&b"PROXY "[..], b"\r\n\r\n\0\r\nQUIT\n"] {
        for other in 0..header.len() {
            let mut bytes = header[..=other].to_vec();
            bytes[other] ^= 0x80;
            assert_eq!(decode(&bytes), Err(HeaderError::Absent), "{other}");
        }
    }
}
