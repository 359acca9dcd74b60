//! HTTP messages without sockets: what a proxy reads, decides by, and writes.
//!
//! - [`message`]: one form for messages of every HTTP version. A head is a block of bytes and a table
//!   that says where its fields are.
//! - [`h1`]: HTTP/1.0 and HTTP/1.1, bytes to messages and back.
//! - [`hop`]: which fields end at a proxy and which go on.
//!
//! Pure: no sockets, no clock, nothing that waits. Bytes go in, messages come out, in whatever pieces
//! the bytes come.
//!
//! # The rules, and where they come from
//!
//! A message that two readers could cut in two ways is refused, because a client could hide a request
//! in it from one of them. So this is stricter than it has to be where RFC 9112 leaves a choice.
//!
//! | what | answer | source |
//! |---|---|---|
//! | a line that ends with LF alone, a CR within one | 400 | RFC 9112, 2.2 leaves a choice |
//! | white space before a field's colon, or at the beginning of a line | 400 | RFC 9112, 5.1 and 5.2 |
//! | controls and NUL in a value, a name that is no token | 400 | RFC 9110, 5.5 and 5.6.2 |
//! | `Content-Length` beside `Transfer-Encoding` | 400 | RFC 9112, 6.3 leaves a choice |
//! | several lengths, or one that is no number | 400 | RFC 9112, 6.3; RFC 9110, 8.6 |
//! | a transfer coding that is not one `chunked`, or any in HTTP/1.0 | 400 | RFC 9112, 6.1 |
//! | no host, several, or one that is no host | 400 | RFC 9112, 3.2 |
//! | a target with another host than `Host` | 400 | RFC 9112, 3.2.2 says to prefer the target's |
//! | a fragment, white space or controls in a target | 400 | RFC 9112, 3.2 |
//! | a path with half an escape, or with an escaped NUL | 400 | RFC 3986, 2.1 |
//! | a length of more than 63 bits | 400 | RFC 9110, 8.6 |
//! | a chunk's size with a sign, a space, more than 52 bits | the body is malformed | RFC 9112, 7.1 |
//! | extensions of more than 4 KiB in all chunks of a body, zeros before sizes included | the body is malformed | RFC 9112, 7.1.1 |
//! | trailers that frame, route or authenticate | dropped | RFC 9110, 6.5.1 |
//! | a major version that is not 1 | 505 | RFC 9110, 15.6.6 |
//! | a minor version above 1 | as 1.1 | RFC 9110, 2.5 |
//!
//! Responses are read by the same rules, save that lengths which are equal count as one (RFC 9110,
//! section 8.6), and that a status above 599 goes on. What frames a message is never copied but
//! written anew from what was understood.
//!
//! What comes of each rule is in `tests/h1`, as bytes and their meaning;
//! where other servers decide otherwise, and why, is in `docs/peers.md` of this crate.

pub mod h1;
pub mod hop;
pub mod message;
