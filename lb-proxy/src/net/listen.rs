//! Listening sockets: one a worker and address, all in one `SO_REUSEPORT` group, which several
//! proxies of one host may share.
//!
//! # Closing one loses no connection
//!
//! The kernel resets what waits in the queue of a socket that is closed, also if others share its
//! port. So a socket that is to be closed first gets a filter that drops SYNs: no new connection
//! begins, those that are being made complete, and all are accepted before it is closed. A client
//! whose SYN was dropped sends it again, to a socket that is left.
//!
//! A socket that was inherited is not closed at all: a service manager has it too, and what waits in
//! its queue is for the process that comes next.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockFilter, SockRef, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::watch::watch;

const BACKLOG: i32 = 4096;

/// To accept on.
#[derive(Debug)]
pub struct Socket {
    listener: TcpListener,
    /// Somebody else has it too.
    is_inherited: bool,
}

/// What accepts in a worker.
#[derive(Debug)]
pub struct Acceptor {
    listener: AsyncFd<TcpListener>,
    is_inherited: bool,
}

/// Binds one socket for each worker. With port 0, all of them get the same free one.
///
/// # Errors
/// Those of the system; another program that listens there without sharing, for instance.
pub fn bind(address: SocketAddr, sockets: usize) -> io::Result<Vec<Socket>> {
    let mut address = address;
    let mut bound = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Small responses must not wait for acknowledgements. Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        bound.push(Socket { listener, is_inherited: false });
    }
    Ok(bound)
}

/// Gives each worker a socket that somebody else opened. It has one queue, of which each takes what
/// it can.
///
/// # Errors
/// If there are no more descriptors.
pub fn share(inherited: &TcpListener, sockets: usize) -> io::Result<Vec<Socket>> {
    inherited.set_nonblocking(true)?;
    SockRef::from(inherited).set_tcp_nodelay(true)?;
    let share = |_| Ok(Socket { listener: inherited.try_clone()?, is_inherited: true });
    (0..sockets).map(share).collect()
}

// === impl Socket ===

impl Socket {
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn accept_on(self) -> io::Result<Acceptor> {
        let listener = watch(self.listener, Interest::READABLE)?;
        Ok(Acceptor { listener, is_inherited: self.is_inherited })
    }

    /// # Errors
    /// If the system does not know any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Acceptor ===

impl Acceptor {
    /// The next connection, which does not block, and who it is from.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        // One system call makes it what it has to be; the standard library needs two.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = self.listener.async_io(Interest::READABLE, |listener| {
            acceptfrom_with(listener, flags).map_err(io::Error::from)
        });
        let (socket, peer) = accepted.await?;
        let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
        Ok((TcpStream::from(socket), SocketAddr::try_from(peer)?))
    }

    /// Whether somebody else has it too.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// From now on no new connection begins there; those that are being made complete.
    ///
    /// # Errors
    /// If the system takes no filters.
    pub fn refuse_new(&self) -> io::Result<()> {
        SockRef::from(self.listener.get_ref()).attach_filter(&DROP_SYNS)
    }
}

/// Classic BPF over a TCP segment: 0 bytes of what has the SYN flag, all of the rest.
const DROP_SYNS: [SockFilter; 4] = [
    SockFilter::new(LOAD_BYTE, 0, 0, TCP_FLAGS_OFFSET),
    SockFilter::new(JUMP_IF_SET, 0, 1, TCP_SYN),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
/// `BPF_LD | BPF_B | BPF_ABS`
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JSET | BPF_K`
const JUMP_IF_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_SYN: u32 = 0x02;
