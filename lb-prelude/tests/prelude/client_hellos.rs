//! What hellos say, whole, in many records and in single bytes.

use std::sync::Arc;

use lb_prelude::client_hello::{ClientHello, HelloError, HelloReader, MOST_HELLO};
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

use crate::{
    checks,
    hello::{PADDING, alpn, hello, list16, message, records, server_name, with},
};

/// As rustls sends it.
pub fn of_rustls(name: &'static str, protocols: &[&[u8]]) -> Vec<u8> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("it can be used");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("memory takes all");
    hello
}

/// The name and the protocols, as text.
fn said(read: Result<Option<ClientHello>, HelloError>) -> Result<Option<String>, HelloError> {
    let text = |hello: ClientHello| {
        let protocols: Vec<_> =
            hello.protocols.iter().map(|protocol| protocol.escape_ascii().to_string()).collect();
        format!("{} {}", hello.server_name.as_deref().unwrap_or("-"), protocols.join(","))
    };
    Ok(read?.map(text))
}

#[track_caller]
fn check(bytes: &[u8], expected: Result<Option<&str>, HelloError>) {
    checks::client_hello(bytes, 1);
    let found = said(HelloReader::default().read(bytes));
    assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().copied());
}

#[test]
fn a_hello_says_whom_a_client_wants() {
    let name = || server_name(&[(0, b"A.Test")]);
    check(&with(&[name(), alpn(&[b"h2", b"http/1.1"])]), Ok(Some("a.test h2,http/1.1")));
    check(&with(&[alpn(&[b"h2"])]), Ok(Some("- h2")));
    check(&with(&[name()]), Ok(Some("a.test ")));
    check(&with(&[]), Ok(Some("- ")));
    check(&of_rustls("b.test", &[b"http/1.1"]), Ok(Some("b.test http/1.1")));
    check(&of_rustls("192.0.2.1", &[]), Ok(Some("- ")));
    check(&with(&[server_name(&[(0, b"192.0.2.1")])]), Ok(Some("- ")));
    // Of a name of another kind nobody knows where it ends.
    check(&with(&[server_name(&[(0, b"a.test"), (9, b"x")])]), Ok(Some("a.test ")));
}

#[test]
fn what_clients_put_in_besides_is_passed_over() {
    let grease = |kind: u16| (kind, vec![0]);
    let ech = (0xfe0d, vec![0; 200]);
    let bytes = with(&[
        grease(0x0a0a),
        server_name(&[(0, b"outer.test")]),
        ech,
        alpn(&[b"\x8a\x8a", b"h2"]),
        (PADDING, vec![0; 500]),
        grease(0xfafa),
    ]);
    check(&bytes, Ok(Some("outer.test \\x8a\\x8a,h2")));
}

#[test]
fn old_clients_send_no_extensions_at_all() {
    let mut content = hello(&[]);
    content.truncate(content.len() - 2);
    check(&records(&message(1, &content), 99), Ok(Some("- ")));
}

#[test]
fn a_hello_is_read_in_however_many_records_it_comes() {
    let message = message(1, &hello(&[server_name(&[(0, b"a.test")]), alpn(&[b"h2"])]));
    for each in 1..=message.len() {
        let mut bytes = records(&message, each);
        check(&bytes, Ok(Some("a.test h2")));
        // What follows is of no interest.
        bytes.extend(b"\x17\x03\x03\0\0anything");
        check(&bytes, Ok(Some("a.test h2")));
        // Nor is it in the record where the message ends.
        let with_more = [&message[..], b"more"].concat();
        check(&records(&with_more, each), Ok(Some("a.test h2")));
    }
}

#[test]
fn a_hello_has_sixteen_kibibytes_at_most() {
    let padded = |length: usize| {
        let short = hello(&[server_name(&[(0, b"a.test")]), (PADDING, vec![])]).len();
        let padding = (PADDING, vec![0; length - short]);
        message(1, &hello(&[padding, server_name(&[(0, b"a.test")])]))
    };
    for each in [1, 2, 1000, 16 * 1024] {
        check(&records(&padded(MOST_HELLO), each), Ok(Some("a.test ")));
        let too_long = Err(HelloError::TooLong(MOST_HELLO + 1));
        let bytes = records(&padded(MOST_HELLO + 1), each);
        assert_eq!(said(HelloReader::default().read(&bytes)), too_long);
    }
}

