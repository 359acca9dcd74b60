//! WebSockets for the benchmark, with nothing but the standard library: a server that sends every
//! message back, and a generator of load that keeps one message on its way on each connection.
//!
//! ```text
//! websocket serve ADDRESS
//! websocket load ADDRESS SECONDS CONNECTIONS BYTES
//! ```
//!
//! Both take part in the protocol as far as it is needed between the two of them: messages are one
//! binary frame of at most 125 bytes, and the handshake's key is the one that RFC 6455 has as its
//! example, so that its answer need not be computed.

use std::{
    env,
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    process::ExitCode,
    time::{Duration, Instant},
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const BINARY: u8 = 0x82;
const LONGEST: usize = 125;

mod epoll {
    //! The three calls of epoll(7) that are needed; the standard library links them.

    use std::{io, os::fd::RawFd};

    #[repr(C)]
    #[cfg_attr(target_arch = "x86_64", repr(packed))]
    #[derive(Clone, Copy)]
    pub struct Event {
        events: u32,
        pub token: u64,
    }

    unsafe extern "C" {
        fn epoll_create1(flags: i32) -> i32;
        fn epoll_ctl(epoll: i32, operation: i32, fd: i32, event: *mut Event) -> i32;
        fn epoll_wait(epoll: i32, events: *mut Event, capacity: i32, timeout: i32) -> i32;
    }

    const ADD: i32 = 1;
    const READABLE: u32 = 1;

    /// Tells which descriptors can be read, for as long as they can. A closed one leaves by itself.
    pub struct Epoll(RawFd);

    impl Epoll {
        pub fn new() -> io::Result<Self> {
            // SAFETY: no pointers.
            check(unsafe { epoll_create1(0) }).map(Self)
        }

        pub fn add(&self, fd: RawFd, token: usize) -> io::Result<()> {
            let mut event = Event { events: READABLE, token: token as u64 };
            // SAFETY: the kernel only reads `event`, and only during the call.
            check(unsafe { epoll_ctl(self.0, ADD, fd, &raw mut event) }).map(drop)
        }

        /// Waits for 100 ms at most.
        pub fn wait<'a>(&self, events: &'a mut [Event; 256]) -> io::Result<&'a [Event]> {
            // SAFETY: the kernel writes at most as many events as there are.
            let got = check(unsafe { epoll_wait(self.0, events.as_mut_ptr(), 256, 100) })?;
            Ok(&events[..got as usize])
        }
    }

    pub const NONE: [Event; 256] = [Event { events: 0, token: 0 }; 256];

    fn check(result: i32) -> io::Result<i32> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}

/// A connection and what came on it that is not a whole head or frame yet.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    open: bool,
}

impl Peer {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: Vec::new(), open: false })
    }

    /// Reads once what there is. `false`: the other side closed.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16384];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes a head off the input, if it is whole.
    fn head(&mut self) -> Option<String> {
        let end = self.input.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        Some(String::from_utf8_lossy(&self.input.drain(..end).collect::<Vec<_>>()).into_owned())
    }

    /// Takes a frame off the input, if it is whole: its first byte and what it carries.
    fn frame(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let [first, second, ..] = self.input[..] else { return Ok(None) };
        let (masked, length) = (second & 0x80 != 0, usize::from(second & 0x7f));
        if length > LONGEST {
            return Err(io::Error::new(ErrorKind::InvalidData, "a longer message than was sent"));
        }
        let start = if masked { 6 } else { 2 };
        if self.input.len() < start + length {
            return Ok(None);
        }
        let mut payload = self.input[start..start + length].to_vec();
        if masked {
            let mask = [self.input[2], self.input[3], self.input[4], self.input[5]];
            apply(mask, &mut payload);
        }
        self.input.drain(..start + length);
        Ok(Some((first, payload)))
    }
}

