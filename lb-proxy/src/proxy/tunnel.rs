//! Bytes both ways until both sides have ended: what becomes of a TCP connection, and of an HTTP one
//! that has switched protocols.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use lb_common::clock;

use crate::{
    local::{Held, Local},
    net::{
        lookout::{Lookout, Waited},
        outbox::Outbox,
        pipe::{Bypass, Failed, Moved},
        socket::KEEPALIVE_AFTER,
        stream::Stream,
        timer::LazyTimer,
    },
};

/// Where so much comes at once, it pays to move what follows past this process.
const MUCH: usize = 64 * 1024;

/// One of the two connections, and what is on its way to it.
#[derive(Debug)]
pub struct Side<'a> {
    pub stream: &'a mut Stream,
    pub outbox: &'a mut Outbox,
    /// Where its bytes go while many come.
    bypass: Bypass,
    /// It has been read to its end, or cannot be.
    has_ended: bool,
    /// Why it takes nothing any more.
    error: Option<io::Error>,
    /// It was told that nothing more comes.
    is_told: bool,
    /// Bytes that were read of it.
    read: u64,
}

#[derive(Debug)]
pub struct Tunnel<'a> {
    pub client: Side<'a>,
    pub backend: Side<'a>,
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum TunnelEnd {
    /// Both sides have ended, and each got all that the other sent.
    Both,
    /// One of them failed. The other one got all that this one sent before, and may be sending.
    Broken(io::Error),
    /// Nothing moved for too long.
    Idle,
}

impl<'a> Side<'a> {
    pub fn new(stream: &'a mut Stream, outbox: &'a mut Outbox) -> Self {
        Self {
            stream,
            outbox,
            bypass: Bypass::default(),
            has_ended: false,
            error: None,
            is_told: false,
            read: 0,
        }
    }
}

impl Side<'_> {
    /// So many bytes were read of it before, which wait for the other side.
    pub fn after(mut self, read: usize) -> Self {
        self.read = read as u64;
        self
    }

    /// Nothing more can be written to it. What it said before may be there to be read.
    fn takes_no_more(&mut self, error: io::Error) {
        self.error.get_or_insert(error);
    }

    /// It is gone, and so is what it had to say to the other one.
    fn failed(&mut self, error: io::Error, to: &mut Side<'_>) {
        self.has_ended = true;
        to.stream.cut();
        self.takes_no_more(error);
    }

    /// Memory that it holds.
    fn capacity(&self) -> usize {
        self.stream.capacity() + self.outbox.capacity() + self.bypass.capacity()
    }

    /// Gives back what it holds and does not need now.
    fn rest(&mut self, local: &Local) {
        if self.outbox.is_empty() && self.outbox.capacity() > 0 {
            local.recycle_buffer(self.outbox.take());
        }
    }
}

impl Tunnel<'_> {
    /// Moves bytes until both sides have ended. `moved` is told each time how many there were so
    /// far.
    pub async fn run(
        &mut self,
        local: &Rc<Local>,
        timer: &LazyTimer,
        idle: Duration,
        mut moved: impl FnMut(u64, u64),
    ) -> TunnelEnd {
        let (mut since, mut lookout): (Option<Instant>, _) = (None, Lookout::default());
        let (mut held, mut is_kept_alive) = (Held::new(local), false);
        poll_fn(|cx| {
            let before = self.progress();
            let mut up = poll_move(&mut self.client, &mut self.backend, local, cx);
            let down = poll_move(&mut self.backend, &mut self.client, local, cx);
            if self.client.error.is_some() || self.backend.error.is_some() {
                // It may have nothing to wait for any more.
                up = poll_move(&mut self.client, &mut self.backend, local, cx);
            }
            if self.progress() != before {
                since = None;
                moved(self.client.read, self.backend.read);
            }
            if up.is_ready() && down.is_ready() {
                let error = self.client.error.take().or(self.backend.error.take());
                return Poll::Ready(error.map_or(TunnelEnd::Both, TunnelEnd::Broken));
            }
            self.client.rest(local);
            self.backend.rest(local);
            held.set(self.client.capacity() + self.backend.capacity());
            let deadline = *since.get_or_insert_with(clock::now) + idle;
            let Self { client, backend } = self;
            if !is_waited_for(client, backend) && !is_waited_for(backend, client) {
                lookout.rest();
                let quiet = deadline - idle + KEEPALIVE_AFTER;
                if !is_kept_alive && quiet < deadline {
                    // Not from the start on: most do not live for so long.
                    ready!(timer.poll_expired(quiet, cx));
                    is_kept_alive = true;
                    client.stream.keep_alive();
                    backend.stream.keep_alive();
                }
                return timer.poll_expired(deadline, cx).map(|()| TunnelEnd::Idle);
            }
            // A side that waits for the other to take something is not read.
            let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
            let mut changed = false;
            let waited = lookout.poll(timer, Some(deadline), cx, || {
                if backend.error.is_none() && backend.stream.has_failed() {
                    // The client may still read what it said.
                    backend.takes_no_more(reset());
                    changed = true;
                }
                client.stream.has_failed()
            });
            if changed {
                cx.waker().wake_by_ref();
            }
            waited.map(|waited| match waited {
                Waited::Expired => TunnelEnd::Idle,
                Waited::Gone => TunnelEnd::Broken(reset()),
            })
        })
        .await
    }

    fn progress(&self) -> u64 {
        let Self { client, backend } = self;
        client.read + backend.read + client.outbox.written() + backend.outbox.written()
    }
}

/// Whether something has come of one side that the other one is to take.
fn is_waited_for(to: &Side<'_>, from: &Side<'_>) -> bool {
    to.error.is_none() && !(to.outbox.is_empty() && from.bypass.is_empty())
}

/// Ready when all of one side was written to the other, which was told of its end, or takes no more.
fn poll_move(
    from: &mut Side<'_>,
    to: &mut Side<'_>,
    local: &Local,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while to.error.is_none() {
        if let Err(error) = ready!(to.outbox.poll_flush(to.stream, cx)) {
            to.takes_no_more(error);
            break;
        }
        if from.has_ended {
            if !to.is_told {
                let told = ready!(to.stream.poll_end(cx));
                to.is_told = true;
                // Who has ended its own side may be gone by now, and has nothing to be told.
                if let Err(error) = told
                    && !to.has_ended
                {
                    to.takes_no_more(error);
                }
            }
            break;
        }
        let bypass = &mut from.bypass;
        if let Some(moved) = bypass.poll_move(&local.pipes, from.stream, to.stream, u64::MAX, cx) {
            match ready!(moved) {
                Ok(Moved::In(bytes)) => from.read += bytes as u64,
                Ok(Moved::Out(bytes)) => to.outbox.went_past(bytes),
                Ok(Moved::End) => from.has_ended = true,
                Err(Failed::From(error)) => from.failed(error, to),
                Err(Failed::To(error)) => to.takes_no_more(error),
            }
            continue;
        }
        let filled = match ready!(local.poll_fill(from.stream, cx)) {
            Ok(filled) => filled,
            Err(error) => {
                from.failed(error, to);
                continue;
            }
        };
        from.read += filled.len() as u64;
        from.has_ended = filled.is_empty();
        let sent = local.hot.with(filled, |bytes| to.outbox.pass(to.stream, cx, bytes));
        if let Err(error) = sent {
            to.takes_no_more(error);
        }
        let is_bare = from.stream.is_bare() && to.stream.is_bare();
        if MUCH <= filled.len() && is_bare && !local.is_full() {
            from.bypass.open(&local.pipes);
        }
    }
    Poll::Ready(())
}