#[test]
fn how_long_it_is_is_known_before_it_has_come() {
    let header = [1, 0xff, 0xff, 0xff];
    let bytes = records(&header, 1);
    assert_eq!(HelloReader::default().read(&bytes), Err(HelloError::TooLong(0xff_ffff)));
}

#[test]
fn no_beginning_of_a_hello_is_one() {
    let bytes = of_rustls("a.test", &[b"h2"]);
    let mut reader = HelloReader::default();
    for end in 0..bytes.len() {
        assert_eq!(reader.read(&bytes[..end]), Ok(None), "{end}");
    }
    assert_eq!(said(reader.read(&bytes)), Ok(Some("a.test h2".into())));
}

#[test]
fn what_is_no_tls_is_known_at_its_first_byte() {
    for first in (0..=u8::MAX).filter(|first| *first != 22) {
        check(&[first], Err(HelloError::NoTls));
    }
    // That of SSLv2, which some old clients send for TLS.
    check(b"\x80\x2e\x01\x03\x01", Err(HelloError::NoTls));
}

#[test]
fn a_record_that_is_none_is_refused() {
    let whole = with(&[]);
    check(&[], Ok(None));
    check(&[22, 2, 0, 0, 5], Err(HelloError::Record));
    check(&[22, 3, 1, 0, 0], Err(HelloError::Record));
    check(&[22, 3, 1, 0x40, 1, 1], Err(HelloError::Record));
    // Another type, or nothing, between its parts.
    let parts = records(&message(1, &hello(&[])), 9);
    for between in [&b"\x14\x03\x01\0\x01\x01"[..], b"\x16\x03\x01\0\0"] {
        check(&[&parts[..14], between, &parts[14..]].concat(), Err(HelloError::Record));
    }
    check(&records(&message(2, &[0; 9]), 99), Err(HelloError::Message(2)));
    assert!(whole.len() > 14);
}

#[test]
fn a_name_that_is_none_is_refused() {
    let refused = |names: &[(u8, &[u8])]| {
        check(&with(&[server_name(names)]), Err(HelloError::ServerName));
    };
    refused(&[(0, b"a b")]);
    refused(&[(0, b"*.test")]);
    refused(&[(0, b"")]);
    refused(&[(0, b"a.test"), (0, b"b.test")]);
    refused(&[(1, b"a.test")]);
    let behind = (0, [server_name(&[(0, b"a.test")]).1, vec![0]].concat());
    check(&with(&[behind]), Err(HelloError::ServerName));
    let none = (0, list16(&[]));
    check(&with(&[none]), Err(HelloError::Malformed));
}

#[test]
fn a_hello_that_is_cut_off_or_too_long_within_is_refused() {
    let content = hello(&[server_name(&[(0, b"a.test")]), alpn(&[b"h2"])]);
    let without_extensions = hello(&[]).len() - 2;
    for cut in (0..content.len()).filter(|cut| *cut != without_extensions) {
        check(&records(&message(1, &content[..cut]), 9), Err(HelloError::Malformed));
    }
    check(&records(&message(1, &[&content[..], &[0]].concat()), 9), Err(HelloError::Malformed));
    check(&with(&[alpn(&[])]), Err(HelloError::Malformed));
    check(&with(&[alpn(&[b""])]), Err(HelloError::Malformed));
    check(&with(&[(16, vec![0, 2, 2, 0])]), Err(HelloError::Malformed));
    check(&with(&[alpn(&[b"h2"]), alpn(&[b"h2"])]), Err(HelloError::Malformed));
    let name = || server_name(&[(0, b"a.test")]);
    check(&with(&[name(), name()]), Err(HelloError::Malformed));
}
