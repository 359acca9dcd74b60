//! The message in its records, of which there may be many.

use super::hello::{ClientHello, HelloError, MOST_HELLO};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Of a record.
const RECORD_HEADER: usize = 5;
const MOST_RECORD: usize = 16 * 1024;
/// Of a message.
const HEADER: usize = 4;

/// Reads the message as its bytes come. It remembers where it is, so that it looks at each record once.
#[derive(Clone, Debug, Default)]
pub struct HelloReader {
    /// Where the record begins of which not all has come.
    next: usize,
    /// Bytes of the message in the records before.
    gathered: usize,
    /// Bytes of the message, once its header has come.
    needed: Option<usize>,
}

impl HelloReader {
    /// `bytes` is what has come of the connection so far, from its first byte on. `None` if not all of
    /// the message has come.
    ///
    /// # Errors
    /// If it is no TLS, or malformed.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        while let Some(length) = self.record(bytes)? {
            self.gathered += length;
            self.next += RECORD_HEADER + length;
            let records = &bytes[..self.next];
            if self.needed.is_none() && HEADER <= self.gathered {
                self.needed = Some(needed(records)?);
            }
            if let Some(needed) = self.needed
                && needed <= self.gathered
            {
                return message(records, needed).map(Some);
            }
        }
        Ok(None)
    }

    /// The content's length of the record that is next, if all of it has come.
    fn record(&self, bytes: &[u8]) -> Result<Option<usize>, HelloError> {
        let Some(bytes @ [kind, ..]) = bytes.get(self.next..) else { return Ok(None) };
        if *kind != HANDSHAKE {
            return Err(if self.next == 0 { HelloError::NoTls } else { HelloError::Record });
        }
        let Some([_, major, _, high, low]) = bytes.first_chunk::<RECORD_HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *major != 3 || !(1..=MOST_RECORD).contains(&length) {
            return Err(HelloError::Record);
        }
        Ok((RECORD_HEADER + length <= bytes.len()).then_some(length))
    }
}

/// How long the message is that begins in these records.
fn needed(records: &[u8]) -> Result<usize, HelloError> {
    let mut header = [0; HEADER];
    for (into, byte) in header.iter_mut().zip(contents(records).flatten()) {
        *into = *byte;
    }
    let [kind, high, middle, low] = header;
    if kind != CLIENT_HELLO {
        return Err(HelloError::Message(kind));
    }
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if MOST_HELLO < length { Err(HelloError::TooLong(length)) } else { Ok(HEADER + length) }
}

fn message(records: &[u8], needed: usize) -> Result<ClientHello, HelloError> {
    let first = contents(records).next().unwrap_or_default();
    if let Some(message) = first.get(HEADER..needed) {
        return ClientHello::parse(message);
    }
    let mut message = Vec::with_capacity(needed);
    for content in contents(records) {
        let wanted = content.len().min(needed - message.len());
        message.extend_from_slice(&content[..wanted]);
    }
    ClientHello::parse(&message[HEADER..])
}

/// What is in these records, all of which are there.
fn contents(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ([_, _, _, high, low], after) = records.split_first_chunk::<RECORD_HEADER>()?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (content, rest) = after.split_at_checked(length)?;
        records = rest;
        Some(content)
    })
}
