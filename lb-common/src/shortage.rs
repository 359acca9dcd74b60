//! What a process or its host may be short of: descriptors, ports, memory. It is nobody else's fault.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Raises the limit of open descriptors to what the system allows, and returns it. Which limit a shell
/// sets is for programs that use `select`, and far too low for a server.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    // What is refused stays as it was.
    let limit = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    limit.unwrap_or(u64::MAX)
}

/// Whether a connect to this address failed because this process or its host is short of something: that
/// says nothing about who was to be connected to.
pub fn is_shortage(error: &io::Error, to: SocketAddr) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => true,
        // There is no port left, or no address of this host to come from.
        Some(Errno::ADDRNOTAVAIL) => has_way_to(to),
        _ => false,
    }
}

/// Whether this host has an address from which it could reach that one; also, if it cannot be found
/// out. Sends nothing.
fn has_way_to(to: SocketAddr) -> bool {
    let any = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let connected = UdpSocket::bind(any).and_then(|socket| socket.connect(to));
    connected.map_err(|error| Errno::from_io_error(&error)) != Err(Some(Errno::ADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_no_fault_of_others() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let is = |errno: Errno| is_shortage(&error(errno), here);
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::NOMEM]
        {
            assert!(is(errno), "{errno}");
        }
        for errno in [Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::TIMEDOUT, Errno::CONNRESET] {
            assert!(!is(errno), "{errno}");
        }
        assert!(!is_shortage(&io::ErrorKind::TimedOut.into(), here));
    }
}
