//! Pipes of the kernel's, through which long bodies go from one socket to the other without being
//! copied into this process: `splice` moves the pages.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::{
    io::retry_on_intr,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::{
    count::{Count, Counted},
    socket::Socket,
    stream::Stream,
};

/// Bytes that a pipe holds.
const SIZE: usize = 256 * 1024;

/// A way past this process, as long as there is something for it.
#[derive(Debug, Default)]
pub struct Bypass(Option<Pipe>);

/// One that is in use.
#[derive(Debug)]
struct Pipe {
    ends: Ends,
    /// Bytes that it holds now.
    held: usize,
    _counted: Counted,
}

/// A thread's pipes. Who gets none copies.
#[derive(Debug)]
pub struct Pipes {
    /// So many may be in use: each has two descriptors.
    most: usize,
    used: Count,
    /// Empty ones that nobody uses.
    spares: RefCell<Vec<Ends>>,
    /// How many spares there were at least since the last sweep.
    unused: Cell<usize>,
    /// Since the last sweep, the system let it have no more.
    is_short: Cell<bool>,
}

#[derive(Debug)]
struct Ends {
    input: OwnedFd,
    output: OwnedFd,
}

/// Which side failed.
#[derive(Debug)]
pub enum Failed {
    From(io::Error),
    To(io::Error),
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    In(usize),
    Out(usize),
    /// The source has ended.
    End,
}

impl Bypass {
    /// So much has to be on its way for this to be the cheaper one.
    pub const WORTH_IT: u64 = 128 * 1024;

    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Opens it, if the thread has a pipe for it.
    pub fn open(&mut self, pipes: &Pipes) {
        if self.0.is_none() {
            self.0 = pipes.get();
        }
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|pipe| pipe.held == 0)
    }

    /// Memory that it may hold, in bytes; the kernel's.
    pub fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |_| SIZE)
    }

    /// One step: moves what is on its way to `to`, or up to `most` more bytes out of `from`. Closes it
    /// when nothing is on its way and nothing more comes, or not now. `None` if it is not open.
    pub fn poll_move(
        &mut self,
        pipes: &Pipes,
        from: &mut Stream,
        to: &mut Stream,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<Moved, Failed>>> {
        if most == 0 && self.is_empty() {
            pipes.put(self.0.take());
        }
        let (from, to) = (from.bare()?, to.bare()?);
        let pipe = self.0.as_mut()?;
        let moved = match pipe.held {
            0 => pipe.poll_fill(from, most, cx),
            _ => pipe.poll_drain(to, cx),
        };
        let is_over = match &moved {
            Poll::Ready(Ok(Moved::Out(_))) => most == 0,
            Poll::Ready(Ok(Moved::In(_))) => false,
            Poll::Ready(Ok(Moved::End) | Err(_)) | Poll::Pending => true,
        };
        if is_over && pipe.held == 0 {
            pipes.put(self.0.take());
        }
        Some(moved)
    }
}

impl Pipe {
    fn poll_fill(
        &mut self,
        from: &mut Socket,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Moved, Failed>> {
        let filled = ready!(from.poll_with_readable(cx, |from| self.fill(from, most)));
        Poll::Ready(match filled {
            Ok(0) => Ok(Moved::End),
            Ok(bytes) => Ok(Moved::In(bytes)),
            Err(error) => Err(Failed::From(error)),
        })
    }

    fn poll_drain(&mut self, to: &mut Socket, cx: &mut Context<'_>) -> Poll<Result<Moved, Failed>> {
        let drained = ready!(to.poll_with_writable(cx, |to| self.drain(to)));
        Poll::Ready(drained.map(Moved::Out).map_err(Failed::To))
    }

    fn fill(&mut self, from: impl AsFd, most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(SIZE);
        let input = &self.ends.input;
        let filled = retry_on_intr(|| splice(&from, None, input, None, most, FLAGS))?;
        self.held += filled;
        Ok(filled)
    }

    fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let output = &self.ends.output;
        match retry_on_intr(|| splice(output, None, &to, None, self.held, FLAGS))? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            drained => {
                self.held -= drained;
                Ok(drained)
            }
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Pipes {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            used: Count::default(),
            spares: RefCell::default(),
            unused: Cell::new(0),
            is_short: Cell::new(false),
        }
    }

    fn get(&self) -> Option<Pipe> {
        if self.most <= self.used.get() || self.is_short.get() {
            return None;
        }
        let mut spares = self.spares.borrow_mut();
        let ends = spares.pop().or_else(|| Ends::open().ok());
        self.unused.set(self.unused.get().min(spares.len()));
        self.is_short.set(ends.is_none());
        Some(Pipe { ends: ends?, held: 0, _counted: self.used.one() })
    }

    /// Takes an empty one back.
    fn put(&self, pipe: Option<Pipe>) {
        self.spares.borrow_mut().extend(pipe.map(|pipe| pipe.ends));
    }

    /// Closes what was not needed since the last call.
    pub fn sweep(&self) {
        let mut spares = self.spares.borrow_mut();
        spares.drain(..self.unused.get());
        self.unused.set(spares.len());
        self.is_short.set(false);
    }

