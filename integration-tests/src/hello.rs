//! ClientHellos of any size and in any records, which no TLS library would send.

/// A message that asks for this, with so much padding.
///
/// # Panics
/// If it would be longer than a message may be.
pub fn client_hello(name: &str, protocols: &[&str], padding: usize) -> Vec<u8> {
    let mut content = vec![3, 3];
    content.extend([7; 32]);
    // No session, one cipher suite, no compression.
    content.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let list: Vec<u8> = protocols.iter().flat_map(|text| list8(text.as_bytes())).collect();
    let mut extensions = Vec::new();
    if padding > 0 {
        extension(&mut extensions, 21, &vec![0; padding]);
    }
    let host = [&[0][..], &list16(name.as_bytes())].concat();
    extension(&mut extensions, 0, &list16(&host));
    if !protocols.is_empty() {
        extension(&mut extensions, 16, &list16(&list));
    }
    content.extend(list16(&extensions));
    let length = u32::try_from(content.len()).expect("it fits").to_be_bytes();
    [&[1], &length[1..], &content].concat()
}

/// A message in records with so many bytes each.
///
/// # Panics
/// If a record would be longer than records are.
pub fn records(message: &[u8], each: usize) -> Vec<u8> {
    let record = |content: &[u8]| [&[22, 3, 1][..], &list16(content)].concat();
    message.chunks(each).flat_map(record).collect()
}

fn extension(extensions: &mut Vec<u8>, kind: u16, content: &[u8]) {
    extensions.extend(kind.to_be_bytes());
    extensions.extend(list16(content));
}

fn list8(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("it fits");
    [&[length], bytes].concat()
}

fn list16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("it fits");
    [&length.to_be_bytes()[..], bytes].concat()
}
