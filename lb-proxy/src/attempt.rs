//! One attempt: a request to one backend, up to the head of its response.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header::HOST, request::Parts};
use hyper::body::Incoming;
use lb_common::clock;
use lb_routing::{backend::InFlight, outlier::Failure};

use crate::{
    backend_set::Pick,
    body::{RequestBody, Source},
    client::Client,
    error::AttemptError,
    headers, interim,
    record::Record,
    upstream::{Connection, Exchange, ExchangeError},
    worker::Worker,
};

/// A response's head, and what its body comes through.
pub type Received = (Response<Incoming>, Exchange);

pub struct Attempt<'a> {
    pub worker: &'a Rc<Worker>,
    pub client: &'a Client,
    pub pick: &'a Pick,
    /// As backends get it.
    pub head: &'a Parts,
    /// The request's body, if it has one.
    pub source: Option<&'a Rc<Source>>,
    /// What the client speaks.
    pub client_version: Version,
    /// When it starts.
    pub now: Instant,
    pub deadlines: Deadlines,
}

#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    pub request: Instant,
    pub per_try: Option<Duration>,
}

impl Attempt<'_> {
    /// Tries the backend. Tells outlier ejection of a failure; a success is one only when the
    /// response's end has come.
    pub async fn run(&self, record: &mut Record) -> Result<Received, AttemptError> {
        self.pick.metrics(self.worker.index).attempts.increment();
        let result = self.send(record).await;
        if matches!(result, Ok(_) | Err(AttemptError::Timeout(_))) {
            self.pick.record_attempt(self.worker.index, clock::now() - self.now);
        }
        let failure = match &result {
            Ok((_, exchange)) => exchange.is_failure.then_some(Failure::Status),
            Err(error) => error.failure(),
        };
        if let Some(failure) = failure {
            self.worker.record_failure(self.pick, failure);
        }
        result
    }

    /// A connection that idled may have been closed by its backend meanwhile. That is nobody's
    /// failure: the request goes out again on another one, if it has not been sent or may be sent
    /// twice, and on a new one at the latest, so that one attempt never sends a third time.
    async fn send(&self, record: &mut Record) -> Result<Received, AttemptError> {
        let (worker, pick) = (self.worker, self.pick);
        let in_flight = InFlight::start(&pick.backend().live);
        let Deadlines { request: deadline, per_try } = self.deadlines;
        let deadline = per_try.map_or(deadline, |limit| deadline.min(self.now + limit));
        let timer = &self.client.timer;
        let mut was_stale = false;
        loop {
            let pooled = match was_stale {
                false => worker.pooled(pick.backend(), self.now).await,
                true => None,
            };
            let mut connection = match pooled {
                Some(connection) => {
                    pick.metrics(worker.index).reuses.increment();
                    connection
                }
                None => {
                    pick.metrics(worker.index).connects.increment();
                    let (address, limit) = (pick.backend().address, pick.set.spec.connect_timeout);
                    let opened =
                        Connection::open(address, limit, self.now, deadline, timer).await?;
                    record.connected();
                    opened
                }
            };
            match connection.exchange(self.request(record), self.now, deadline, timer).await {
                Ok(response) => return self.received(response, connection, in_flight),
                Err(ExchangeError::Unsent) if connection.is_reused() => {}
                Err(ExchangeError::Stale) if self.may_send_twice() => was_stale = true,
                Err(ExchangeError::Unsent | ExchangeError::Stale) => {
                    return Err(self.blame(AttemptError::Closed));
                }
                Err(ExchangeError::Failed(error)) => return Err(self.blame(error)),
            }
        }
    }

    fn request(&self, record: &Record) -> Request<RequestBody> {
        let body = match self.source {
            Some(source) => RequestBody::Replay { source: Rc::clone(source), next: 0 },
            None => RequestBody::Empty,
        };
        let mut request = Request::from_parts(self.head.clone(), body);
        if !request.headers().contains_key(HOST) {
            // HTTP/1.0 needs none, HTTP/1.1 does.
            let host = HeaderValue::from_str(&self.pick.backend().address.to_string());
            request.headers_mut().insert(HOST, host.expect("an address is a header value"));
        }
        record.hand_on(request.headers_mut());
        interim::pass_on(&mut request, self.client_version, &self.client.interim);
        request
    }

    fn received(
        &self,
        response: Response<Incoming>,
        connection: Connection,
        in_flight: InFlight,
    ) -> Result<Received, AttemptError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(AttemptError::Malformed("101 to a request for no upgrade".into()));
        }
        headers::admit_response(response.headers()).map_err(AttemptError::Malformed)?;
        let exchange = Exchange {
            connection,
            worker: Rc::clone(self.worker),
            pick: self.pick.clone(),
            in_flight: Some(in_flight),
            is_failure: response.status().is_server_error(),
            source: self.source.cloned(),
        };
        Ok((response, exchange))
    }

    fn may_send_twice(&self) -> bool {
        self.head.method.is_idempotent() && self.source.is_none_or(|source| source.is_replayable())
    }

    /// What looks like a backend's failure may be a client's.
    fn blame(&self, error: AttemptError) -> AttemptError {
        match (self.source, &error) {
            (Some(source), _) if source.is_failed() => AttemptError::ClientGone,
            (Some(source), AttemptError::Timeout(_)) if source.is_waiting() => {
                AttemptError::ClientSlow
            }
            _ => error,
        }
    }
}
