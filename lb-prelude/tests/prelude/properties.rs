//! What holds for any bytes, on bytes that are drawn: those of vectors and of real hellos, changed at
//! random.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use lb_prelude::proxy_protocol::{Addresses, MOST_BYTES, Tlvs, Version, decode, encode};

use crate::{
    checks,
    client_hellos::of_rustls,
    hello::{message, records, some},
    text,
};

/// Changed this often, each in another way.
const CHANGES: usize = 100;

fn change(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(0..=changed.len());
        let end = (at + rng.usize(0..4)).min(changed.len());
        let odd = [0, 1, 2, 3, 5, 16, 22, 0xff, b' ', b'\r', b'\n', rng.u8(..)];
        let put: Vec<u8> = (0..rng.usize(0..4)).map(|_| odd[rng.usize(..odd.len())]).collect();
        // Most changes keep the length, or all lengths behind them would be wrong.
        match rng.u8(0..3) {
            0 => drop(changed.splice(at..end, put)),
            _ => changed[at..end].iter_mut().for_each(|byte| *byte = odd[rng.usize(..odd.len())]),
        }
    }
    changed
}

#[test]
fn any_header_is_read_at_its_end_and_written_as_it_was() {
    let mut rng = Rng::with_seed(1);
    for vector in text::parse(include_str!("proxy_protocol.txt")) {
        checks::proxy_protocol(&vector.bytes);
        for _ in 0..CHANGES {
            checks::proxy_protocol(&change(&vector.bytes, &mut rng));
        }
    }
}

#[test]
fn any_hello_says_the_same_to_us_and_to_rustls() {
    let mut rng = Rng::with_seed(2);
    let in_records = |(_, content): (_, Vec<u8>)| {
        [1, 3, 50, 999].map(|each| records(&message(1, &content), each))
    };
    let mut all: Vec<_> = some().into_iter().flat_map(in_records).collect();
    all.push(of_rustls("www.example.com", &[b"h2"]));
    for bytes in all {
        for seed in 0..CHANGES as u64 {
            checks::client_hello(&change(&bytes, &mut rng), seed);
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let mut rng = Rng::with_seed(3);
    for _ in 0..1_000 {
        let addresses = rng.bool().then(|| any_addresses(&mut rng));
        let some = |rng: &mut Rng, most: usize| {
            rng.bool().then(|| (0..rng.usize(..most)).map(|_| rng.u8(..)).collect())
        };
        let tlvs = Tlvs {
            unique_id: some(&mut rng, 129),
            alpn: some(&mut rng, 256),
            authority: some(&mut rng, 254),
        };
        let written = |version| {
            let mut written = Vec::new();
            encode(version, addresses, &tlvs, &mut written);
            decode(&written).expect("it is well formed").expect("all of it is there").header
        };
        let (line, binary) = (written(Version::V1), written(Version::V2));
        assert_eq!((line.addresses, binary.addresses), (addresses, addresses));
        let expected = if addresses.is_some() { tlvs } else { Tlvs::default() };
        assert_eq!(binary.tlvs, expected);
    }
}

#[test]
fn a_tlv_is_left_out_if_a_receiver_would_not_take_the_header_with_it() {
    let addresses = any_addresses(&mut Rng::with_seed(4));
    let written = |length: usize| {
        let alpn = vec![b'a'; length].into();
        let tlvs = Tlvs { alpn: Some(alpn), authority: Some((*b"b").into()), ..Tlvs::default() };
        // What is there already is of another header.
        let mut out = vec![0; 2 * MOST_BYTES];
        encode(Version::V2, Some(addresses), &tlvs, &mut out);
        let header = out.split_off(2 * MOST_BYTES);
        let read = decode(&header).expect("it is well formed").expect("all of it is there").header;
        (header.len(), read.tlvs.alpn.is_some(), read.tlvs.authority.is_some())
    };
    let (without, ..) = written(MOST_BYTES);
    // Each TLV has three bytes besides its value.
    let most = MOST_BYTES - (without - 4) - 3;
    assert_eq!(written(most - 4), (MOST_BYTES, true, true));
    assert_eq!(written(most - 3), (MOST_BYTES - 3, true, false));
    assert_eq!(written(most), (MOST_BYTES, true, false));
    assert_eq!(written(most + 1), (without, false, true));
}

fn any_addresses(rng: &mut Rng) -> Addresses {
    let is_v4 = rng.bool();
    let mut end = || {
        let ip = match is_v4 {
            true => IpAddr::from(rng.u32(..).to_be_bytes()),
            false => IpAddr::from(rng.u128(..).to_be_bytes()),
        };
        SocketAddr::new(ip, rng.u16(..))
    };
    Addresses { source: end(), destination: end() }
}
