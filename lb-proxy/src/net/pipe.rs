//! Pipes of the kernel's, through which long bodies go from one socket to the other without being
//! copied into this process: `splice` moves the pages.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::{
    io::retry_on_intr,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::stream::Stream;

/// Bytes that a pipe holds, if the system lets it.
const SIZE: usize = 256 * 1024;
/// So many at once, of a thread: each has two descriptors. Who gets none copies.
const MOST: usize = 64;

/// One that is in use.
#[derive(Debug)]
pub struct Pipe {
    ends: Ends,
    /// Bytes that it holds now.
    held: usize,
    _counted: Counted,
}

/// A thread's pipes.
#[derive(Debug, Default)]
pub struct Pipes {
    /// Empty ones that nobody uses.
    spares: RefCell<Vec<Ends>>,
    /// How many are in use.
    used: Rc<Cell<usize>>,
}

#[derive(Debug)]
struct Ends {
    input: OwnedFd,
    output: OwnedFd,
}

#[derive(Debug)]
struct Counted(Rc<Cell<usize>>);

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

impl Pipe {
    /// Memory that it may hold, in bytes.
    pub const CAPACITY: usize = SIZE;

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what it holds to `to`, or up to `most` more bytes out of `from`.
    pub fn poll_move(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Moved, Failed>> {
        if self.is_empty() {
            let filled = ready!(from.poll_with_readable(cx, |from| self.fill(from, most)));
            Poll::Ready(match filled {
                Ok(0) => Ok(Moved::End),
                Ok(bytes) => Ok(Moved::In(bytes)),
                Err(error) => Err(Failed::From(error)),
            })
        } else {
            let drained = ready!(to.poll_with_writable(cx, |to| self.drain(to)));
            Poll::Ready(drained.map(Moved::Out).map_err(Failed::To))
        }
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
        let drained = retry_on_intr(|| splice(output, None, &to, None, self.held, FLAGS))?;
        self.held -= drained;
        Ok(drained)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Pipes {
    /// `None` if there are enough in use, or the system has no more descriptors.
    pub fn get(&self) -> Option<Pipe> {
        if MOST <= self.used.get() {
            return None;
        }
        let ends = match self.spares.borrow_mut().pop() {
            Some(ends) => ends,
            None => Ends::open().ok()?,
        };
        Some(Pipe { ends, held: 0, _counted: Counted::new(&self.used) })
    }

    /// Takes one back. One that holds something cannot be used again.
    pub fn put(&self, pipe: Pipe) {
        if pipe.is_empty() {
            self.spares.borrow_mut().push(pipe.ends);
        }
    }

    /// Closes those that nobody uses, so that others may have their descriptors.
    pub fn clear(&self) {
        self.spares.borrow_mut().clear();
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // If the system does not let it be so large, it is slower, and does as well.
        let _ = fcntl_setpipe_size(&input, SIZE);
        Ok(Self { input, output })
    }
}

impl Counted {
    fn new(used: &Rc<Cell<usize>>) -> Self {
        used.set(used.get() + 1);
        Self(Rc::clone(used))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn connected() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (stream.expect("it listens"), Stream::new(accepted.expect("one connects").0))
    }

    #[tokio::test]
    async fn bytes_go_from_one_socket_to_the_other_until_the_first_ends() {
        let ((mut client, mut from), (mut server, mut to)) = (connected().await, connected().await);
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let pipes = Pipes::default();
        let moving = async {
            let mut pipe = pipes.get().expect("there are descriptors");
            let mut moved = 0;
            loop {
                match poll_fn(|cx| pipe.poll_move(&mut from, &mut to, 1000, cx)).await {
                    Ok(Moved::In(bytes)) => assert!((1..=1000).contains(&bytes)),
                    Ok(Moved::Out(bytes)) => moved += bytes,
                    Ok(Moved::End) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert!(pipe.is_empty());
            pipes.put(pipe);
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
    async fn there_are_not_more_than_so_many_and_one_that_holds_something_is_closed() {
        let pipes = Pipes::default();
        let mut used: Vec<_> = (0..MOST).filter_map(|_| pipes.get()).collect();
        assert_eq!(used.len(), MOST);
        assert!(pipes.get().is_none());
        let (mut client, mut from) = connected().await;
        let (_server, mut to) = connected().await;
        client.write_all(b"abc").await.expect("it fits");
        let mut holding = used.pop().expect("there are some");
        let moved = poll_fn(|cx| holding.poll_move(&mut from, &mut to, 2, cx)).await;
        assert_eq!(moved.expect("it has sent"), Moved::In(2));
        pipes.put(holding);
        assert_eq!((pipes.spares.borrow().len(), pipes.used.get()), (0, MOST - 1));
        assert!(pipes.get().is_some());
    }
}
