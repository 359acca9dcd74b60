//! A TLS connection after its handshake, without its socket: records in, bytes out, and the other way
//! round.
//!
//! rustls has made the keys, and still derives the next ones and keeps the tickets; see
//! [`rustls::kernel`].

use rustls::{
    ExtractedSecrets, ProtocolVersion, client::ClientConnectionData, kernel::KernelConnection,
    server::ServerConnectionData,
};

use crate::{
    fault::Fault,
    record::{ContentType, MOST_PLAIN, OVERHEAD, Opener, RecordError, Sealer, Version},
};

pub struct Session {
    side: Side,
    version: Version,
    opener: Opener,
    sealer: Sealer,
    /// A handshake message that has come in part.
    message: Vec<u8>,
    /// The other side wants what follows to have another key.
    owes_update: bool,
    /// Messages in a row that were no data.
    idle_talk: u32,
    is_closing: bool,
}

/// What rustls keeps of a connection. In a box, because connections are many.
enum Side {
    Server(Box<KernelConnection<ServerConnectionData>>),
    Client(Box<KernelConnection<ClientConnectionData>>),
}

/// What a record had in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes.
    Data(usize),
    /// Something between the two ends.
    Nothing,
    /// The other side has said that nothing more comes.
    End,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the other side ended it: alert {0}")]
    Alert(u8),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("its cipher cannot be used")]
    Cipher,
    #[error("a key is worn out")]
    WornOut,
}

const CLOSE_NOTIFY: u8 = 0;
const UNEXPECTED_MESSAGE: u8 = 10;
const USER_CANCELED: u8 = 90;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const INTERNAL_ERROR: u8 = 80;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Of a message between the two ends, at most; a ticket is the longest of them.
const MOST_MESSAGE: usize = 64 * 1024;
/// Of what is said between the two ends, sealed, at most.
const MOST_SAID: usize = 64 + OVERHEAD;
/// So many messages without data between them are an attack on this process's time.
const MOST_IDLE_TALK: u32 = 32;
/// A key is replaced when it is good for so few records.
const REPLACED_AT: u64 = 1024;

impl SessionError {
    /// As it is told of a server.
    pub fn of_server(&self) -> Fault {
        match self {
            Self::Alert(alert) => Fault::of_alert((*alert).into()),
            Self::Tls(error) => Fault::of(error),
            Self::Record(_) => Fault::Protocol(self.to_string()),
            Self::Cipher | Self::WornOut => Fault::Ours(self.to_string()),
        }
    }
}

