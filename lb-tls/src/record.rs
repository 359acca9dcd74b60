//! TLS records once a handshake is done (RFC 8446, section 5; RFC 5246, section 6.2, with the AEAD
//! ciphers of RFC 5288 and RFC 7905). rustls makes the keys, and these use them without a copy: what was
//! received is opened into where it is looked at, and what is to be sent is sealed from where it stands.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// Of a record's header: type, version, length.
pub const HEADER: usize = 5;
/// Plaintext of one record.
pub const MOST_PLAIN: usize = 16 * 1024;
/// What a record is longer than its plaintext, at most: header, explicit nonce, type, tag.
pub const OVERHEAD: usize = HEADER + EXPLICIT + TAG;
/// Of a whole record, at most.
pub const MOST_RECORD: usize = HEADER + MOST_SEALED;
/// Of what follows a record's header, at most (RFC 5246, section 6.2.3).
const MOST_SEALED: usize = MOST_PLAIN + 2048;
const TAG: usize = 16;
/// The part of a nonce that TLS 1.2 sends with each record under AES-GCM. TLS 1.3 sends none, and has a
/// byte for the inner type.
const EXPLICIT: usize = 8;
/// What records of TLS 1.2 and later say, whatever their version is.
const VERSION: [u8; 2] = [3, 3];
/// So many records may be sealed with one key under AES-GCM (RFC 8446, section 5.5), with a margin.
const MOST_GCM: u64 = 1 << 24;

/// What a record has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    Data,
}

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// Why a record cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record is longer than allowed")]
    TooLong,
    #[error("a record cannot be decrypted")]
    Undecryptable,
    #[error("a record of an unknown type")]
    UnknownType,
    #[error("a record out of place")]
    Unexpected,
}

/// Keys of one direction.
struct Keys {
    version: Version,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// Of the next record.
    sequence: u64,
    has_explicit_nonce: bool,
}

/// Opens what the other side has sealed.
pub struct Opener(Keys);

/// Seals what is to be sent.
pub struct Sealer {
    keys: Keys,
    /// Records that the key is still good for.
    left: u64,
}

/// The length of the record that begins here, with its header. `None` if too little of it is there.
///
/// # Errors
/// If it is none, or longer than a record may be.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    if let Some(first) = bytes.first() {
        ContentType::of(*first)?;
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let sealed = usize::from(u16::from_be_bytes([high, low]));
    if MOST_SEALED < sealed { Err(RecordError::TooLong) } else { Ok(Some(HEADER + sealed)) }
}

// === impl ContentType ===

impl ContentType {
    fn of(byte: u8) -> Result<Self, RecordError> {
        match byte {
            20 => Ok(Self::ChangeCipherSpec),
            21 => Ok(Self::Alert),
            22 => Ok(Self::Handshake),
            23 => Ok(Self::Data),
            _ => Err(RecordError::UnknownType),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }
}

// === impl Keys ===

impl Keys {
    fn new(version: Version, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        Some(Self {
            version,
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            sequence,
            has_explicit_nonce: version == Version::Tls12 && algorithm != &CHACHA20_POLY1305,
        })
    }

