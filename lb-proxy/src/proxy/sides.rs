//! What an exchange is between, and how long each side may keep the other waiting.

use std::{
    io,
    rc::Rc,
    task::Context,
    time::{Duration, Instant},
};

use lb_common::clock;
use lb_http::h1::encode;

use super::{error::ClientError, upload::Upload};
use crate::{
    downstream::Downstream,
    local::Local,
    net::{outbox::Outbox, stream::Stream},
};

/// What an exchange goes on between, besides its backend.
#[derive(Debug)]
pub struct Sides<'a> {
    pub local: &'a Rc<Local>,
    pub down: &'a mut Downstream,
    pub upload: &'a mut Upload,
    pub deadlines: &'a Deadlines,
    /// How many interim responses have come so far, in all attempts.
    pub interims: &'a mut u8,
}

/// How long each side may be silent, and until when the response's head must be there.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the request's last byte to the response's head, over all attempts.
    pub response: Duration,
    /// The same, for this attempt.
    pub per_try: Option<Duration>,
    pub body: Duration,
    pub stream_idle: Option<Duration>,
    pub write: Duration,
    /// How long a client that has ended its side is waited for, once its request was there.
    pub half_closed: Duration,
    /// When that was.
    pub started: Instant,
}

impl Sides<'_> {
    /// Watches the client while nothing is expected of it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), ClientError> {
        self.down.watch(self.local, cx).map_err(|_| ClientError::Gone)
    }

    /// Until when a client that has ended its side is waited for.
    pub fn gone_at(&self) -> Option<Instant> {
        let Deadlines { half_closed, started, .. } = *self.deadlines;
        self.down.ends_at().map(|ended| ended.max(started) + half_closed)
    }
}

/// Of both sides.
#[derive(Debug, Default)]
pub struct Silences {
    pub client: Silence,
    pub backend: Silence,
}

/// How long nothing has moved. The clock is read at the first look after something did.
#[derive(Debug, Default)]
pub struct Silence(Option<Instant>);

impl Silence {
    /// Something moved.
    pub fn broken(&mut self) {
        self.0 = None;
    }

    /// When it will have lasted for so long.
    pub fn until(&mut self, limit: Duration) -> Instant {
        *self.0.get_or_insert_with(clock::now) + limit
    }
}

/// Puts a piece of a body on its way.
pub fn send(
    out: &mut Outbox,
    stream: &mut Stream,
    cx: &mut Context<'_>,
    payload: &[u8],
    is_chunked: bool,
) -> io::Result<()> {
    match (is_chunked, payload.is_empty()) {
        (_, true) => Ok(()),
        (false, false) => out.send(stream, cx, payload, b""),
        (true, false) => {
            encode::chunk_begin(out.bytes(), payload.len());
            out.send(stream, cx, payload, encode::CRLF)
        }
    }
}
