//! What a line says: of a request, and of a TCP connection. A field that does not apply is absent.
//!
//! Values that come from a client are cut at a limit, which the rest cannot reach.

use std::time::Instant;

use http::StatusCode;
use lb_common::id::ProxyId;
use lb_http::message::Request;

use super::json::{self, Object, WallClock, key};
use crate::{
    downstream::{self, Client},
    observe::facts::{Attempts, ConnectionFacts, Facts, Tried, Why},
    table::Pick,
};

/// Bytes of a path with its query.
const MAX_PATH: usize = 2_048;
/// Bytes of a host.
const MAX_HOST: usize = 255;
const MAX_METHOD: usize = 32;

pub fn request(
    proxy: &ProxyId,
    request: &Request,
    facts: &Facts,
    end: Instant,
    clock: &mut WallClock,
    out: &mut Vec<u8>,
) {
    let started = facts.started;
    let mut line = Object::begin(out, "time", clock, started);
    match facts.passed_on_for {
        None => client(&mut line, proxy, &facts.client, "http"),
        Some(address) => {
            accepted(&mut line, proxy, &facts.client, "http");
            line.name(key!("client"), &downstream::text(address));
            line.address(key!("peer"), facts.client.peer);
        }
    }
    line.text(key!("method"), request.method_text(), MAX_METHOD);
    if !request.authority().is_empty() {
        line.text(key!("host"), request.authority(), MAX_HOST);
    }
    line.text(key!("path"), request.target(), MAX_PATH);
    line.name(key!("version"), request.version.as_str());
    if let Some(status) = facts.status {
        line.number(key!("status"), status.as_u16().into());
    }
    if let Some(route) = &facts.route {
        line.name(key!("route"), route.spec.name.as_str());
    }
    attempts(&mut line, &facts.attempts);
    if let Some(reason) = facts.reason {
        line.name(key!("reason"), reason);
    }
    line.millis(key!("duration_ms"), end.duration_since(started));
    if let Some(responded) = facts.responded {
        line.millis(key!("head_ms"), responded.duration_since(started));
    }
    if let Some(upstream) = facts.upstream() {
        line.millis(key!("upstream_ms"), upstream);
    }
    if let Some(connect) = facts.attempts.connect {
        line.millis(key!("connect_ms"), connect);
    }
    line.number(key!("bytes_in"), facts.bytes_in);
    line.number(key!("bytes_out"), facts.bytes_out);
    if let Some(trace) = facts.trace_id {
        line.hex(key!("trace_id"), trace.to_u128());
    }
    line.end();
}

/// No name of a host is longer.
const MOST_NAME: usize = 255;

pub fn connection(
    proxy: &ProxyId,
    facts: &ConnectionFacts,
    end: Instant,
    clock: &mut WallClock,
    out: &mut Vec<u8>,
) {
    let mut line = Object::begin(out, "time", clock, facts.started);
    client(&mut line, proxy, &facts.client, "tcp");
    if let Some(name) = &facts.server_name {
        line.text(key!("server_name"), name.as_bytes(), MOST_NAME);
    }
    if let Some(route) = &facts.route {
        line.name(key!("route"), route.spec.name.as_str());
    }
    attempts(&mut line, &facts.attempts);
    if let Some(reason) = facts.reason {
        line.name(key!("reason"), reason);
    }
    line.millis(key!("duration_ms"), end.duration_since(facts.started));
    if let Some(connect) = facts.attempts.connect {
        line.millis(key!("connect_ms"), connect);
    }
    line.number(key!("bytes_in"), facts.bytes_in);
    line.number(key!("bytes_out"), facts.bytes_out);
    line.end();
}

/// Of what was no request.
pub fn malformed(
    proxy: &ProxyId,
    client: &Client,
    status: StatusCode,
    reason: &'static str,
    now: Instant,
    clock: &mut WallClock,
    out: &mut Vec<u8>,
) {
    let mut line = Object::begin(out, "time", clock, now);
    self::client(&mut line, proxy, client, "http");
    line.number(key!("status"), status.as_u16().into());
    line.number(key!("attempts"), 0);
    line.name(key!("reason"), reason);
    line.end();
}

/// Where it was accepted, and whose it is.
fn client(line: &mut Object<'_>, proxy: &ProxyId, client: &Client, protocol: &'static str) {
    line.written(client.log_part.get_or_init(|| {
        json::fields(|part| {
            accepted(part, proxy, client, protocol);
            part.address(key!("client"), client.address);
            if client.address != client.peer {
                part.address(key!("peer"), client.peer);
            }
        })
    }));
}

fn accepted(line: &mut Object<'_>, proxy: &ProxyId, client: &Client, protocol: &'static str) {
    line.name(key!("proxy"), proxy.as_str());
    line.name(key!("listener"), client.presence.name.as_str());
    line.name(key!("protocol"), protocol);
}

fn attempts(line: &mut Object<'_>, attempts: &Attempts) {
    match (&attempts.pick, &attempts.set) {
        (Some(pick), _) => line.written(pick.log_part(|| {
            json::fields(|part| {
                part.name(key!("backend_set"), pick.set().spec.name.as_str());
                backend(part, pick);
            })
        })),
        (None, Some(set)) => line.name(key!("backend_set"), set.as_str()),
        (None, None) => {}
    }
    line.number(key!("attempts"), attempts.count);
    tried(line, &attempts.tried);
}

fn backend(line: &mut Object<'_>, pick: &Pick) {
    line.name(key!("backend"), pick.backend().name.as_str());
    line.address(key!("backend_address"), pick.backend().address);
}

fn tried(line: &mut Object<'_>, tried: &[Tried]) {
    if tried.is_empty() {
        return;
    }
    line.array(key!("tried"), tried, |entry, Tried { pick, why }| {
        backend(entry, pick);
        match why {
            Why::Status(status) => entry.number(key!("status"), status.as_u16().into()),
            Why::Error(kind) => entry.name(key!("reason"), kind),
        }
    });
}
