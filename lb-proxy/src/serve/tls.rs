//! A client's TLS handshake, before it may speak.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
};

use lb_common::clock;
use lb_routing::millis;
use lb_tls::{
    certificate::Facts,
    challenge::{Asked, Looked},
    handshake::{Agreed, Handshake, Progress},
    session::SessionError,
};
use rustls::ServerConfig;

use crate::{
    connections::{End, Id, Scope, Waits},
    local::{Held, Local},
    net::{stream::Stream, tls::Tls},
    table::{Challenges, Listener},
};

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
enum ShakeError {
    #[error("the client is gone")]
    Gone,
    #[error("it took too long, or others needed its place")]
    Ended,
    #[error("too much waits in buffers")]
    NoRoom,
    #[error("it sent too much before it was done")]
    TooMuch,
    #[error("the client's certificate has expired since")]
    Expired,
    #[error("it was a CA, which wanted no more than that")]
    Answered,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Of what is read at once.
const AT_ONCE: usize = 16 * 1024;
/// Of what has come and is no whole flight; a hello of 16 KiB in records of one byte each has less.
const MOST: usize = 128 * 1024;
/// The same when buffers are full.
const LITTLE: usize = 4 * 1024;
/// Of what rustls itself holds meanwhile; an estimate.
const STATE: usize = 8 * 1024;

/// What was agreed on, with the connection as it goes on. `None` if it came to nothing; that is counted.
pub async fn shake(
    local: &Rc<Local>,
    listener: &Listener,
    id: Id,
    stream: Stream,
) -> Option<(Stream, Agreed)> {
    let (tls, spec) = (listener.tls.as_ref()?, listener.spec.tls.as_ref()?);
    let metrics = local.metrics();
    let most = (spec.max_handshakes.get() as usize).div_ceil(local.shared.workers);
    let waits = Waits::Handshake { listener: listener.presence.slot };
    if most <= local.connections.count_of(waits) {
        // Who just came may be well behaved. Who has taken longest most likely is not.
        metrics.limits.max_handshakes.increment();
        local.connections.end_oldest(Scope::That(waits));
    }
    let timeout = millis::of(spec.handshake_timeout);
    local.connections.wait(id, waits, local.coarse(), timeout);
    let challenges = local.view().challenges.clone();
    let asked = challenges.map(|challenges| (Asked::default(), challenges));
    let shaken = run(local, &tls.config, asked, id, stream).await;
    local.connections.busy(id);
    match shaken {
        Err(ShakeError::Answered) => {
            metrics.tls_alpn_01.increment();
            None
        }
        Ok((stream, agreed)) => {
            match agreed.is_resumed {
                true => metrics.handshakes_resumed.increment(),
                false => metrics.handshakes_full.increment(),
            }
            Some((stream, agreed))
        }
        Err(error) => {
            metrics.handshakes_failed.increment();
            tracing::debug!(listener = %listener.spec.name, %error, "no TLS handshake");
            None
        }
    }
}

async fn run(
    local: &Rc<Local>,
    config: &Arc<ServerConfig>,
    asked: Option<(Asked, Arc<Challenges>)>,
    id: Id,
    stream: Stream,
) -> Result<(Stream, Agreed), ShakeError> {
    let mut shaking = Shaking {
        stream,
        handshake: Handshake::server(config)?,
        asked: asked.map(Box::new),
        answers: false,
        input: Vec::new(),
        output: Vec::new(),
        sent: 0,
        held: Held::new(local),
        failed: None,
    };
    poll_fn(|cx| shaking.poll(local, id, cx)).await?;
    let Shaking { stream, handshake, input, answers, .. } = shaking;
    if answers {
        return Err(ShakeError::Answered);
    }
    let (agreed, session) = handshake.finish()?;
    // A ticket is no way to go on with a certificate that is not good any more.
    let shown = agreed.certificates.first().map(Facts::of);
    if agreed.is_resumed
        && shown.is_some_and(|facts| facts.is_ok_and(|f| f.not_after < clock::wall()))
    {
        return Err(ShakeError::Expired);
    }
    let Stream::Tcp(socket) = stream else { return Err(ShakeError::Gone) };
    let scratch = Rc::clone(&local.scratch);
    let tls = Tls::new(socket, session, scratch, &input);
    Ok((Stream::Tls(Box::new(tls)), agreed))
}

/// One that is under way.
struct Shaking {
    stream: Stream,
    handshake: Handshake,
    /// While CAs may come, and as long as it is not known whether this client is one.
    asked: Option<Box<(Asked, Arc<Challenges>)>>,
    /// It is one.
    answers: bool,
    /// What came and was not used yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of it is written.
    sent: usize,
    held: Held,
    /// Once the client was told, it is over.
    failed: Option<rustls::Error>,
}

impl Shaking {
    /// Finds out whether the client is a CA. If it is, it is answered, and gets nothing else.
    fn look(&mut self) {
        let Some(asked) = &mut self.asked else { return };
        let (asked, challenges) = &mut **asked;
        let config = match asked.look(&self.input) {
            Looked::More => return,
            Looked::Other => None,
            Looked::Challenge(domain) => challenges.tls_alpn_01(&domain),
        };
        if let Some(config) = config
            && let Ok(handshake) = Handshake::server(config)
        {
            self.handshake = handshake;
            self.answers = true;
        }
        self.asked = None;
    }

    fn poll(
        &mut self,
        local: &Local,
        id: Id,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), ShakeError>> {
        let mut progress = Progress::Waiting;
        loop {
            if local.connections.poll_end(id, cx) != End::NotYet {
                return Poll::Ready(Err(ShakeError::Ended));
            }
            // Each flight goes out as one.
            while self.sent < self.output.len() {
                self.sent += ready!(self.stream.poll_write(cx, &self.output[self.sent..]))?;
            }
            self.output.clear();
            self.sent = 0;
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error.into()));
            }
            if progress == Progress::Done {
                return Poll::Ready(Ok(()));
            }
            let filled = ready!(local.hot.poll_fill(AT_ONCE, &mut self.stream, cx))?;
            if filled.is_empty() {
                return Poll::Ready(Err(ShakeError::Gone));
            }
            local.hot.with(filled, |bytes| self.input.extend_from_slice(bytes));
            self.look();
            if self.asked.is_none() {
                match self.handshake.advance(&mut self.input, &mut self.output) {
                    Ok(now) => progress = now,
                    Err(error) => self.failed = Some(error),
                }
            }
            self.held.set(self.input.capacity() + self.output.capacity() + STATE);
            let waits = if progress == Progress::Done { 0 } else { self.input.len() };
            if MOST < waits {
                return Poll::Ready(Err(ShakeError::TooMuch));
            }
            // What comes in one piece is no burden.
            if LITTLE < waits && local.is_full() {
                return Poll::Ready(Err(ShakeError::NoRoom));
            }
        }
    }
}
