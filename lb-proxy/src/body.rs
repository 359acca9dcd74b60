//! Bodies on their way through: a request's, which may have to be sent again, and a response's,
//! which holds what must live as long as it flows.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{client::Busy, record::Record, upstream::Exchange};

/// A request's body as one attempt sends it.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// From the source, beginning with what earlier attempts have read already.
    Replay {
        source: Rc<Source>,
        next: usize,
    },
}

/// A client's body, and what was read of it while an attempt may still be repeated.
#[derive(Debug)]
pub struct Source(RefCell<Reading>);

#[derive(Debug)]
struct Reading {
    incoming: Incoming,
    size: SizeHint,
    /// Bytes that its client has sent of bodies.
    read: Rc<Cell<u64>>,
    /// All frames read so far, as long as `kept <= limit`.
    frames: Vec<Bytes>,
    kept: u64,
    limit: u64,
    trailers: Option<HeaderMap>,
    /// The client has sent nothing that was not read yet.
    waiting: bool,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    Complete,
    Failed,
}

/// A response's body.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    /// Ends with it.
    record: Record,
    /// The client is busy for as long as its response is.
    _busy: Busy,
}

/// What a response's body is made of.
#[derive(Debug)]
pub enum Content {
    /// Bytes of the proxy's own, unless they are sent or there are none.
    Own(Option<Bytes>),
    Backend(BackendBody),
}

/// A body that comes from a backend, with the connection that it comes through.
#[derive(Debug)]
pub struct BackendBody {
    incoming: Incoming,
    exchange: Option<Exchange>,
    /// Where it broke off; to be told when what came before is on its way.
    broke_off: Option<hyper::Error>,
}

// === impl Source ===

impl Source {
    /// Keeps up to `limit` bytes for another attempt. All that is read is added to `read`.
    pub fn new(incoming: Incoming, limit: u64, read: Rc<Cell<u64>>) -> Rc<Self> {
        let size = incoming.size_hint();
        // What is known to be too long is not kept in the first place.
        let limit = if size.lower() > limit { 0 } else { limit };
        Rc::new(Self(RefCell::new(Reading {
            incoming,
            size,
            read,
            frames: Vec::new(),
            kept: 0,
            limit,
            trailers: None,
            waiting: false,
            end: End::NotYet,
        })))
    }

    /// Whether the body can be sent from its beginning again.
    pub fn is_replayable(&self) -> bool {
        let reading = self.0.borrow();
        reading.kept <= reading.limit && reading.end != End::Failed
    }

    /// Whether all of it was read.
    pub fn is_complete(&self) -> bool {
        self.0.borrow().end == End::Complete
    }

    /// Whether all that the client has sent so far was read, and more is to come.
    pub fn is_waiting(&self) -> bool {
        self.0.borrow().waiting
    }

    /// Whether the client broke off.
    pub fn is_failed(&self) -> bool {
        self.0.borrow().end == End::Failed
    }
}

impl Reading {
    fn poll_frame(
        &mut self,
        next: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(bytes) = self.frames.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        if self.end == End::Complete {
            return Poll::Ready(
                self.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))),
            );
        }
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        self.waiting = frame.is_pending();
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.keep(bytes);
                    *next = self.frames.len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.end = End::Complete;
                }
                if self.incoming.is_end_stream() {
                    self.end = End::Complete;
                }
            }
            Some(Err(_)) => self.end = End::Failed,
            None => self.end = End::Complete,
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, bytes: &Bytes) {
        self.read.set(self.read.get() + bytes.len() as u64);
        self.kept = self.kept.saturating_add(bytes.len() as u64);
        if self.kept <= self.limit {
            self.frames.push(bytes.clone());
        } else {
            self.frames = Vec::new();
        }
    }
}

// === impl RequestBody ===

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Replay { source, next } => source.0.borrow_mut().poll_frame(next, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replay { source, .. } => source.0.borrow().size,
        }
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    pub fn new(content: Content, record: Record, busy: Busy) -> Self {
        Self { content, record, _busy: busy }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.content.is_end_stream() {
            self.record.ended();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(match &mut this.content {
            Content::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Backend(body) => Pin::new(body).poll_frame(cx),
        });
        this.record.frame(&frame);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Backend(body) => body.size_hint(),
        }
    }
}

// === impl Content ===

impl Content {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Backend(body) => body.is_end_stream(),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Own((!bytes.is_empty()).then_some(bytes))
    }
}

impl From<BackendBody> for Content {
    fn from(body: BackendBody) -> Self {
        Self::Backend(body)
    }
}

// === impl BackendBody ===

impl BackendBody {
    pub fn new(incoming: Incoming, exchange: Exchange) -> Self {
        let mut body = Self { incoming, exchange: Some(exchange), broke_off: None };
        if body.incoming.is_end_stream() {
            body.end(&mut Context::from_waker(std::task::Waker::noop()));
        }
        body
    }

    fn end(&mut self, cx: &mut Context<'_>) {
        if let Some(exchange) = self.exchange.take() {
            exchange.finish(cx);
        }
    }
}

impl Body for BackendBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(error) = this.broke_off.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Some(exchange) = &mut this.exchange
        {
            // Nobody else polls the connection that the body comes through.
            exchange.connection.drive(cx);
            frame = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match frame {
            // Nobody asks for more after the trailers.
            Poll::Ready(Some(Ok(ref frame))) if frame.is_trailers() => this.end(cx),
            Poll::Ready(Some(Ok(_))) if this.incoming.is_end_stream() => this.end(cx),
            Poll::Ready(None) => this.end(cx),
            Poll::Ready(Some(Err(error))) => {
                if let Some(exchange) = this.exchange.take() {
                    exchange.broke_off();
                }
                // hyper drops what it has not written when it sees an error, and writes it when it
                // has to wait.
                this.broke_off = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
