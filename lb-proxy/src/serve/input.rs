//! Reading what comes before a client may speak.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context as TaskContext, Poll, ready},
};

use lb_prelude::client_hello::{ClientHello, HelloError, HelloReader};

use crate::{
    connections::{End, Id},
    local::{Held, Local},
    net::{block::Block, hot::Filled, stream::Stream},
};

/// Why no more comes.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the client is gone")]
    Gone,
    #[error("it took too long, or others needed its place")]
    Ended,
    #[error("too much waits in buffers")]
    NoRoom,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection, and what has come of it and is not used yet.
#[derive(Debug)]
pub struct Input {
    pub stream: Stream,
    pub bytes: Block,
    held: Held,
}

/// Of what is read at once.
const AT_ONCE: usize = 16 * 1024;
/// Of what may wait when buffers are full.
const LITTLE: usize = 4 * 1024;

/// The next bytes; at least one.
pub fn poll_fill(
    local: &Local,
    id: Id,
    stream: &mut Stream,
    cx: &mut TaskContext<'_>,
) -> Poll<Result<Filled, ReadError>> {
    if local.connections.poll_end(id, cx) != End::NotYet {
        return Poll::Ready(Err(ReadError::Ended));
    }
    let filled = ready!(local.hot.poll_fill(AT_ONCE, stream, cx))?;
    Poll::Ready(if filled.is_empty() { Err(ReadError::Gone) } else { Ok(filled) })
}

/// Whether so much may wait for more.
pub fn may_wait(local: &Local, bytes: usize) -> Result<(), ReadError> {
    if LITTLE < bytes && local.is_full() { Err(ReadError::NoRoom) } else { Ok(()) }
}

impl Input {
    pub fn new(local: &Rc<Local>, stream: Stream) -> Self {
        Self { stream, bytes: Block::default(), held: Held::new(local) }
    }

    /// Reads on.
    pub async fn more(&mut self, local: &Local, id: Id) -> Result<(), ReadError> {
        may_wait(local, self.bytes.len())?;
        let filled = poll_fn(|cx| poll_fill(local, id, &mut self.stream, cx)).await?;
        local.keep(filled, &mut self.bytes);
        self.held.set(self.bytes.capacity());
        Ok(())
    }

    /// What a TLS client says first. It is looked at, and goes on.
    pub async fn hello(
        &mut self,
        local: &Local,
        id: Id,
    ) -> Result<Result<ClientHello, HelloError>, ReadError> {
        let mut reader = HelloReader::default();
        loop {
            match reader.read(&self.bytes).transpose() {
                Some(read) => return Ok(read),
                None => self.more(local, id).await?,
            }
        }
    }

    /// The first bytes are used.
    pub fn consume(&mut self, local: &Local, bytes: usize) {
        self.bytes.consume(bytes);
        if self.bytes.is_empty() {
            local.recycle_block(std::mem::take(&mut self.bytes));
            self.held.set(0);
        }
    }
}
