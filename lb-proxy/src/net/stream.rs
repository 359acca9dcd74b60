//! A connection's bytes, whatever they go through.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, TcpStream},
    task::{Context, Poll},
};

use super::{count::Counted, socket::Socket, tls::Tls};

#[derive(Debug)]
pub enum Stream {
    Tcp(Socket),
    Tls(Box<Tls>),
}

impl Stream {
    /// A client's. The socket does not block.
    ///
    /// # Errors
    /// If the system cannot watch it.
    pub fn accepted(socket: TcpStream, counted: Counted) -> io::Result<Self> {
        Socket::accepted(socket, counted).map(Self::Tcp)
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Whether its socket's bytes are what the other side reads and writes.
    pub fn is_bare(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// The socket, if it is that.
    pub fn bare(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    /// Memory that it holds in buffers, in bytes.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Tcp(_) => 0,
            Self::Tls(tls) => tls.capacity(),
        }
    }

    /// Returns how many bytes came; none at the end.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => socket.poll_read(cx, into),
            Self::Tls(tls) => tls.poll_read(cx, into),
        }
    }

    /// Returns how many bytes were taken. When it is pending, and some of these were not, they come
    /// again at the front of the next call.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => socket.poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_vectored(cx, slices),
            Self::Tls(tls) => tls.poll_write_vectored(cx, slices),
        }
    }

    /// Whether something has come that a read may find: bytes, the end or an error.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(tls) if tls.has_ready() => Poll::Ready(Ok(())),
            _ => self.socket().poll_readable(cx),
        }
    }

    /// Whether a read would find something: bytes, the end or an error.
    pub fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(socket) => socket.poll_readable(cx).map(drop),
            Self::Tls(tls) => tls.poll_said(cx),
        }
    }

    /// Whether something of it has come that nobody can read before the rest of it comes.
    pub fn is_amid(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(tls) => tls.is_amid(),
        }
    }

    /// Tells the other side that nothing more comes. Whoever reads it meanwhile need not ask again.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Poll::Ready(socket.end_writing()),
            Self::Tls(tls) => tls.poll_end(cx),
        }
    }

    /// The end, when it comes, is not to look as if all had been said, where that can be told.
    pub fn cut(&mut self) {
        match self {
            Self::Tcp(_) => {}
            Self::Tls(tls) => tls.cut(),
        }
    }

    /// As [`Socket::local_address`].
    ///
    /// # Errors
    /// If the system does not know any more.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket().local_address()
    }

    /// As [`Socket::has_failed`].
    pub fn has_failed(&self) -> bool {
        self.socket().has_failed()
    }

    /// As [`Socket::has_ended`].
    pub fn has_ended(&self) -> bool {
        self.socket().has_ended()
    }

    /// As [`Socket::keep_alive`].
    pub fn keep_alive(&mut self) {
        self.socket_mut().keep_alive();
    }

    /// As [`Socket::has_bytes`].
    pub fn has_bytes(&self) -> bool {
        self.socket().has_bytes()
    }

    /// Whether it is open and nothing has come.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Self::Tcp(socket) => socket.is_silent(),
            Self::Tls(tls) => tls.is_silent(),
        }
    }

    /// As [`Socket::reset_when_closed`].
    pub fn reset_when_closed(&self) {
        self.socket().reset_when_closed();
    }
}
