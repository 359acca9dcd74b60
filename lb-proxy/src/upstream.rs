//! Connections to backends: one request and its response through one of them.
//!
//! A connection has no task of its own. While it serves a request it is polled by that request, on
//! the client connection's task, and while it idles nobody polls it but the pool's sweep; so passing
//! a request on wakes no second task. The exception is a backend that responds before it has the
//! whole request: then the connection gets a task, lest a client that only writes and a backend
//! that only reads wait for each other.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    backend::InFlight,
    backend_set::Pick,
    body::{RequestBody, Source},
    error::AttemptError,
    io_meter::{Meter, Metered},
    outlier::Failure,
    timer::LazyTimer,
    worker::Worker,
};

mod pool;

pub use pool::Pool;

/// More header fields than this in a response, and it is refused.
const MAX_RESPONSE_HEADERS: usize = 100;
const MAX_BUFFER: usize = 64 * 1024;

/// A connection to a backend, and the half of hyper that moves its bytes.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<RequestBody>,
    driver: Driver,
    meter: Rc<Meter>,
    /// It has served a request before this one.
    reused: bool,
}

#[derive(Debug)]
enum Driver {
    Inline(Box<http1::Connection<TokioIo<Metered>, RequestBody>>),
    /// A task does it, or it has ended.
    Gone,
}

/// Why no response's head came.
#[derive(Debug)]
pub enum ExchangeError {
    /// The connection was closed before the request was begun; here it is again.
    Unsent(Box<Request<RequestBody>>),
    Failed(AttemptError),
}

/// What one attempt holds until its response has ended.
#[derive(Debug)]
pub struct Exchange {
    pub connection: Connection,
    pub worker: Rc<Worker>,
    pub pick: Pick,
    pub in_flight: InFlight,
    /// The request's body, if it has one.
    pub source: Option<Rc<Source>>,
}

// === impl Connection ===

impl Connection {
    /// Connects within `timeout`, and before `deadline`.
    pub async fn open(
        address: SocketAddr,
        timeout: Duration,
        now: Instant,
        deadline: Instant,
        timer: &LazyTimer,
    ) -> Result<Self, AttemptError> {
        let until = deadline.min(now + timeout);
        let mut connecting = pin!(TcpStream::connect(address));
        let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(connect_error)),
            Poll::Pending => timer
                .poll_expired(until, cx)
                .map(|()| Err(AttemptError::ConnectTimeout(until - now))),
        });
        let stream = connected.await?;
        // Small requests and responses must not wait for each other's acknowledgements.
        stream.set_nodelay(true).map_err(AttemptError::Connect)?;
        let meter = Rc::new(Meter::default());
        let io = TokioIo::new(Metered::new(stream, Rc::clone(&meter)));
        let (sender, driver) = http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(MAX_BUFFER)
            .handshake(io)
            .await
            .map_err(AttemptError::Malformed)?;
        Ok(Self { sender, driver: Driver::Inline(Box::new(driver)), meter, reused: false })
    }

    /// Moves bytes. Without a task of its own, a connection does nothing in between.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::Inline(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            // What it died of reaches the request through its response.
            self.driver = Driver::Gone;
        }
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether it can take a request.
    pub fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        matches!(self.driver, Driver::Inline(_)) && self.sender.is_ready()
    }

    /// Sends a request and waits for the response's head.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        started: Instant,
        deadline: Instant,
        timer: &LazyTimer,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let (read, written) = (self.meter.read.get(), self.meter.written.get());
        let mut response = pin!(self.sender.try_send_request(request));
        let result = poll_fn(|cx| {
            // The connection first: it reads what the response is made of.
            if let Driver::Inline(driver) = &mut self.driver
                && Pin::new(driver).poll(cx).is_ready()
            {
                self.driver = Driver::Gone;
            }
            match response.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => timer.poll_expired(deadline, cx).map(|()| None),
            }
        });
        let mut error = match result.await {
            Some(Ok(response)) => return Ok(response),
            Some(Err(error)) => error,
            None => {
                let waited = deadline.saturating_duration_since(started);
                return Err(ExchangeError::Failed(AttemptError::Timeout(waited)));
            }
        };
        let untouched = self.meter.written.get() == written;
        if let Some(request) = error.take_message()
            && untouched
        {
            return Err(ExchangeError::Unsent(Box::new(request)));
        }
        let error = error.into_error();
        let silent = self.meter.read.get() == read;
        Err(ExchangeError::Failed(if error.is_parse() && !silent {
            AttemptError::Malformed(error)
        } else {
            AttemptError::Closed { reused: self.reused && silent }
        }))
    }

    /// Gives it a task, because its request is still under way while its response is read.
    fn detach(&mut self) {
        if let Driver::Inline(driver) = std::mem::replace(&mut self.driver, Driver::Gone) {
            tokio::task::spawn_local(async move {
                // What it died of reaches the request through its response.
                let _ = driver.await;
            });
        }
    }
}

fn connect_error(error: io::Error) -> AttemptError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => AttemptError::Refused,
        _ => AttemptError::Connect(error),
    }
}

// === impl Exchange ===

impl Exchange {
    /// To be called when the response's head is there and its body is not.
    pub fn head_received(&mut self) {
        if self.source.as_ref().is_some_and(|source| !source.is_complete()) {
            self.connection.detach();
        }
    }

    /// The response has ended: the connection may serve another request.
    pub fn finish(mut self, cx: &mut Context<'_>) {
        if self.connection.is_idle(cx) {
            self.connection.reused = true;
            let (limits, now) = (&self.pick.set.spec.pool, self.worker.now());
            self.worker.pool.put(&self.pick.backend().live, self.connection, limits, now);
        }
    }

    /// The backend broke off in the middle of its response.
    pub fn broke_off(self) {
        self.worker.record_failure(&self.pick, Failure::Reset);
    }
}
