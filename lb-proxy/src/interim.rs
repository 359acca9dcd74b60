//! Interim responses (103 Early Hints and its like) on their way to the client.
//!
//! hyper's server cannot send them, and a proxy must pass them on (RFC 9110, section 15.2). So they
//! go around it: the backend's connection puts them into [`Interim`], and the client's [`Stream`]
//! writes them before hyper's next bytes. That is in order as long as hyper has no bytes of an
//! earlier response left, which the stream sees by hyper's last write; if there are some, because
//! the client does not read, an interim response is left out, as it may be.

use std::{
    io,
    mem::take,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io_meter::Metered;

/// What of one client connection's interim responses is to be written.
///
/// A mutex, because hyper wants what it calls back to be `Send`; both sides are on one thread.
#[derive(Debug, Default)]
pub struct Interim {
    waiting: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

/// A client's stream.
#[derive(Debug)]
pub struct Stream {
    inner: Metered,
    interim: Arc<Interim>,
    /// Being written, and how far.
    writing: (Vec<u8>, usize),
    /// hyper's last write was taken whole.
    whole: bool,
}

/// A backend that sends more than this for one client at a time is not listened to.
const MAX_BYTES: usize = 64 * 1024;

/// Has the interim responses to this request passed on, if its client knows them.
pub fn pass_on<B>(request: &mut Request<B>, client: Version, interim: &Arc<Interim>) {
    if client < Version::HTTP_11 {
        return;
    }
    let interim = Arc::clone(interim);
    hyper::ext::on_informational(request, move |response| {
        // 100 is between us and the backend, and 101 is not for a proxy that asked for no upgrade.
        if response.status() != StatusCode::CONTINUE
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            interim.put(response.status(), response.headers());
        }
    });
}

// === impl Interim ===

impl Interim {
    fn put(&self, status: StatusCode, headers: &HeaderMap) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if MAX_BYTES <= bytes.len() {
            return;
        }
        let reason = status.canonical_reason().unwrap_or_default();
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        let mut headers = headers.clone();
        crate::headers::to_client(&mut headers);
        for (name, value) in &headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        self.waiting.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> Vec<u8> {
        self.waiting.store(false, Ordering::Relaxed);
        take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Stream ===

impl Stream {
    pub fn new(inner: Metered, interim: Arc<Interim>) -> Self {
        Self { inner, interim, writing: (Vec::new(), 0), whole: true }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.waiting.load(Ordering::Relaxed) {
            let bytes = self.interim.take();
            if self.whole {
                self.writing.0.extend(bytes);
            }
        }
        while self.writing.1 < self.writing.0.len() {
            let rest = &self.writing.0[self.writing.1..];
            self.writing.1 += ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
        }
        self.writing = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>, wanted: usize) {
        self.whole = matches!(result, Poll::Ready(Ok(n)) if *n == wanted);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(&result, buf.len());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(&result, bufs.iter().map(|buf| buf.len()).sum());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