    /// The next record's, and its number. Never the same twice.
    fn next(&mut self) -> ([u8; NONCE_LEN], u64) {
        let sequence = self.sequence;
        self.sequence += 1;
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[NONCE_LEN - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        (nonce, sequence)
    }

    fn explicit(&self) -> usize {
        if self.has_explicit_nonce { EXPLICIT } else { 0 }
    }
}

/// What is sealed with a record of TLS 1.2 besides its plaintext.
fn aad_of_tls12(sequence: u64, content: u8, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8] = content;
    aad[9..11].copy_from_slice(&VERSION);
    aad[11..].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    aad
}

// === impl Opener ===

impl Opener {
    /// `None` if the cipher is none that this knows.
    pub fn new(
        version: Version,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Option<Self> {
        Keys::new(version, sequence, secrets).map(Self)
    }

    /// Opens a whole record into `out`, which has room for as much as the record is long. Returns what
    /// kind it is of, and how much of `out` it takes.
    ///
    /// # Errors
    /// If it is not what the other side sealed next.
    pub fn open(
        &mut self,
        record: &[u8],
        out: &mut [u8],
    ) -> Result<(ContentType, usize), RecordError> {
        let Self(keys) = self;
        let undecryptable = RecordError::Undecryptable;
        let (header, sealed) = record.split_first_chunk::<HEADER>().ok_or(undecryptable)?;
        let outer = ContentType::of(header[0])?;
        if keys.version == Version::Tls13 && outer != ContentType::Data {
            // Only sealed records come after a handshake.
            return Err(RecordError::Unexpected);
        }
        let (explicit, sealed) = sealed.split_at_checked(keys.explicit()).ok_or(undecryptable)?;
        let length = sealed.len().checked_sub(TAG).ok_or(undecryptable)?;
        let (ciphertext, tag) = sealed.split_at(length);
        let (mut nonce, sequence) = keys.next();
        if keys.has_explicit_nonce {
            nonce[..NONCE_LEN - EXPLICIT].copy_from_slice(&keys.iv[..NONCE_LEN - EXPLICIT]);
            nonce[NONCE_LEN - EXPLICIT..].copy_from_slice(explicit);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let out = out.get_mut(..length).ok_or(RecordError::TooLong)?;
        let opened = match keys.version {
            Version::Tls12 => {
                let aad = Aad::from(aad_of_tls12(sequence, header[0], length));
                keys.key.open_separate_gather(nonce, aad, ciphertext, tag, out)
            }
            Version::Tls13 => {
                keys.key.open_separate_gather(nonce, Aad::from(header), ciphertext, tag, out)
            }
        };
        opened.map_err(|_| undecryptable)?;
        let (content, length) = match keys.version {
            Version::Tls12 => (outer, length),
            // The type is the last byte that is not padding.
            Version::Tls13 => {
                let last = out.iter().rposition(|byte| *byte != 0);
                let last = last.ok_or(RecordError::Unexpected)?;
                (ContentType::of(out[last])?, last)
            }
        };
        if MOST_PLAIN < length { Err(RecordError::TooLong) } else { Ok((content, length)) }
    }
}

// === impl Sealer ===

impl Sealer {
    /// `None` if the cipher is none that this knows.
    pub fn new(
        version: Version,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Option<Self> {
        let keys = Keys::new(version, sequence, secrets)?;
        let most = match secrets {
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => u64::MAX,
            _ => MOST_GCM,
        };
        Some(Self { left: most.saturating_sub(sequence), keys })
    }

    /// How many records its key is still good for.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// How much longer a record is than its plaintext.
    pub fn overhead(&self) -> usize {
        let inner = match self.keys.version {
            Version::Tls12 => self.keys.explicit(),
            Version::Tls13 => 1,
        };
        HEADER + inner + TAG
    }

    /// Seals one record into the beginning of `out`. Returns its length; `None` if the key is worn out.
    ///
    /// # Panics
    /// If `plaintext` is longer than [`MOST_PLAIN`], or `out` is shorter than the record.
    #[must_use]
    pub fn seal(
        &mut self,
        content: ContentType,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        assert!(plaintext.len() <= MOST_PLAIN, "a record has so much at most");
        self.left = self.left.checked_sub(1)?;
        let all = plaintext.len() + self.overhead();
        let keys = &mut self.keys;
        let (nonce, sequence) = keys.next();
        let (header, sealed) = out[..all].split_at_mut(HEADER);
        header[1..3].copy_from_slice(&VERSION);
        header[3..].copy_from_slice(&u16::try_from(all - HEADER).unwrap_or(u16::MAX).to_be_bytes());
        let sealed = match keys.version {
            Version::Tls12 => {
                header[0] = content.byte();
                let (explicit, sealed) = sealed.split_at_mut(keys.explicit());
                explicit.copy_from_slice(&nonce[NONCE_LEN - explicit.len()..]);
                let (ciphertext, tag) = sealed.split_at_mut(plaintext.len());
                let aad = Aad::from(aad_of_tls12(sequence, content.byte(), plaintext.len()));
                let nonce = Nonce::assume_unique_for_key(nonce);
                keys.key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &[], tag)
            }
            Version::Tls13 => {
                header[0] = ContentType::Data.byte();
                let (ciphertext, tail) = sealed.split_at_mut(plaintext.len());
                let (aad, inner) = (Aad::from(&*header), [content.byte()]);
                let nonce = Nonce::assume_unique_for_key(nonce);
                keys.key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &inner, tail)
            }
        };
        sealed.ok().map(|()| all)
    }
}
