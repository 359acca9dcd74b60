//! Having the runtime watch a socket.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use tokio::io::{Interest, unix::AsyncFd};

/// What keeps its descriptor for as long as it is there.
pub trait Socket: AsRawFd {}

impl Socket for TcpListener {}
impl Socket for TcpStream {}

/// # Errors
/// If the system cannot watch it.
#[expect(
    deprecated,
    reason = "what is to be called instead is unsafe for those who could bring any descriptor"
)]
pub fn watch<T: Socket>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}
