//! A request's body on its way in: read once, and kept as long as it may have to be sent again.
//! Where in it the connection is, the connection knows.

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use lb_common::clock;
use lb_http::{
    h1::{BodyDecoder, BodyError},
    message::{Request, RequestBody},
};

use super::error::ClientError;
use crate::{downstream::Downstream, local::Local};

#[derive(Debug)]
pub struct Upload {
    /// All of it so far, as long as `is_kept`.
    kept: Vec<u8>,
    is_kept: bool,
    /// Bytes that may be kept.
    limit: u64,
    /// Bytes that it may have.
    most: Option<u64>,
    /// Bytes of it that have come.
    pub received: u64,
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
            kept: Vec::new(),
            // What is known to be too long is not kept in the first place.
            is_kept: length.is_none_or(|length| length <= limit),
            limit,
            most,
            received: 0,
        })
    }

    /// Whether the body can be sent from its beginning again.
    pub fn is_replayable(&self) -> bool {
        self.is_kept
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
    pub fn forget(&mut self) {
        self.kept = Vec::new();
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
        if !down.input.is_empty() {
            let mut input = std::mem::take(&mut down.input);
            let (shown, consumed) =
                self.take(&mut down.body, local, &mut input, |payload| show(cx, payload))?;
            down.input = input;
            down.consume(local, consumed);
            return Poll::Ready(Ok(shown));
        }
        if down.ended.is_some() {
            return Poll::Ready(Err(ClientError::Truncated));
        }
        let filled = ready!(local.hot.poll_fill(&mut down.stream, cx));
        let filled = filled.map_err(|_| ClientError::Gone)?;
        if filled.is_empty() {
            down.ended = Some(clock::now());
            return Poll::Ready(Err(ClientError::Truncated));
        }
        Poll::Ready(local.hot.with(filled, |bytes| {
            let (shown, consumed) =
                self.take(&mut down.body, local, bytes, |payload| show(cx, payload))?;
            down.used += consumed as u64;
            if consumed < bytes.len() {
                down.input = local.buffer();
                down.input.extend_from_slice(&bytes[consumed..]);
            }
            Ok(shown)
        }))
    }

    /// Returns how many of the bytes were its own.
    fn take<T>(
        &mut self,
        body: &mut BodyDecoder,
        local: &Local,
        bytes: &mut [u8],
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<(T, usize), ClientError> {
        let decoded = body.decode(bytes).map_err(|error| match error {
            BodyError::Malformed(what) => ClientError::Malformed(what),
            BodyError::Truncated => ClientError::Truncated,
        })?;
        let payload = &bytes[decoded.payload];
        self.received += payload.len() as u64;
        if let Some(most) = self.most.filter(|most| *most < self.received) {
            return Err(ClientError::TooLarge(most));
        }
        if decoded.is_end {
            self.completed = Some(clock::now());
        }
        if self.is_kept {
            self.keep(payload, local);
        }
        Ok((show(payload), decoded.consumed))
    }

    fn keep(&mut self, payload: &[u8], local: &Local) {
        if self.limit < self.received || local.is_full() {
            self.forget();
        } else {
            self.kept.extend_from_slice(payload);
        }
    }
}
