//! Ports for what has to be told its port before it runs, and has to get it again when it restarts.
//!
//! Asking the system for a free port and handing it on is a race: until it is bound, any outgoing
//! connection may get it, and so may another test. These ports are from below the range that
//! outgoing connections use, and each is reserved by a lock on a file that all tests of the machine
//! share, for as long as the [`Port`] lives.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::PathBuf,
};

use tokio::net::TcpSocket;

use crate::eventually::eventually;

/// A port of 127.0.0.1 that is nobody else's until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

const LOWEST: u16 = 10_240;
/// As many as the kernel lets wait. Whoever comes to a full queue is reset some time later, which
/// tests would take for the proxy's doing.
const BACKLOG: u32 = 4_096;

// === impl Port ===

impl Port {
    /// # Panics
    /// If there is none left.
    pub fn reserve() -> Self {
        let dir = directory();
        let range = range();
        // From a random one on, so that a port is not used again as soon as it is free.
        let start = fastrand::u16(range.clone());
        let candidates = (start..range.end).chain(range.start..start);
        candidates.into_iter().find_map(|number| Self::try_reserve(&dir, number)).unwrap_or_else(
            || panic!("no port of {range:?} is free; see {}", directory().display()),
        )
    }

    fn try_reserve(dir: &std::path::Path, number: u16) -> Option<Self> {
        let path = dir.join(number.to_string());
        let lock = File::create(&path)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        lock.try_lock().ok()?;
        // What is not a test of ours knows nothing of locks.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
        Some(Self { number, _lock: lock })
    }

    /// So many, one after the other.
    ///
    /// # Panics
    /// If there are not so many left.
    pub fn reserve_range(count: usize) -> Vec<Self> {
        let dir = directory();
        let range = range();
        for _ in 0..1_000 {
            let first = fastrand::u16(range.clone());
            let numbers = (first..range.end).take(count);
            let ports: Vec<_> = numbers.map_while(|n| Self::try_reserve(&dir, n)).collect();
            if ports.len() == count {
                return ports;
            }
        }
        panic!("no {count} ports in a row are free in {range:?}; see {}", dir.display())
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// Listens in this process.
    ///
    /// A process that another test starts has, until it runs its program, all that this process
    /// has open, a listener that was here and is closed among it; so this may take a moment.
    ///
    /// # Panics
    /// If somebody else listens there for good.
    pub async fn listen(&self) -> tokio::net::TcpListener {
        let address = self.address();
        let listen = async || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        eventually(&format!("{address} is free"), listen).await
    }
}

fn directory() -> PathBuf {
    let dir = std::env::temp_dir().join("lb-test-ports");
    fs::create_dir_all(&dir)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    dir
}

/// Below the ports of outgoing connections.
fn range() -> Range<u16> {
    let file = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let first = text.split_whitespace().next().and_then(|first| first.parse().ok());
    let first: u16 = first.unwrap_or_else(|| panic!("{file} is {text:?}"));
    assert!(LOWEST + 1_000 < first, "{file} leaves no ports from {LOWEST} to {first}");
    LOWEST..first
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_tests_get_the_same_port() {
        let ports: Vec<_> = (0..100).map(|_| Port::reserve()).collect();
        let numbers: BTreeSet<_> = ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers.len(), ports.len());
    }

    #[test]
    fn a_range_is_of_ports_in_a_row() {
        let ports = Port::reserve_range(10);
        let first = ports[0].number;
        let numbers: Vec<_> = ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers, (first..first + 10).collect::<Vec<_>>());
    }

    #[test]
    fn a_port_that_is_reserved_or_bound_is_not_given_out() {
        let port = Port::reserve();
        assert!(Port::try_reserve(&directory(), port.number).is_none(), "it is reserved");
        let number = port.number;
        let bound = TcpListener::bind(port.address()).expect("it is free");
        drop(port);
        assert!(Port::try_reserve(&directory(), number).is_none(), "it is bound");
        drop(bound);
    }
}
