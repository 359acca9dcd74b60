//! What a connection begins with, without its socket: who it is from, and whom it wants.
//!
//! - [`proxy_protocol`]: the header by which a balancer in front says whose connection it passes on. It
//!   is read and written, in both versions.
//! - [`client_hello`]: which server a TLS client wants and which protocols it offers. Nothing is
//!   decrypted, and nothing is taken away: whoever goes on with the connection gets all of its bytes.
//!
//! Pure: no sockets, no clock. Who reads has a slice that grows, and asks again when there is more of
//! it: `Ok(None)` is "not all of it has come".
//!
//! # The rules, and where they come from
//!
//! | what | answer | source |
//! |---|---|---|
//! | a line without CRLF in its first 107 bytes, or with LF alone | refused | PROXY protocol, 2.1 |
//! | two spaces, a port with a sign or a zero in front, an address of the other family | refused | PROXY protocol, 2.1: "does not exactly match" |
//! | `UNKNOWN`, whatever follows | the sender's own address | PROXY protocol, 2.1 |
//! | `LOCAL`, and the family `UNSPEC`, whatever follows | the sender's own address | PROXY protocol, 2.2 |
//! | UNIX sockets and datagrams | the sender's own address, TLVs are read | PROXY protocol, 2.2 |
//! | another version, command, family or transport | refused | PROXY protocol, 2.2 |
//! | a header of more than 4 KiB | refused | ours |
//! | a TLV that ends behind its header; one that is kept, twice; a UNIQUE_ID of more than 128 bytes | refused | PROXY protocol, 2.2.5; ours |
//! | a wrong CRC32C | refused | PROXY protocol, 2.2.3 |
//! | a first byte that begins no handshake, that of an SSLv2 hello too | no TLS | RFC 8446, 5.1; RFC 6176 |
//! | a record without content, of more than 16 KiB, or of another type within the hello | refused | RFC 8446, 5.1 |
//! | a hello of more than 16 KiB | refused | ours |
//! | two server names, or one that is no DNS name | refused | RFC 6066, 3 |
//! | an address as server name | no name | RFC 6066, 3 forbids it; some clients do it |
//!
//! # Cost
//!
//! Reading is linear in the bytes, in whatever pieces they come. What is kept while more is waited for
//! are a few numbers. (A PROXY line is looked through again each time, but has 107 bytes at most.)

pub mod client_hello;
pub mod proxy_protocol;
