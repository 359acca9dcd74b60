//! A connection's bytes, whatever they go through.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::count::Counted;

/// The one kind there is; TLS has its place here.
#[derive(Debug)]
pub struct Stream(TcpStream, #[expect(dead_code, reason = "it counts while it is there")] Counted);

impl Stream {
    pub fn new(stream: TcpStream, counted: Counted) -> Self {
        Self(stream, counted)
    }

    /// Returns how many bytes came; none at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        // Unlike `try_read`, it knows that a read which leaves room has found all there was, and
        // asks the kernel no second time.
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    /// Does something with the socket itself that would block if there were nothing to read.
    pub fn poll_with_readable<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_io(Interest::READABLE, || read(self.0.as_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Does something with the socket itself that would block if it took nothing.
    pub fn poll_with_writable<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_io(Interest::WRITABLE, || write(self.0.as_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Whether a read would find something: bytes, the end or an error.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Tells the other side that nothing more comes.
    pub fn end_writing(&mut self) -> io::Result<()> {
        match Pin::new(&mut self.0).poll_shutdown(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Whether the other side has reset it, though bytes that came before may wait to be read.
    pub fn has_failed(&self) -> bool {
        !matches!(self.0.take_error(), Ok(None))
    }

    /// Whether bytes have come that nobody has read. Asks the kernel, which may know of some before
    /// the runtime does.
    pub fn has_bytes(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        matches!(SockRef::from(&self.0).peek(&mut byte), Ok(1..))
    }

    /// Whether it is open and nothing has come. Costs no system call as a rule: only if something came,
    /// or a read that filled its buffer has left the mark of that behind.
    pub fn is_silent(&mut self) -> bool {
        matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closing it is to look like a failure to the other side.
    pub fn reset_when_closed(&self) {
        // If that fails, it looks like an end.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}
