//! Backends for the benchmark of health checks, with nothing but the standard library: one process that
//! is as many as there are addresses in 127.0.0.0/8.
//!
//! ```text
//! probed PORT HOLES
//! probed ask PORT COUNT
//! ```
//!
//! Every address answers 200 at PORT, and keeps connections unless it is told to close them. At HOLES
//! nothing is ever answered, not even a SYN: the queue of connections that nobody accepts is full.
//!
//! The second form asks so many of these backends, one after the other and each over a connection of its own, with
//! as few system calls as can be: what this costs on a machine is what a check is to be compared with.

use std::{
    collections::HashMap,
    env,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    process::ExitCode,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n";
/// In the requests that are the last ones of their connection.
const CLOSE: &[u8] = b"connection: close";
const BACKLOG: i32 = 4096;

mod system {
    //! The five calls that are needed and not in the standard library, which links them.

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
        fn listen(fd: i32, backlog: i32) -> i32;
        fn setsockopt(fd: i32, level: i32, name: i32, value: *const [i32; 2], size: u32) -> i32;
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

        pub fn add(&self, fd: RawFd) -> io::Result<()> {
            let mut event = Event { events: READABLE, token: fd as u64 };
            // SAFETY: the kernel only reads `event`, and only during the call.
            check(unsafe { epoll_ctl(self.0, ADD, fd, &raw mut event) }).map(drop)
        }

        pub fn wait<'a>(&self, events: &'a mut [Event; 256]) -> io::Result<&'a [Event]> {
            // SAFETY: the kernel writes at most as many events as there are.
            let got = check(unsafe { epoll_wait(self.0, events.as_mut_ptr(), 256, -1) })?;
            Ok(&events[..got as usize])
        }
    }

    pub const NONE: [Event; 256] = [Event { events: 0, token: 0 }; 256];

    /// How many connections wait to be accepted.
    pub fn set_backlog(fd: RawFd, backlog: i32) -> io::Result<()> {
        // SAFETY: no pointers.
        check(unsafe { listen(fd, backlog) }).map(drop)
    }

    /// It ends with a reset, at once.
    pub fn set_zero_linger(fd: RawFd) -> io::Result<()> {
        const SOL_SOCKET: i32 = 1;
        const SO_LINGER: i32 = 13;
        let on_for_no_time = [1, 0];
        // SAFETY: the kernel only reads `on_for_no_time`, which has these 8 bytes, and only during the call.
        check(unsafe { setsockopt(fd, SOL_SOCKET, SO_LINGER, &raw const on_for_no_time, 8) })
            .map(drop)
    }

    fn check(result: i32) -> io::Result<i32> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}

fn serve(port: u16, holes: u16) -> io::Result<()> {
    let (_never_accepts, _in_its_queue) = hole(holes)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    system::set_backlog(listener.as_raw_fd(), BACKLOG)?;
    listener.set_nonblocking(true)?;
    let epoll = system::Epoll::new()?;
    epoll.add(listener.as_raw_fd())?;
    let mut connections: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut events = system::NONE;
    loop {
        for event in epoll.wait(&mut events)? {
            let fd = event.token as RawFd;
            if fd != listener.as_raw_fd() {
                if !connections.get(&fd).is_some_and(answer) {
                    connections.remove(&fd);
                }
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                // As a rule the request has come already, and often it is the only one.
                if answer(&stream) {
                    epoll.add(stream.as_raw_fd())?;
                    connections.insert(stream.as_raw_fd(), stream);
                }
            }
        }
    }
}

/// Answers the request that has come, if one has; requests come in one piece here. Returns whether the
/// connection goes on.
fn answer(mut stream: &TcpStream) -> bool {
    let mut request = [0; 1024];
    match stream.read(&mut request) {
        Ok(0) => false,
        Ok(read) => {
            let is_last = request[..read].windows(CLOSE.len()).any(|part| part == CLOSE);
            stream.write_all(ANSWER).is_ok() && !is_last
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// A listener whose queue is full, and what it is full of.
fn hole(port: u16) -> io::Result<(TcpListener, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    system::set_backlog(listener.as_raw_fd(), 0)?;
    let filling = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    Ok((listener, filling))
}

fn ask(port: u16, count: u16) -> io::Result<()> {
    const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let mut stream = TcpStream::connect((Ipv4Addr::new(127, 1, high, low.max(1)), port))?;
        stream.write_all(REQUEST)?;
        let read = stream.read(&mut [0; 1024])?;
        if read != ANSWER.len() {
            return Err(io::Error::other(format!("{read} bytes are not the answer")));
        }
        system::set_zero_linger(stream.as_raw_fd())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let (asks, numbers) = match args.split_first() {
        Some((first, others)) if first == "ask" => (true, others),
        _ => (false, &args[..]),
    };
    let numbers: Vec<u16> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    let [port, other] = numbers[..] else {
        eprintln!("usage: probed PORT HOLES, or probed ask PORT COUNT");
        return ExitCode::FAILURE;
    };
    match if asks { ask(port, other) } else { serve(port, other) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probed: {error}");
            ExitCode::FAILURE
        }
    }
}
