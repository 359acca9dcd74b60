//! Addresses for what this process serves: those asked for, or else the usual ones, or else free
//! ones.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

/// An address that only proxies of this user can listen on, and that stays theirs.
///
/// It is bound but does not listen, so that it takes none of their connections.
#[derive(Debug)]
pub struct Reserved {
    pub address: SocketAddr,
    _socket: Socket,
}

/// Listens on `given`; without it on `usual`, or on a free port if that one is taken.
///
/// # Errors
/// With the flag that would help, if nothing can listen there.
pub fn listen(
    flag: &str,
    given: Option<SocketAddr>,
    usual: SocketAddr,
) -> anyhow::Result<TcpListener> {
    choose(flag, given, usual, TcpListener::bind)
}

/// Like [`listen`], for a proxy that is going to listen there.
///
/// # Errors
/// As [`listen`].
pub fn reserve(
    flag: &str,
    given: Option<SocketAddr>,
    usual: SocketAddr,
) -> anyhow::Result<Reserved> {
    choose(flag, given, usual, |address| {
        // A proxy shares its port with other proxies of the same user. That is not meant here, so
        // somebody else must not be there already.
        drop(TcpListener::bind(address)?);
        bind_shared(address)
    })
}

/// Whether a proxy could listen there, alone or beside other proxies.
///
/// # Errors
/// Those of the system.
pub fn try_share(address: SocketAddr) -> io::Result<()> {
    bind_shared(address).map(drop)
}

fn bind_shared(address: SocketAddr) -> io::Result<Reserved> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Reserved { address, _socket: socket })
}

fn choose<T>(
    flag: &str,
    given: Option<SocketAddr>,
    usual: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> anyhow::Result<T> {
    let wanted = given.unwrap_or(usual);
    let bound = match bind(wanted) {
        Err(error) if given.is_none() && error.kind() == io::ErrorKind::AddrInUse => {
            bind(SocketAddr::new(usual.ip(), 0))
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {wanted}; {flag} gives another address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::loopback;

    #[test]
    fn a_usual_port_that_is_taken_is_replaced_and_a_given_one_is_an_error() {
        let taken = TcpListener::bind(loopback(0)).expect("a free port");
        let usual = taken.local_addr().expect("it is bound");
        let other = listen("--grpc", None, usual).expect("there are free ports");
        assert_ne!(other.local_addr().expect("it is bound"), usual);
        let reserved = reserve("--http", None, usual).expect("there are free ports");
        assert_ne!(reserved.address, usual);

        let error = listen("--grpc", Some(usual), usual).expect_err("it is taken");
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {usual}; --grpc gives another address")
        );
        assert!(reserve("--http", Some(usual), usual).is_err());
        assert!(try_share(usual).is_err(), "it is not a proxy that listens there");
    }

    #[test]
    fn a_reserved_address_is_left_to_proxies() {
        let reserved = reserve("--http", None, loopback(0)).expect("there are free ports");
        try_share(reserved.address).expect("a proxy can listen there");
        let usual = TcpListener::bind(loopback(0)).expect("a free port");
        assert_ne!(usual.local_addr().expect("it is bound"), reserved.address);
    }
}