    /// Closes those that nobody uses, so that others may have their descriptors.
    pub fn clear(&self) {
        self.spares.borrow_mut().clear();
        self.unused.set(0);
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one would be slower than copying.
        fcntl_setpipe_size(&input, SIZE)?;
        Ok(Self { input, output })
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn connected() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let socket = accepted.expect("one connects").0.into_std().expect("it is open");
        let accepted = Stream::accepted(socket, Count::default().one());
        (stream.expect("it listens"), accepted.expect("it can be watched"))
    }

    #[tokio::test]
    async fn bytes_go_from_one_socket_to_the_other_until_the_first_ends() {
        let ((mut client, mut from), (mut server, mut to)) = (connected().await, connected().await);
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let pipes = Pipes::new(3);
        let moving = async {
            let (mut bypass, mut moved) = (Bypass::default(), 0);
            loop {
                let step = poll_fn(|cx| {
                    bypass.open(&pipes);
                    bypass.poll_move(&pipes, &mut from, &mut to, 1000, cx).expect("it is open")
                });
                match step.await {
                    Ok(Moved::In(bytes)) => assert!((1..=1000).contains(&bytes)),
                    Ok(Moved::Out(bytes)) => moved += bytes,
                    Ok(Moved::End) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert!(!bypass.is_open());
            drop(to);
            moved
        };
        let sending = async {
            client.write_all(&sent).await.expect("it is read");
            drop(client);
        };
        let mut received = Vec::new();
        let (moved, (), read) = tokio::join!(moving, sending, server.read_to_end(&mut received));
        assert_eq!((moved, read.expect("it ends")), (sent.len(), sent.len()));
        assert!(received == sent);
        assert_eq!((pipes.spares.borrow().len(), pipes.used.get()), (1, 0));
    }

    #[tokio::test]
    async fn a_pipe_is_given_back_when_all_went_through_and_closed_when_something_is_in_it() {
        let pipes = Pipes::new(3);
        let ((mut client, mut from), (_server, mut to)) = (connected().await, connected().await);
        client.write_all(b"abcd").await.expect("it fits");
        poll_fn(|cx| from.poll_readable(cx)).await.expect("it is open");
        let mut bypass = Bypass::default();
        let mut context = Context::from_waker(Waker::noop());
        assert!(bypass.poll_move(&pipes, &mut from, &mut to, 2, &mut context).is_none());
        let counts = || (pipes.spares.borrow().len(), pipes.used.get());
        for (most, moved, holds) in [(2, Moved::In(2), true), (0, Moved::Out(2), false)] {
            bypass.open(&pipes);
            let step = |cx: &mut Context<'_>| {
                bypass.poll_move(&pipes, &mut from, &mut to, most, cx).expect("it is open")
            };
            let done = poll_fn(step).await;
            assert_eq!(done.expect("both are open"), moved);
            assert_eq!((!bypass.is_empty(), bypass.is_open()), (holds, holds));
        }
        assert_eq!(counts(), (1, 0));
        bypass.open(&pipes);
        let step = |cx: &mut Context<'_>| {
            bypass.poll_move(&pipes, &mut from, &mut to, 9, cx).expect("it is open")
        };
        let done = poll_fn(step).await;
        assert_eq!((done.expect("both are open"), counts()), (Moved::In(2), (0, 1)));
        drop(bypass);
        assert_eq!(counts(), (0, 0));
    }

    #[tokio::test]
    async fn one_that_is_to_take_nothing_is_given_back() {
        let pipes = Pipes::new(1);
        let ((mut client, mut from), (_server, mut to)) = (connected().await, connected().await);
        client.write_all(b"abcd").await.expect("it fits");
        let mut bypass = Bypass::default();
        bypass.open(&pipes);
        let mut context = Context::from_waker(Waker::noop());
        assert!(bypass.poll_move(&pipes, &mut from, &mut to, 0, &mut context).is_none());
        assert_eq!((bypass.is_open(), pipes.used.get()), (false, 0));
        assert!(from.has_bytes(), "they are there for who copies");
    }

    #[tokio::test]
    async fn spares_that_are_not_needed_are_closed() {
        let pipes = Pipes::new(3);
        let mut used = [const { Bypass(None) }; 2];
        used.iter_mut().for_each(|bypass| bypass.open(&pipes));
        used.iter_mut().for_each(|bypass| pipes.put(bypass.0.take()));
        let spares = |pipes: &Pipes| {
            pipes.sweep();
            pipes.spares.borrow().len()
        };
        assert_eq!(spares(&pipes), 2, "both were needed");
        used[0].open(&pipes);
        pipes.put(used[0].0.take());
        assert_eq!((spares(&pipes), spares(&pipes)), (1, 0));
    }

    #[tokio::test]
    async fn a_thread_has_no_more_than_so_many() {
        let pipes = Pipes::new(3);
        let mut used: Vec<_> = (0..5).map(|_| Bypass::default()).collect();
        used.iter_mut().for_each(|bypass| bypass.open(&pipes));
        assert_eq!(used.iter().filter(|bypass| bypass.is_open()).count(), 3);
    }
}