impl Session {
    pub(crate) fn of_server(
        secrets: &ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, SessionError> {
        let version = version(kernel.protocol_version())?;
        Self::new(version, secrets, Side::Server(Box::new(kernel)))
    }

    pub(crate) fn of_client(
        secrets: &ExtractedSecrets,
        kernel: KernelConnection<ClientConnectionData>,
    ) -> Result<Self, SessionError> {
        let version = version(kernel.protocol_version())?;
        Self::new(version, secrets, Side::Client(Box::new(kernel)))
    }

    fn new(version: Version, secrets: &ExtractedSecrets, side: Side) -> Result<Self, SessionError> {
        let ExtractedSecrets { tx, rx } = secrets;
        Ok(Self {
            side,
            version,
            opener: Opener::new(version, rx.0, &rx.1).ok_or(SessionError::Cipher)?,
            sealer: Sealer::new(version, tx.0, &tx.1).ok_or(SessionError::Cipher)?,
            message: Vec::new(),
            owes_update: false,
            idle_talk: 0,
            is_closing: false,
        })
    }

    /// Opens one whole record into `out`, which has room for as much as the record is long.
    ///
    /// # Errors
    /// If the connection cannot go on. What the other side is to be told of that is put behind `reply`.
    pub fn open(
        &mut self,
        record: &[u8],
        out: &mut [u8],
        reply: &mut Vec<u8>,
    ) -> Result<Opened, SessionError> {
        self.opened(record, out).inspect_err(|error| {
            let alert = match error {
                SessionError::Alert(_) => return,
                SessionError::Record(RecordError::TooLong) => RECORD_OVERFLOW,
                SessionError::Record(RecordError::Undecryptable) => BAD_RECORD_MAC,
                SessionError::Record(_) | SessionError::Tls(_) => UNEXPECTED_MESSAGE,
                SessionError::Cipher | SessionError::WornOut => INTERNAL_ERROR,
            };
            // Whoever cannot be told finds the connection closed.
            let _ = self.say(ContentType::Alert, &[FATAL, alert], reply);
        })
    }

    fn opened(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, SessionError> {
        let (content, length) = self.opener.open(record, out)?;
        if content != ContentType::Handshake && !self.message.is_empty() {
            // RFC 8446, section 5.1: nothing comes between the parts of a message.
            return Err(RecordError::Unexpected.into());
        }
        if content == ContentType::Data && length > 0 {
            self.idle_talk = 0;
            return Ok(Opened::Data(length));
        }
        self.idle_talk += 1;
        if MOST_IDLE_TALK < self.idle_talk {
            return Err(RecordError::Unexpected.into());
        }
        match content {
            ContentType::Data => Ok(Opened::Nothing),
            ContentType::Alert => match out[..length] {
                [_, CLOSE_NOTIFY] => Ok(Opened::End),
                // RFC 8446, section 6.1: a close_notify follows.
                [_, USER_CANCELED] => Ok(Opened::Nothing),
                // RFC 8446, section 6: all others end the connection, whatever they call themselves.
                [level, alert] if level == FATAL || self.version == Version::Tls13 => {
                    Err(SessionError::Alert(alert))
                }
                [_, _] => Ok(Opened::Nothing),
                _ => Err(RecordError::Unexpected.into()),
            },
            ContentType::Handshake if self.version == Version::Tls13 => {
                let most = match self.side {
                    // Nothing is said to a server but that a key is another one.
                    Side::Server(_) => MOST_SAID,
                    Side::Client(_) => MOST_MESSAGE,
                };
                if most < self.message.len() + length {
                    return Err(RecordError::TooLong.into());
                }
                self.message.extend_from_slice(&out[..length]);
                self.understand()
            }
            // Nobody renegotiates with this.
            ContentType::Handshake | ContentType::ChangeCipherSpec => {
                Err(RecordError::Unexpected.into())
            }
        }
    }

    /// Does what the messages say that are there as a whole.
    fn understand(&mut self) -> Result<Opened, SessionError> {
        let messages = std::mem::take(&mut self.message);
        let mut rest = &messages[..];
        while let Some((&[kind, a, b, c], after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if MOST_MESSAGE < length {
                return Err(RecordError::TooLong.into());
            }
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            match (kind, &mut self.side) {
                (NEW_SESSION_TICKET, Side::Client(kernel)) => {
                    kernel.handle_new_session_ticket(payload)?;
                }
                // RFC 8446, section 4.6.3: it ends its record, because the next one has another key.
                (KEY_UPDATE, side) if after.is_empty() => {
                    let is_asked = match payload {
                        [0] => false,
                        [1] => true,
                        _ => return Err(RecordError::Unexpected.into()),
                    };
                    let (sequence, secrets) = side.next_of_other()?;
                    self.opener = Opener::new(self.version, sequence, &secrets)
                        .ok_or(SessionError::Cipher)?;
                    // However often it asks, before what is said next is soon enough.
                    self.owes_update |= is_asked;
                }
                _ => return Err(RecordError::Unexpected.into()),
            }
            rest = after;
        }
        self.message = rest.to_vec();
        Ok(Opened::Nothing)
    }

    /// Tells the other side that what follows has another key.
    fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), SessionError> {
        self.say(ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let (sequence, secrets) = self.side.next_of_own()?;
        self.sealer = Sealer::new(self.version, sequence, &secrets).ok_or(SessionError::Cipher)?;
        Ok(())
    }

    /// Seals as much of `plaintext` as has room in `out` with its records. Returns how much of the one
    /// that was, and how much of the other it takes.
    ///
    /// # Errors
    /// If the connection cannot go on.
    pub fn seal(
        &mut self,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(usize, usize), SessionError> {
        let (mut sealed, mut filled) = (0, 0);
        let is_worn = self.sealer.left() < REPLACED_AT && self.version == Version::Tls13;
        if (is_worn || self.owes_update) && !plaintext.is_empty() {
            if out.len() < MOST_SAID {
                return Ok((0, 0));
            }
            let mut update = Vec::new();
            self.update_key(&mut update)?;
            self.owes_update = false;
            out[..update.len()].copy_from_slice(&update);
            filled = update.len();
        }
        let overhead = self.sealer.overhead();
        while sealed < plaintext.len() {
            let room = (out.len() - filled).saturating_sub(overhead).min(MOST_PLAIN);
            let piece = &plaintext[sealed..plaintext.len().min(sealed + room)];
            if piece.is_empty() {
                break;
            }
            let record = self.sealer.seal(ContentType::Data, piece, &mut out[filled..]);
            filled += record.ok_or(SessionError::WornOut)?;
            sealed += piece.len();
        }
        Ok((sealed, filled))
    }

    /// Says behind `out` that nothing more comes. Once is enough.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if !self.is_closing {
            self.is_closing = true;
            // Whoever cannot be told finds the connection closed.
            let _ = self.say(ContentType::Alert, &[WARNING, CLOSE_NOTIFY], out);
        }
    }

    fn say(
        &mut self,
        content: ContentType,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        let mut record = [0; MOST_SAID];
        let length = self.sealer.seal(content, message, &mut record);
        out.extend_from_slice(&record[..length.ok_or(SessionError::WornOut)?]);
        Ok(())
    }
}

impl Side {
    fn next_of_other(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
        }
    }

    fn next_of_own(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
        }
    }
}

fn version(version: ProtocolVersion) -> Result<Version, SessionError> {
    match version {
        ProtocolVersion::TLSv1_2 => Ok(Version::Tls12),
        ProtocolVersion::TLSv1_3 => Ok(Version::Tls13),
        _ => Err(SessionError::Cipher),
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("version", &self.version).finish_non_exhaustive()
    }
}
