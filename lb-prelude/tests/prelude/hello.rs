//! Hellos written by hand.

pub const SERVER_NAME: u16 = 0;
pub const ALPN: u16 = 16;
pub const PADDING: u16 = 21;

/// A hello's content, with these extensions.
pub fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut content = vec![3, 3];
    content.extend([7; 32]);
    // A session id, a suite that means nothing, one that means something, and no compression.
    content.extend([4, 1, 2, 3, 4, 0, 4, 0x8a, 0x8a, 0x13, 0x01, 1, 0]);
    let extensions = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &list16(content)].concat());
    content.extend(list16(&extensions.collect::<Vec<_>>()));
    content
}

pub fn list16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("it fits");
    [&length.to_be_bytes()[..], bytes].concat()
}

pub fn server_name(names: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let names = names.iter().flat_map(|(kind, name)| [&[*kind][..], &list16(name)].concat());
    (SERVER_NAME, list16(&names.collect::<Vec<_>>()))
}

pub fn alpn(protocols: &[&[u8]]) -> (u16, Vec<u8>) {
    let length = |protocol: &[u8]| u8::try_from(protocol.len()).expect("it fits");
    let list = protocols.iter().flat_map(|protocol| [&[length(protocol)], *protocol].concat());
    (ALPN, list16(&list.collect::<Vec<_>>()))
}

/// A handshake message of that type.
pub fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("it fits").to_be_bytes();
    [&[kind], &length[1..], content].concat()
}

/// In records with so many bytes each.
pub fn records(message: &[u8], each: usize) -> Vec<u8> {
    let record = |content: &[u8]| [&[22, 3, 1][..], &list16(content)].concat();
    message.chunks(each).flat_map(record).collect()
}

/// One that says this, as one record.
pub fn with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    records(&message(1, &hello(extensions)), 16 * 1024)
}

/// Some that differ, by what they have.
pub fn some() -> Vec<(&'static str, Vec<u8>)> {
    let name = || server_name(&[(0, b"a.test")]);
    vec![
        ("nothing", hello(&[])),
        ("a name", hello(&[name()])),
        ("protocols", hello(&[alpn(&[b"h2", b"http/1.1"])])),
        ("a name and a protocol", hello(&[name(), alpn(&[b"h2"])])),
        ("an address", hello(&[server_name(&[(0, b"192.0.2.1")])])),
        ("two names", hello(&[server_name(&[(0, b"a.test"), (0, b"b.test")])])),
        ("another kind of name", hello(&[server_name(&[(0, b"a.test"), (9, b"x")])])),
        ("padding", hello(&[(PADDING, vec![0; 90]), name()])),
    ]
}
