//! Passing on what an attempt has brought: a response to its end, or the tunnel that comes of it.

use std::{future::poll_fn, sync::Arc};

use lb_common::clock;
use lb_http::{
    h1::encode,
    message::{ResponseBody, Version},
};
use lb_routing::outlier::Failure;

use super::{
    Next,
    download::Broken,
    error::{AttemptError, ProxyError},
    exchange::Exchange,
    sides::Sides,
    tunnel::{Side, Tunnel, TunnelEnd},
};
use crate::{
    local::Local,
    metrics::WorkerMetrics,
    net::outbox::Outbox,
    observe::record::Record,
    table::{Listener, Pick, Route},
};

#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    pub route: &'a Arc<Route>,
    pub listener: &'a Listener,
    /// Whether the client's connection may serve another request.
    pub keeps_alive: bool,
}

impl Delivery<'_> {
    /// # Errors
    /// Why there is nothing to pass on.
    pub async fn run(
        &self,
        pick: &Pick,
        result: Result<Box<Exchange>, AttemptError>,
        mut sides: Sides<'_>,
        record: &mut Record<'_>,
    ) -> Result<Next, ProxyError> {
        let local = sides.local;
        let mut exchange = match result {
            Ok(exchange) => exchange,
            Err(source) => {
                record.failed(source.reason(), &source, false);
                record.moved(sides.upload.received, 0);
                if let AttemptError::Client(error) = source {
                    return Err(error.into());
                }
                let backend = pick.backend().name.clone();
                return Err(ProxyError::Attempt { backend, source });
            }
        };
        let metrics = self.route.metrics.of(local.index);
        let (status, now) = (exchange.status(), clock::now());
        let version = record.request.version;
        let body = match exchange.response.body {
            // An HTTP/1.0 client knows of no chunks: its body ends with its connection.
            ResponseBody::Chunked | ResponseBody::UntilClose if version == Version::Http10 => {
                ResponseBody::UntilClose
            }
            ResponseBody::UntilClose => ResponseBody::Chunked,
            body => body,
        };
        let mut keeps_alive = self.keeps_alive
            && body != ResponseBody::UntilClose
            && exchange.is_request_sent()
            && !sides.down.client.is_closing(local);
        metrics.record(status, now - record.started);
        let explain = record.responded(status, now);
        let hsts = self.listener.hsts(&record.origin);
        local.with_date(|date| {
            let explain = explain.as_deref().map(str::as_bytes);
            let to = encode::ToClient { body, version, keeps_alive, date, explain, hsts };
            exchange.begin(&mut sides, &to);
        });
        sides.down.is_body_open = body == ResponseBody::UntilClose;
        if exchange.response.status == 101 {
            return Ok(Box::pin(self.tunnel(exchange, sides, record)).await);
        }
        if sides.deadlines.stream_idle.is_none() {
            sides.down.stream.keep_alive();
            exchange.lease.stream.keep_alive();
        }
        let result = poll_fn(|cx| exchange.poll_response(&mut sides, metrics, cx)).await;
        record.moved(sides.upload.received, exchange.delivered());
        if let Err(broken) = result {
            if broken == Broken::ClientGone {
                metrics.aborted.increment();
            }
            broke_off(broken, exchange, record, local);
            return Ok(Next::Close);
        }
        sides.down.is_body_open = false;
        record.ended();
        exchange.credit(local);
        keeps_alive &= exchange.is_request_sent();
        let is_sending = !exchange.is_request_sent() || !sides.down.input.is_empty();
        exchange.finish(local);
        Ok(match (keeps_alive, is_sending) {
            (true, _) => Next::KeepAlive,
            (false, true) => Next::Linger,
            (false, false) => Next::Close,
        })
    }

    /// Carries what follows a 101.
    async fn tunnel(
        &self,
        mut exchange: Box<Exchange>,
        sides: Sides<'_>,
        record: &mut Record<'_>,
    ) -> Next {
        let (local, down) = (sides.local, sides.down);
        let worker = local.metrics();
        exchange.credit(local);
        let (lease, early) = exchange.into_tunnel(local);
        let (mut stream, _in_flight) = lease.into_parts();
        worker.tunnels_opened.increment();
        let metrics = self.route.metrics.of(local.index);
        down.count(metrics);
        // The tunnel counts for itself what it holds.
        down.hold_nothing();
        down.outbox.bytes().extend_from_slice(&early);
        let mut to_backend = Outbox::with(std::mem::take(&mut down.input).into_bytes());
        let mut tunnel = Tunnel {
            client: Side::new(&mut down.stream, &mut down.outbox),
            backend: Side::new(&mut stream, &mut to_backend),
        };
        let mut counted = (0, 0);
        let idle = self.route.spec.tunnel_idle_timeout;
        let _open = OpenTunnel(worker);
        let end = tunnel
            .run(local, &down.client.timer, idle, |from, to| {
                metrics.received_bytes.add(from - counted.0);
                metrics.sent_bytes.add(to - counted.1);
                counted = (from, to);
                record.moved(from, to);
            })
            .await;
        // It is all counted.
        down.count_nothing();
        match end {
            TunnelEnd::Both => {
                record.ended();
                Next::Close
            }
            TunnelEnd::Broken(_) => {
                record.reason("connection_terminated");
                Next::Linger
            }
            TunnelEnd::Idle => {
                worker.limits.tunnel_idle_timeout.increment();
                record.reason("tunnel_idle_timeout");
                Next::Close
            }
        }
    }
}

/// Says why a response broke off, and whose fault that is.
fn broke_off(broken: Broken, mut exchange: Box<Exchange>, record: &mut Record<'_>, local: &Local) {
    let limits = &local.metrics().limits;
    let (reason, failure) = match broken {
        Broken::ClientGone => ("client_gone", None),
        Broken::ClientSlow => {
            limits.write_timeout.increment();
            ("write_timeout", None)
        }
        Broken::ClientSilent => {
            limits.body_timeout.increment();
            ("body_timeout", None)
        }
        Broken::BackendSilent => {
            limits.stream_idle_timeout.increment();
            ("stream_idle_timeout", Some(Failure::Timeout))
        }
        Broken::BackendClosed => ("http_response_incomplete", Some(Failure::Reset)),
        Broken::Malformed => ("http_protocol_error", Some(Failure::Reset)),
    };
    record.reason(reason);
    match failure {
        Some(failure) => local.record_failure(&exchange.lease.pick, failure),
        // That its client did not wait for the end is not the backend's doing.
        None => exchange.credit(local),
    }
}

/// Counts a tunnel for as long as it lives.
struct OpenTunnel<'a>(&'a WorkerMetrics);

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.tunnels_closed.increment();
    }
}
