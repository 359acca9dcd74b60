//! A client's TLS handshake, before it may speak.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
};

use lb_common::clock;
use lb_tls::{
    certificate::Facts,
    handshake::{Agreed, Handshake, Progress},
    session::SessionError,
};
use rustls::ServerConfig;

use super::input::{self, ReadError};
use crate::{
    connections::{End, Id},
    local::{Held, Local},
    net::{stream::Stream, tls::Tls},
    table::ListenerTls,
};

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum ShakeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it sent too much before it was done")]
    TooMuch,
    #[error("the client's certificate has expired since")]
    Expired,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Of what has come and is no whole flight; a hello of 16 KiB in records of one byte each has less.
const MOST: usize = 128 * 1024;
/// Of what rustls itself holds meanwhile; an estimate.
const STATE: usize = 8 * 1024;

/// What was agreed on, with the connection as it goes on. `input` has come already.
///
/// # Errors
/// If it came to nothing; that is counted.
pub async fn shake(
    local: &Rc<Local>,
    tls: &ListenerTls,
    id: Id,
    stream: Stream,
    input: Vec<u8>,
) -> Result<(Stream, Agreed), ShakeError> {
    let metrics = local.metrics();
    let shaken = run(local, &tls.config, id, stream, input).await;
    match &shaken {
        Ok((_, agreed)) if agreed.is_resumed => metrics.handshakes_resumed.increment(),
        Ok(_) => metrics.handshakes_full.increment(),
        Err(_) => metrics.handshakes_failed.increment(),
    }
    shaken
}

async fn run(
    local: &Rc<Local>,
    config: &Arc<ServerConfig>,
    id: Id,
    stream: Stream,
    input: Vec<u8>,
) -> Result<(Stream, Agreed), ShakeError> {
    let mut shaking = Shaking {
        stream,
        handshake: Handshake::server(config)?,
        input,
        output: Vec::new(),
        sent: 0,
        held: Held::new(local),
        progress: Progress::Waiting,
        failed: None,
    };
    if !shaking.input.is_empty() {
        shaking.advance(local)?;
    }
    poll_fn(|cx| shaking.poll(local, id, cx)).await?;
    let Shaking { stream, handshake, input, .. } = shaking;
    let (agreed, session) = handshake.finish()?;
    // A ticket is no way to go on with a certificate that is not good any more.
    let shown = agreed.certificates.first().map(Facts::of);
    if agreed.is_resumed
        && shown.is_some_and(|facts| facts.is_ok_and(|f| f.not_after < clock::wall()))
    {
        return Err(ShakeError::Expired);
    }
    let Stream::Tcp(socket) = stream else { return Err(ReadError::Gone.into()) };
    let scratch = Rc::clone(&local.scratch);
    let tls = Tls::new(socket, session, scratch, &input);
    Ok((Stream::Tls(Box::new(tls)), agreed))
}

/// One that is under way.
struct Shaking {
    stream: Stream,
    handshake: Handshake,
    /// What came and was not used yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of it is written.
    sent: usize,
    held: Held,
    progress: Progress,
    /// Once the client was told, it is over.
    failed: Option<rustls::Error>,
}

impl Shaking {
    fn poll(
        &mut self,
        local: &Local,
        id: Id,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), ShakeError>> {
        loop {
            if local.connections.poll_end(id, cx) != End::NotYet {
                return Poll::Ready(Err(ReadError::Ended.into()));
            }
            // Each flight goes out as one.
            while self.sent < self.output.len() {
                let written = self.stream.poll_write(cx, &self.output[self.sent..]);
                self.sent += ready!(written).map_err(ReadError::Io)?;
            }
            self.output.clear();
            self.sent = 0;
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error.into()));
            }
            if self.progress == Progress::Done {
                return Poll::Ready(Ok(()));
            }
            let filled = ready!(input::poll_fill(local, id, &mut self.stream, cx))?;
            local.hot.with(filled, |bytes| self.input.extend_from_slice(bytes));
            self.advance(local)?;
        }
    }

    /// Goes on with what has come.
    fn advance(&mut self, local: &Local) -> Result<(), ShakeError> {
        match self.handshake.advance(&mut self.input, &mut self.output) {
            Ok(progress) => self.progress = progress,
            Err(error) => self.failed = Some(error),
        }
        self.held.set(self.input.capacity() + self.output.capacity() + STATE);
        let waits = if self.progress == Progress::Done { 0 } else { self.input.len() };
        if MOST < waits {
            return Err(ShakeError::TooMuch);
        }
        // What comes in one piece is no burden.
        Ok(input::may_wait(local, waits)?)
    }
}
