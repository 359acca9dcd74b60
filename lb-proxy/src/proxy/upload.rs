//! A request's body on its way in: read once, and kept as long as it may have to be sent again.
//! Where in it the connection is, the connection knows.

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use lb_common::clock;
use lb_http::{
    h1::{BodyError, Decoded},
    message::{Request, RequestBody},
};

use super::error::ClientError;
use crate::{downstream::Downstream, local::Local, net::block::Block};

#[derive(Debug)]
pub struct Upload {
    /// All of it so far, as long as `is_kept`.
    kept: Block,
    is_kept: bool,
    /// Bytes that may be kept.
    limit: u64,
    /// Bytes that it may have.
    most: Option<u64>,
    /// Bytes of it that have come.
    pub received: u64,
    /// The client has asked to be told to go on with it, and was not told yet.
    pub expects_continue: bool,
    /// When its end came.
    completed: Option<Instant>,
}

impl Upload {
    /// Of a request whose head was there at `now`. Keeps up to `limit` bytes for another attempt.
    ///
    /// # Errors
    /// If its length says already that it is longer than `most`.
    pub fn new(
        request: &Request,
        limit: u64,
        most: Option<u64>,
        now: Instant,
    ) -> Result<Self, ClientError> {
        let length = match request.body {
            RequestBody::None => Some(0),
            RequestBody::Length(length) => Some(length),
            RequestBody::Chunked => None,
        };
        if let (Some(most), Some(length)) = (most, length)
            && most < length
        {
            return Err(ClientError::TooLarge(most));
        }
        Ok(Self {
            completed: (length == Some(0)).then_some(now),
            kept: Block::default(),
            // What is known to be too long is not kept in the first place.
            is_kept: length.is_none_or(|length| length <= limit),
            limit,
            most,
            received: 0,
            expects_continue: request.expects_continue,
        })
    }

    /// Whether the body can be sent from its beginning, again or for the first time.
    pub fn is_replayable(&self) -> bool {
        self.is_kept || self.received == 0
    }

    /// Whether the client waits for a word of the backend before it sends any of it.
    pub fn waits_for_backend(&self) -> bool {
        self.expects_continue && self.received == 0 && self.completed.is_none()
    }

    /// When its end came, if it did.
    pub fn completed(&self) -> Option<Instant> {
        self.completed
    }

    /// What has come so far, if it is kept.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Memory that it holds.
    pub fn capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// No other attempt will be made.
    pub fn forget(&mut self, local: &Local) {
        local.recycle_block(std::mem::take(&mut self.kept));
        self.is_kept = false;
    }

    /// Shows what came next. To be called until it is complete.
    pub fn poll_next<T>(
        &mut self,
        down: &mut Downstream,
        local: &Local,
        cx: &mut Context<'_>,
        show: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
    ) -> Poll<Result<T, ClientError>> {
        if down.input.is_empty() {
            match ready!(down.poll_more(local, cx)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Err(ClientError::Truncated)),
                Err(_) => return Poll::Ready(Err(ClientError::Gone)),
            }
        }
        let decoded = down.body.decode(&mut down.input).map_err(|error| match error {
            BodyError::Malformed(what) => ClientError::Malformed(what),
            BodyError::Truncated => ClientError::Truncated,
        })?;
        let payload = &down.input[decoded.payload.clone()];
        self.received += payload.len() as u64;
        if let Some(most) = self.most.filter(|most| *most < self.received) {
            return Poll::Ready(Err(ClientError::TooLarge(most)));
        }
        if decoded.is_end {
            self.completed = Some(clock::now());
        }
        let shown = show(cx, payload);
        if self.is_kept {
            self.keep(down, &decoded, local);
        }
        down.consume(local, decoded.consumed);
        Poll::Ready(Ok(shown))
    }

    /// The next bytes went to a backend past this process.
    pub fn went_past(&mut self, down: &mut Downstream, bytes: usize) {
        down.body.skip(bytes as u64);
        down.used += bytes as u64;
        self.received += bytes as u64;
        if down.body.is_end() {
            self.completed = Some(clock::now());
        }
    }

    /// Keeps what was just decoded. If that is all there is, its memory is kept, and nothing copied.
    fn keep(&mut self, down: &mut Downstream, decoded: &Decoded, local: &Local) {
        if self.limit < self.received || local.is_full() {
            self.forget(local);
        } else if self.kept.is_empty() && decoded.consumed == down.input.len() {
            local.recycle_block(std::mem::replace(&mut self.kept, std::mem::take(&mut down.input)));
            self.kept.narrow(decoded.payload.clone());
        } else {
            self.kept.extend(&down.input[decoded.payload.clone()]);
        }
    }
}
