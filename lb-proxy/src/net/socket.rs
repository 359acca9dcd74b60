//! A TCP connection.
//!
//! # A client's socket is watched for reading alone
//!
//! A new socket can be written to, and the kernel would say so with an event that nobody waits for.
//! So one that was accepted is watched for writing only when it first took nothing, which is never as
//! a rule.

use std::{
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{count::Counted, watch::watch};

#[derive(Debug)]
pub struct Socket {
    /// `None` once the system refused to watch it.
    socket: Option<AsyncFd<TcpStream>>,
    is_watched_for_writing: bool,
    is_kept_alive: bool,
    _counted: Counted,
}

/// So long nothing has come when the other side is asked for the first time whether it is there,
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// and then again,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// so often.
const KEEPALIVE_PROBES: u32 = 4;

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Socket {
    /// A client's. The socket does not block.
    ///
    /// # Errors
    /// If the system cannot watch it.
    pub fn accepted(socket: TcpStream, counted: Counted) -> io::Result<Self> {
        let socket = watch(socket, Interest::READABLE)?;
        Ok(Self {
            socket: Some(socket),
            is_watched_for_writing: false,
            is_kept_alive: false,
            _counted: counted,
        })
    }

    /// One to a backend, on its way there: see [`poll_connected`](Self::poll_connected).
    ///
    /// # Errors
    /// If the system knows at once that it cannot be, or has no room for it.
    pub fn connecting(to: SocketAddr, counted: Counted) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking();
        let socket = socket2::Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
        // Small requests and responses must not wait for each other's acknowledgements.
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        let socket = watch(TcpStream::from(socket), BOTH)?;
        Ok(Self {
            socket: Some(socket),
            is_watched_for_writing: true,
            is_kept_alive: false,
            _counted: counted,
        })
    }

    /// Ready once the other side has taken the connection, or it was found that it does not.
    pub fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket()?;
        let _ready = ready!(socket.poll_write_ready(cx))?;
        Poll::Ready(socket.get_ref().take_error()?.map_or(Ok(()), Err))
    }

    /// Returns how many bytes came; none at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let socket = self.socket()?;
        loop {
            let mut ready = ready!(socket.poll_read_ready(cx))?;
            match socket.get_ref().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(read) => {
                    // What leaves room has found all there was: the kernel is asked no second time.
                    if (1..into.len()).contains(&read) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_out(cx, bytes.len(), |mut socket| socket.write(bytes))
    }

    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        self.poll_out(cx, all, |mut socket| socket.write_vectored(slices))
    }

    /// Does something with the socket itself that would block if there were nothing to read.
    pub fn poll_with_readable<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let socket = self.socket()?;
        loop {
            let mut ready = ready!(socket.poll_read_ready(cx))?;
            if let Ok(result) = ready.try_io(|socket| read(socket.as_fd())) {
                return Poll::Ready(result);
            }
        }
    }

    /// Does something with the socket itself that would block if it took nothing. Returns how many
    /// bytes it took.
    pub fn poll_with_writable(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll_out(cx, 0, |socket| write(socket.as_fd()))
    }

    /// A write that takes less than `all` has found the socket full.
    fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        all: usize,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if !self.is_watched_for_writing {
            match write(self.socket()?.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch_for_writing(cx)?;
                }
                result => return Poll::Ready(result),
            }
        }
        let socket = self.socket()?;
        loop {
            let mut ready = ready!(socket.poll_write_ready(cx))?;
            match write(socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(written) if written < all => {
                    ready.clear_ready();
                    return Poll::Ready(Ok(written));
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn watch_for_writing(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let socket = self.socket.take().ok_or(io::ErrorKind::NotConnected)?;
        let socket = self.socket.insert(watch(socket.into_inner(), BOTH)?);
        self.is_watched_for_writing = true;
        // Whoever waits for something to read was registered with what is gone.
        drop(socket.poll_read_ready(cx));
        Ok(())
    }

    /// Whether a read would find something: bytes, the end or an error.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_read_ready(cx).map_ok(drop)
    }

    /// Where this side of it is.
    ///
    /// # Errors
    /// If the system does not know any more.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket()?.get_ref().local_addr()
    }

    /// Tells the other side that nothing more comes.
    pub fn end_writing(&mut self) -> io::Result<()> {
        self.socket()?.get_ref().shutdown(Shutdown::Write)
    }

    /// Whether the other side has reset it, though bytes that came before may wait to be read.
    pub fn has_failed(&self) -> bool {
        !matches!(self.socket().and_then(|socket| socket.get_ref().take_error()), Ok(None))
    }

    /// Whether the other side has ended its side, though bytes that came before may wait to be read.
    pub fn has_ended(&self) -> bool {
        let Ok(socket) = self.socket() else { return true };
        let mut asked = [PollFd::new(socket.get_ref(), PollFlags::RDHUP)];
        matches!(poll(&mut asked, Some(&Timespec::default())), Ok(1..))
    }

    /// The system asks the other side now and then whether it is still there, so that one that vanished
    /// without a word is noticed within some minutes, however long nothing is to be said.
    pub fn keep_alive(&mut self) {
        if self.is_kept_alive {
            return;
        }
        self.is_kept_alive = true;
        if let Ok(socket) = self.socket() {
            let keepalive = TcpKeepalive::new()
                .with_time(KEEPALIVE_AFTER)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_PROBES);
            // Without it, who vanished is not noticed; nothing else is worse.
            let _ = SockRef::from(socket.get_ref()).set_tcp_keepalive(&keepalive);
        }
    }

    /// Whether bytes have come that nobody has read. Asks the kernel, which may know of some before
    /// the runtime does.
    pub fn has_bytes(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked =
            self.socket().and_then(|socket| SockRef::from(socket.get_ref()).peek(&mut byte));
        matches!(peeked, Ok(1..))
    }

    /// Whether it is open and nothing has come. Costs no system call as a rule: only if something came,
    /// or a read that filled its buffer has left the mark of that behind.
    pub fn is_silent(&mut self) -> bool {
        let read = |mut socket: &TcpStream| socket.read(&mut [0]);
        let read = self.socket().and_then(|socket| socket.try_io(Interest::READABLE, read));
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closing it is to look like a failure to the other side.
    pub fn reset_when_closed(&self) {
        // If that fails, it looks like an end.
        if let Ok(socket) = self.socket() {
            let _ = SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
        }
    }

    fn socket(&self) -> io::Result<&AsyncFd<TcpStream>> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::TcpListener};

    use super::*;
    use crate::net::count::Count;

    fn accepted() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let client = TcpStream::connect(address).expect("it listens");
        let (socket, _) = listener.accept().expect("one connects");
        socket.set_nonblocking(true).expect("it is open");
        (client, Socket::accepted(socket, Count::default().one()).expect("it can be watched"))
    }

    /// Writes until nothing more is taken, and returns how much was.
    fn fill(stream: &mut Socket, cx: &mut Context<'_>) -> usize {
        let mut filled = 0;
        while let Poll::Ready(written) = stream.poll_write(cx, &[0; 65_536]) {
            filled += written.expect("it is open");
        }
        filled
    }

    #[tokio::test]
    async fn who_waits_to_read_is_woken_though_a_write_had_to_wait_since() {
        let (mut client, mut stream) = accepted();
        let mut is_filled = false;
        let read = poll_fn(|cx| {
            let read = stream.poll_read(cx, &mut [0; 9]);
            if !is_filled {
                assert!(read.is_pending());
                fill(&mut stream, cx);
                is_filled = true;
                client.write_all(b"abc").expect("it is open");
            }
            read
        });
        assert_eq!(read.await.expect("it is open"), 3);
    }

    #[tokio::test]
    async fn a_write_that_waits_goes_on_when_there_is_room_again() {
        let (mut client, mut stream) = accepted();
        let filled = poll_fn(|cx| Poll::Ready(fill(&mut stream, cx))).await;
        let reading = tokio::task::spawn_blocking(move || {
            client.read_exact(&mut vec![0; filled]).expect("it was sent");
            client
        });
        let written = poll_fn(|cx| stream.poll_write(cx, b"more")).await;
        assert_eq!(written.expect("it is open"), 4);
        drop(reading.await.expect("all is read"));
    }

    #[tokio::test]
    async fn a_connection_that_nobody_takes_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let stream = Socket::connecting(address, Count::default().one());
        let refused = match stream {
            Ok(mut stream) => poll_fn(|cx| stream.poll_connected(cx)).await,
            Err(error) => Err(error),
        };
        assert_eq!(refused.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn the_system_watches_over_a_side_that_may_be_silent_for_long() {
        let (_client, mut stream) = accepted();
        stream.keep_alive();
        let socket = SockRef::from(stream.socket().expect("it is open").get_ref());
        assert!(socket.keepalive().expect("it is open"));
        assert_eq!(socket.tcp_keepalive_time().expect("it is open"), KEEPALIVE_AFTER);
    }

    #[tokio::test]
    async fn an_end_is_seen_behind_what_is_not_read() {
        let (mut client, stream) = accepted();
        client.write_all(b"abc").expect("it is open");
        assert!(!stream.has_ended());
        client.shutdown(Shutdown::Write).expect("it is open");
        poll_fn(|cx| stream.poll_readable(cx)).await.expect("it is open");
        assert!(stream.has_ended() && !stream.has_failed());
    }

    #[tokio::test]
    async fn silence_is_known_without_a_look_and_bytes_are_not() {
        let (mut client, mut stream) = accepted();
        assert!(stream.is_silent());
        assert!(!stream.has_bytes());
        client.write_all(b"a").expect("it is open");
        poll_fn(|cx| stream.poll_readable(cx)).await.expect("it is open");
        assert!(stream.has_bytes());
        assert!(!stream.is_silent());
    }
}
