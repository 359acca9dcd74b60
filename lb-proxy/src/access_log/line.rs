//! What a line says: of a request, and of a TCP connection. A field that does not apply is absent.
//!
//! Values that come from a client are cut at a limit, which the rest cannot reach.

use std::time::Instant;

use http::{StatusCode, Version};
use lb_common::id::ProxyId;

use super::json::{self, Object, WallClock, key};
use crate::{
    backend_set::Pick,
    client::Client,
    record::{Connection, Request, Tried, Why},
};

/// Bytes of a path with its query.
const MAX_PATH: usize = 2_048;
/// Bytes of a host.
const MAX_HOST: usize = 255;
const MAX_METHOD: usize = 32;

pub fn request(request: &Request, end: Instant, clock: &mut WallClock, out: &mut Vec<u8>) {
    let started = request.started;
    let mut line = Object::begin(out, "time", clock, started);
    client(&mut line, &request.worker.recorder.proxy, &request.client, "http");
    line.text(key!("method"), request.method.as_str().as_bytes(), MAX_METHOD);
    if let Some(host) = &request.host {
        line.text(key!("host"), host.as_bytes(), MAX_HOST);
    }
    let path = request.uri.path_and_query().map_or("", |path| path.as_str());
    line.text(key!("path"), path.as_bytes(), MAX_PATH);
    line.name(key!("version"), version(request.version));
    if let Some(status) = request.status {
        line.number(key!("status"), status.as_u16().into());
    }
    if let Some(route) = &request.route {
        line.name(key!("route"), route.spec.name.as_str());
    }
    if let Some(set) = request.backend_set() {
        line.name(key!("backend_set"), set.as_str());
    }
    backend(&mut line, request.pick.as_ref());
    line.number(key!("attempts"), request.attempts);
    tried(&mut line, &request.tried);
    if let Some(reason) = request.reason {
        line.name(key!("reason"), reason);
    }
    line.millis(key!("duration_ms"), end.duration_since(started));
    if let Some(responded) = request.responded {
        line.millis(key!("head_ms"), responded.duration_since(started));
    }
    if let Some(upstream) = request.upstream() {
        line.millis(key!("upstream_ms"), upstream);
    }
    if let Some(connect) = request.connect {
        line.millis(key!("connect_ms"), connect);
    }
    line.number(key!("bytes_in"), request.bytes_in());
    line.number(key!("bytes_out"), request.bytes_out);
    if let Some(trace) = request.trace_id {
        line.hex(key!("trace_id"), trace.to_u128());
    }
    line.end();
}

pub fn connection(connection: &Connection, end: Instant, clock: &mut WallClock, out: &mut Vec<u8>) {
    let mut line = Object::begin(out, "time", clock, connection.started);
    client(&mut line, &connection.worker.recorder.proxy, &connection.client, "tcp");
    if let Some(set) = &connection.set {
        line.name(key!("backend_set"), set.as_str());
    }
    backend(&mut line, connection.pick.as_ref());
    line.number(key!("attempts"), connection.attempts);
    tried(&mut line, &connection.tried);
    if let Some(reason) = connection.reason {
        line.name(key!("reason"), reason);
    }
    line.millis(key!("duration_ms"), end.duration_since(connection.started));
    if let Some(connect) = connection.connect {
        line.millis(key!("connect_ms"), connect);
    }
    line.number(key!("bytes_in"), connection.client.meter.read.get());
    line.number(key!("bytes_out"), connection.client.meter.written.get());
    line.end();
}

/// Of what was no request.
pub fn malformed(
    proxy: &ProxyId,
    client: &Client,
    status: StatusCode,
    now: Instant,
    clock: &mut WallClock,
    out: &mut Vec<u8>,
) {
    let mut line = Object::begin(out, "time", clock, now);
    self::client(&mut line, proxy, client, "http");
    line.number(key!("status"), status.as_u16().into());
    line.number(key!("attempts"), 0);
    line.name(key!("reason"), "http_request_error");
    line.end();
}

/// Where it was accepted, and whose it is.
fn client(line: &mut Object<'_>, proxy: &ProxyId, client: &Client, protocol: &'static str) {
    line.written(client.log_part.get_or_init(|| {
        json::fields(|part| {
            part.name(key!("proxy"), proxy.as_str());
            part.name(key!("listener"), client.listener.as_str());
            part.name(key!("protocol"), protocol);
            part.address(key!("client"), client.peer);
        })
    }));
}

fn backend(line: &mut Object<'_>, pick: Option<&Pick>) {
    if let Some(pick) = pick {
        line.name(key!("backend"), pick.backend().name.as_str());
        line.address(key!("backend_address"), pick.backend().address);
    }
}

fn tried(line: &mut Object<'_>, tried: &[Tried]) {
    if tried.is_empty() {
        return;
    }
    line.array(key!("tried"), tried, |entry, Tried { pick, why }| {
        backend(entry, Some(pick));
        match why {
            Why::Status(status) => entry.number(key!("status"), status.as_u16().into()),
            Why::Error(kind) => entry.name(key!("reason"), kind),
        }
    });
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "?",
    }
}
