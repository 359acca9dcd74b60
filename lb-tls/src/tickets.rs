//! Tickets with which clients resume their sessions, on whatever proxy of the fleet: all have the same
//! keys.
//!
//! ```text
//!   the key's name, 16 bytes | nonce, 12 bytes | sealed session | tag, 16 bytes
//! ```

use std::{fmt, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand,
};
use rustls::server::ProducesTickets;

/// Bytes of a key.
pub const KEY: usize = 32;
const NAME: usize = 16;
/// Clients may use a ticket for so long, in seconds. Keys must be known for longer.
pub const LIFETIME: u32 = 12 * 60 * 60;

/// Seals tickets with the first key, and takes those of all.
pub struct Tickets {
    keys: Vec<(Name, LessSafeKey)>,
    /// What a listener demands of its clients. A ticket is good only where the same is demanded: who
    /// was let in without a certificate is not let in with a ticket where one is required.
    demands: [u8; 32],
}

type Name = [u8; NAME];

/// The keys of a fleet, as its controller hands them out.
///
/// ```text
///   since, seconds since the Unix epoch, u64 LE | keys, 32 bytes each
/// ```
#[derive(Default)]
pub struct Keys {
    /// When the first key became the first.
    pub since: Duration,
    /// The one that seals, the one that will seal next, and those that sealed before.
    pub keys: Vec<[u8; KEY]>,
}

impl Keys {
    /// `None` if these are none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (since, keys) = bytes.split_first_chunk()?;
        let (keys, []) = keys.as_chunks::<KEY>() else { return None };
        let since = Duration::from_secs(u64::from_le_bytes(*since));
        Some(Self { since, keys: keys.to_vec() })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.since.as_secs().to_le_bytes().to_vec();
        bytes.extend(self.keys.iter().flatten());
        bytes
    }
}

impl Tickets {
    /// `demands` is what makes listeners different for their clients.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8; KEY]>, demands: &[u8]) -> Self {
        let keys = keys.into_iter().filter_map(|key| {
            let mut name = [0; NAME];
            let of_key = digest(&SHA256, &[b"ticket key name ".as_slice(), key].concat());
            name.copy_from_slice(&of_key.as_ref()[..NAME]);
            let key = UnboundKey::new(&AES_256_GCM_SIV, key).ok()?;
            Some((name, LessSafeKey::new(key)))
        });
        let mut digested = [0; 32];
        digested.copy_from_slice(digest(&SHA256, demands).as_ref());
        Self { keys: keys.collect(), demands: digested }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (name, key) = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let sealing = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(sealing, Aad::from(self.demands), &mut sealed).ok()?;
        Some([name.as_slice(), &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == name)?;
        let mut opened = sealed.to_vec();
        let opening = Nonce::assume_unique_for_key(*nonce);
        let length = key.open_in_place(opening, Aad::from(self.demands), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("keys", &self.keys.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_with_its_key_and_where_the_same_is_demanded() {
        let (a, b) = ([1; KEY], [2; KEY]);
        let ticket = Tickets::new([&a], b"nothing").encrypt(b"a session").expect("it seals");
        assert!(!ticket.windows(9).any(|part| part == b"a session"));
        let opened = |keys: &[&[u8; KEY]], demands: &[u8], ticket: &[u8]| {
            Tickets::new(keys.iter().copied(), demands).decrypt(ticket)
        };
        assert_eq!(opened(&[&b, &a], b"nothing", &ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(opened(&[&b], b"nothing", &ticket), None, "its key is gone");
        assert_eq!(opened(&[&a], b"a certificate", &ticket), None, "more is demanded");
        for i in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[i] ^= 1;
            assert_eq!(opened(&[&a], b"nothing", &forged), None, "byte {i}");
            assert_eq!(opened(&[&a], b"nothing", &ticket[..i]), None, "{i} bytes");
        }
    }

    #[test]
    fn no_two_tickets_are_alike() {
        let tickets = Tickets::new([&[1; KEY]], b"");
        assert_ne!(tickets.encrypt(b"x"), tickets.encrypt(b"x"));
    }
}
