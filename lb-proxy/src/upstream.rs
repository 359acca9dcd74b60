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
use lb_routing::{backend::InFlight, outlier::Failure};
use tokio::net::TcpStream;

use crate::{
    backend_set::Pick,
    body::{RequestBody, Source},
    error::AttemptError,
    io_meter::{Meter, Metered},
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
    /// The connection was closed before the request was begun.
    Unsent,
    /// A connection that had idled was closed before a byte of the response: most likely the
    /// backend had closed it before it got the request.
    Stale,
    Failed(AttemptError),
}

/// What one attempt holds until its response has ended.
#[derive(Debug)]
pub struct Exchange {
    pub connection: Connection,
    pub worker: Rc<Worker>,
    pub pick: Pick,
    /// `None` once the connection has a task, which holds it then.
    pub in_flight: Option<InFlight>,
    /// Its status was recorded as a failure already. A success is one only when all of it came.
    pub is_failure: bool,
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
            .map_err(|error| AttemptError::Malformed(error.to_string()))?;
        Ok(Self { sender, driver: Driver::Inline(Box::new(driver)), meter, reused: false })
    }

    /// Moves bytes. Without a task of its own, a connection does nothing in between.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Whether it came out of the pool.
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
            drive(&mut self.driver, cx);
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
        if error.take_message().is_some() && self.meter.written.get() == written {
            return Err(ExchangeError::Unsent);
        }
        let error = error.into_error();
        let silent = self.meter.read.get() == read;
        Err(if error.is_parse() && !silent {
            ExchangeError::Failed(AttemptError::Malformed(error.to_string()))
        } else if self.reused && silent {
            ExchangeError::Stale
        } else {
            ExchangeError::Failed(AttemptError::Closed)
        })
    }

    /// Gives it a task, because its request is still under way while its response is read. The
    /// attempt is in flight for as long as that is so.
    fn detach(&mut self, in_flight: Option<InFlight>) {
        if let Driver::Inline(driver) = std::mem::replace(&mut self.driver, Driver::Gone) {
            tokio::task::spawn_local(async move {
                let _in_flight = in_flight;
                // What it died of reaches the request through its response.
                let _ = driver.await;
            });
        }
    }
}

fn drive(driver: &mut Driver, cx: &mut Context<'_>) {
    if let Driver::Inline(connection) = driver
        && Pin::new(connection).poll(cx).is_ready()
    {
        // What it died of reaches the request through its response.
        *driver = Driver::Gone;
    }
}

/// How an attempt failed that could not connect.
pub fn connect_error(error: io::Error) -> AttemptError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => AttemptError::Refused,
        _ => AttemptError::Connect(error),
    }
}

// === impl Exchange ===

impl Exchange {
    /// Whether the backend had the whole request before it responded.
    pub fn is_request_complete(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_complete())
    }

    /// To be called when this response, whose head is there, is to be the answer.
    pub fn deliver(&mut self) {
        if !self.is_request_complete() {
            self.connection.detach(self.in_flight.take());
        }
    }

    /// The response has ended: the connection may serve another request.
    pub fn finish(mut self, cx: &mut Context<'_>) {
        if !self.is_failure {
            self.worker.record_success(&self.pick);
        }
        if self.connection.is_idle(cx) {
            self.connection.reused = true;
            let (limits, now) = (&self.pick.set.spec.pool, self.worker.now());
            let pool = &self.worker.pool;
            if !pool.put(&self.pick.backend().live, self.connection, limits, now) {
                self.worker.metrics().limits.pool_idle.increment();
            }
        }
    }

    /// The backend broke off in the middle of its response.
    pub fn broke_off(self) {
        self.worker.record_failure(&self.pick, Failure::Reset);
    }
}