fn apply(mask: [u8; 4], payload: &mut [u8]) {
    payload.iter_mut().zip(mask.into_iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::Epoll::new()?;
    // The listener's token is behind all others.
    epoll.add(listener.as_raw_fd(), usize::MAX)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut events = epoll::NONE;
    loop {
        let ready = match epoll.wait(&mut events) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            ready => ready?,
        };
        for event in ready {
            let token = event.token as usize;
            if token == usize::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    let fd: RawFd = stream.as_raw_fd();
                    peers.push(Some(Peer::new(stream)?));
                    epoll.add(fd, peers.len() - 1)?;
                }
            } else if let Some(peer) = &mut peers[token]
                && !matches!(echo(peer), Ok(true))
            {
                peers[token] = None;
            }
        }
    }
}

/// Answers what can be answered. `false`: the connection is over.
fn echo(peer: &mut Peer) -> io::Result<bool> {
    if !peer.fill()? {
        return Ok(false);
    }
    let mut output = Vec::new();
    if !peer.open {
        let Some(head) = peer.head() else { return Ok(true) };
        if !head.contains(KEY) {
            return Ok(false);
        }
        peer.open = true;
        output = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
        .into_bytes();
    }
    while let Some((first, payload)) = peer.frame()? {
        output.extend_from_slice(&[first, payload.len() as u8]);
        output.extend_from_slice(&payload);
    }
    // It is less than the socket's buffer takes, as only one message is on its way.
    peer.stream.write_all(&output)?;
    Ok(true)
}

fn load(address: &str, seconds: u64, connections: usize, bytes: usize) -> io::Result<()> {
    let epoll = epoll::Epoll::new()?;
    let mut peers = Vec::new();
    for token in 0..connections {
        let peer = connect(address)?;
        epoll.add(peer.stream.as_raw_fd(), token)?;
        peers.push(peer);
    }
    let sent = vec![b'x'; bytes];
    let mut frame = vec![BINARY, 0x80 | bytes as u8];
    frame.extend_from_slice(&MASK);
    frame.extend_from_slice(&sent);
    apply(MASK, &mut frame[6..]);

    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let mut since = vec![started; connections];
    let mut times = Vec::new();
    let (mut wrong, mut broken) = (0, 0);
    for peer in &mut peers {
        peer.stream.write_all(&frame)?;
    }
    let mut events = epoll::NONE;
    while Instant::now() < end && broken < connections {
        for event in epoll.wait(&mut events)? {
            let token = event.token as usize;
            let peer = &mut peers[token];
            if !peer.open {
                continue;
            }
            let came = peer.fill().and_then(|open| Ok((open, peer.frame()?)));
            match came {
                Ok((true, None)) => {}
                Ok((_, Some((first, payload)))) => {
                    let now = Instant::now();
                    times.push(now - since[token]);
                    wrong += usize::from(first != BINARY || payload != sent);
                    since[token] = now;
                    peer.stream.write_all(&frame)?;
                }
                Ok((false, None)) | Err(_) => {
                    broken += 1;
                    peer.open = false;
                    let _ = peer.stream.shutdown(std::net::Shutdown::Both);
                }
            }
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    times.sort_unstable();
    let percentile = |p: usize| {
        let index = (times.len() * p / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    println!(
        "RESULT {{\"requests\": {}, \"seconds\": {elapsed:.6}, \"p50_us\": {:.1}, \
         \"p99_us\": {:.1}, \"broken\": {broken}, \"refused\": {wrong}}}",
        times.len(),
        percentile(50),
        percentile(99),
    );
    Ok(())
}

/// Connects and does the handshake.
fn connect(address: &str) -> io::Result<Peer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    (&stream).write_all(
        format!(
            "GET /echo HTTP/1.1\r\nHost: bench.example.com\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        (&stream).read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 101") {
        let status = head.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("the handshake was answered with {status:?}")));
    }
    let mut peer = Peer::new(stream)?;
    peer.open = true;
    Ok(peer)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", address] => serve(address),
        ["load", address, seconds, connections, bytes] => {
            match (seconds.parse(), connections.parse(), bytes.parse()) {
                (Ok(seconds), Ok(connections), Ok(bytes)) if bytes <= LONGEST => {
                    load(address, seconds, connections, bytes)
                }
                _ => Err(io::Error::other("that is no number, or too many bytes")),
            }
        }
        _ => Err(io::Error::other(
            "usage: websocket serve ADDRESS | load ADDRESS SECONDS CONNECTIONS BYTES",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
