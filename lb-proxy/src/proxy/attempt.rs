//! One attempt: a request to one backend, up to the head of its response.

use std::{
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use lb_common::{
    clock,
    spec::{ForwardedHeader, Forwarding},
};
use lb_http::{
    h1::encode::{self, Forwarded, ToBackend},
    message::Request,
};
use lb_routing::{backend::InFlight, outlier::Failure};

use super::{
    error::{AttemptError, ClientError},
    exchange::{Exchange, HeadError},
    sides::Sides,
};
use crate::{
    downstream,
    observe::record::Record,
    table::Pick,
    upstream::{connect::connect, lease::Lease},
};

pub struct Attempt<'a> {
    pub pick: &'a Pick,
    /// What the backend gets as the target, if that is not what the client sent.
    pub target: Option<&'a [u8]>,
    pub forwarding: (Forwarding, ForwardedHeader),
    pub via: bool,
    pub asks_for_upgrade: bool,
    /// When it starts.
    pub now: Instant,
}

/// Clients that give up sooner say nothing about a backend.
const PATIENCE: Duration = Duration::from_secs(1);

impl Attempt<'_> {
    /// Tries the backend. Tells outlier ejection of a failure; a success is one only when the
    /// response's end has come.
    pub async fn run(
        &self,
        sides: &mut Sides<'_>,
        record: &mut Record<'_>,
    ) -> Result<Box<Exchange>, AttemptError> {
        let pick = self.pick;
        pick.metrics(sides.local.index).attempts.increment();
        let result = self.send(sides, record).await;
        let took = clock::now() - self.now;
        if matches!(result, Ok(_) | Err(AttemptError::Timeout(_))) {
            pick.record_attempt(sides.local.index, took);
        }
        let failure = match &result {
            Ok(exchange) => (exchange.response.status >= 500).then_some(Failure::Status),
            // One alone is nobody's fault. One after another, they may say that it hangs.
            Err(AttemptError::Client(ClientError::Gone)) => {
                let waited = sides.down.ends_at().map_or(took, |ended| ended - self.now);
                (PATIENCE <= waited).then_some(Failure::GivenUp)
            }
            Err(error) => error.failure(),
        };
        if let Some(failure) = failure {
            sides.local.record_failure(pick, failure);
        }
        result
    }

    /// A connection that idled may have been closed by its backend meanwhile. That is nobody's
    /// failure: the request goes out again on another one, if it has not been sent or may be sent
    /// twice, and on a new one at the latest, so that one attempt never sends a third time.
    async fn send(
        &self,
        sides: &mut Sides<'_>,
        record: &mut Record<'_>,
    ) -> Result<Box<Exchange>, AttemptError> {
        let mut was_stale = false;
        loop {
            let lease = self.lease(sides, record, was_stale).await?;
            let is_reused = lease.is_reused;
            let request = record.request;
            let head = self.head(sides, record);
            let mut exchange =
                Exchange::new(sides.local, lease, request, head, self.asks_for_upgrade);
            match poll_fn(|cx| exchange.poll_head(sides, self.now, cx)).await {
                Ok(()) if exchange.response.status == 101 && !is_asked(&exchange, request) => {
                    return Err(AttemptError::Malformed("101 to another protocol"));
                }
                Ok(()) => return Ok(exchange),
                Err(HeadError::Failed(error)) => return Err(error),
                Err(HeadError::Unsent) if is_reused && sides.upload.is_replayable() => {}
                Err(HeadError::Stale)
                    if request.method.is_idempotent() && sides.upload.is_replayable() =>
                {
                    was_stale = true;
                }
                Err(HeadError::Unsent | HeadError::Stale) => return Err(AttemptError::Closed),
            }
        }
    }

    /// A connection that idled, or a new one.
    async fn lease(
        &self,
        sides: &mut Sides<'_>,
        record: &mut Record<'_>,
        was_stale: bool,
    ) -> Result<Lease, AttemptError> {
        let (local, pick) = (sides.local, self.pick);
        let (metrics, backend) = (pick.metrics(local.index), pick.backend());
        let in_flight = InFlight::start(&backend.live);
        let header = sides.down.proxy_header(&pick.set().spec);
        if !was_stale && let Some(stream) = local.pool.take(pick, &header, local.millis(self.now)) {
            metrics.reuses.increment();
            return Ok(Lease::new(stream, pick.clone(), true, header, in_flight));
        }
        metrics.connects.increment();
        // Time has passed if another connection was tried before.
        let now = if was_stale { clock::now() } else { self.now };
        let deadline =
            sides.upload.completed().unwrap_or(now).max(self.now) + sides.deadlines.response;
        let client = Rc::clone(&sides.down.client);
        // In a box of its own, as are other steps that few requests take: what all take is small then.
        let mut connecting = Box::pin(connect(local, pick, &header, now, deadline, &client.timer));
        let connected = poll_fn(|cx| match sides.watch(cx) {
            Ok(()) => connecting.as_mut().poll(cx).map_err(|error| match was_stale {
                true => AttemptError::Reconnect(error),
                false => AttemptError::Connect(error),
            }),
            Err(gone) => Poll::Ready(Err(gone.into())),
        });
        let stream = connected.await?;
        drop(connecting);
        if sides.gone_at().is_some_and(|gone| gone < clock::now()) {
            return Err(ClientError::Gone.into());
        }
        record.connected();
        Ok(Lease::new(stream, pick.clone(), false, header, in_flight))
    }

    fn head(&self, sides: &Sides<'_>, record: &Record<'_>) -> Vec<u8> {
        let request = record.request;
        // HTTP/1.0 needs no host, HTTP/1.1 does.
        let address;
        let host = match request.authority() {
            [] => {
                address = self.pick.backend().address.to_string();
                address.as_bytes()
            }
            host => host,
        };
        let client = &sides.down.client;
        let origin = &record.origin;
        let (what, by) = self.forwarding;
        let appends = origin.is_passed_on && what == Forwarding::Append;
        let said;
        let of_client = match origin.is_passed_on {
            false => &client.forwarded_for,
            true => {
                said = downstream::text(origin.address);
                &said
            }
        };
        let forwarded = Forwarded {
            address: of_client.as_bytes(),
            passed_on_by: appends.then_some(client.forwarded_for.as_bytes()),
            host: origin.host,
            proto: origin.scheme.as_str().as_bytes(),
            port: origin.port(),
            by_forwarded: by == ForwardedHeader::Forwarded,
        };
        let to = ToBackend {
            target: self.target.unwrap_or(request.target()),
            host,
            forwarded,
            client_cert: client.cert_lines(),
            via: self.via,
            body: request.body,
            upgrades: self.asks_for_upgrade,
            trace: record.trace_context(),
        };
        let mut head = sides.local.buffer();
        encode::request(&mut head, request, &to);
        head
    }
}

/// Whether the backend switches to what it was asked for.
fn is_asked(exchange: &Exchange, request: &Request) -> bool {
    let (Some(wanted), Some(given)) = (request.upgrade(), exchange.response.upgrade()) else {
        return false;
    };
    wanted.eq_ignore_ascii_case(given)
}
