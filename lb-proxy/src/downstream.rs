//! A client's connection: who it is, what was read of it and not used yet, and what is on its way
//! to it.

use std::{
    cell::OnceCell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use lb_common::{
    clock,
    spec::{self, Scheme},
};
use lb_http::{h1::BodyDecoder, message::Request};
use lb_prelude::proxy_protocol::{Addresses, Header, Tlvs, Version, encode};
use lb_routing::origin::Origin;

use crate::{
    connections::{Id, Terms},
    local::{Held, Local},
    metrics::RouteMetrics,
    net::{block::Block, outbox::Outbox, stream::Stream, timer::LazyTimer},
    table::{CountedClient, Listener, Presence},
};

/// Who a connection is from.
#[derive(Debug)]
pub struct Client {
    /// Who is connected.
    pub peer: SocketAddr,
    /// The client, which is the peer unless somebody trusted says otherwise.
    pub address: SocketAddr,
    /// What that one said, by the PROXY protocol.
    pub proxied: Option<Box<Proxied>>,
    /// The client's address as a field has it.
    pub forwarded_for: String,
    pub scheme: Scheme,
    /// That it has shown.
    pub cert: Option<Box<ClientCert>>,
    /// Of the listener that accepted it.
    pub presence: Arc<Presence>,
    /// Of that listener, when it let the client in.
    pub terms: Terms,
    pub id: Id,
    /// What all of its lines in the access log have in common, once there is one.
    pub log_part: OnceCell<Box<[u8]>>,
    /// For whatever its requests wait for; it has one at a time.
    pub timer: LazyTimer,
}

/// What is known of a client by its certificate.
#[derive(Debug)]
pub struct ClientCert {
    /// What backends get of it, as lines of a head.
    lines: Box<[u8]>,
    /// It is good until then, since the Unix epoch.
    until: Duration,
    #[expect(dead_code, reason = "dropping it gives the memory back")]
    held: Held,
}

/// A connection that a balancer in front passes on, by the PROXY protocol.
#[derive(Debug)]
pub struct Proxied {
    pub header: Header,
    #[expect(dead_code, reason = "dropping it counts the connection's end")]
    counted: Option<CountedClient>,
}

#[derive(Debug)]
pub struct Downstream {
    pub client: Rc<Client>,
    pub stream: Stream,
    /// What was read and is not used yet.
    pub input: Block,
    pub outbox: Outbox,
    /// How far its latest request's body has been read.
    pub body: BodyDecoder,
    /// When all that the client sent was read, and it had ended its side. It may still read.
    pub ended: Option<Instant>,
    /// When it was seen to have ended its side, though not all that it sent before was read.
    end_seen: Option<Instant>,
    /// The body of the answer that is being written ends with the connection. Until all of it was
    /// written, that must not look like an end.
    pub is_body_open: bool,
    /// Bytes of requests that were used so far.
    pub used: u64,
    /// Of `used`, and of what was written, what is counted already.
    counted: (u64, u64),
    held: Held,
}

/// So much is read ahead of what is asked for, to notice when the client goes.
const AHEAD: usize = 16 * 1024;

impl Client {
    pub fn new(
        local: &Local,
        peer: SocketAddr,
        proxied: Option<Box<Proxied>>,
        listener: &Listener,
        id: Id,
    ) -> Self {
        let said = proxied.as_ref().and_then(|proxied| proxied.header.addresses);
        let address = said.map_or(peer, |addresses| addresses.source);
        Self {
            peer,
            address,
            proxied,
            forwarded_for: text(address.ip().to_canonical()),
            scheme: listener.spec.scheme(),
            cert: None,
            presence: Arc::clone(&listener.presence),
            terms: listener.terms,
            id,
            log_part: OnceCell::new(),
            timer: local.timers.timer(),
        }
    }

    /// What backends get of its certificate, as lines of a head.
    pub fn cert_lines(&self) -> &[u8] {
        self.cert.as_ref().map_or(&[], |cert| &cert.lines)
    }

    /// Whether its certificate was good when it came, and is not any more.
    pub fn has_expired(&self) -> bool {
        self.cert.as_ref().is_some_and(|cert| cert.until < clock::wall())
    }

    /// Whether its listener would let it in by other terms now.
    pub fn is_outdated(&self, listener: &Listener) -> bool {
        listener.terms != self.terms || self.has_expired()
    }

    /// Whether its connection is to end with the response that it waits for.
    pub fn is_closing(&self, local: &Local) -> bool {
        local.is_draining.get()
            || local
                .view()
                .listener_of(&self.presence)
                .is_none_or(|(listener, is_gone)| is_gone || self.is_outdated(listener))
    }

    /// Who a request on its connection is from.
    pub fn origin_of<'a>(&self, request: &'a Request, listener: &spec::Listener) -> Origin<'a> {
        let (trusted, header) = (&listener.trusted_proxies, listener.forwarded_header);
        Origin::of(request, self.address.ip().to_canonical(), self.scheme, trusted, header)
    }
}

impl ClientCert {
    pub fn new(local: &Rc<Local>, lines: Box<[u8]>, until: Duration) -> Self {
        let mut held = Held::new(local);
        held.set(lines.len());
        Self { lines, until, held }
    }
}

impl Proxied {
    pub fn new(header: Header, counted: Option<CountedClient>) -> Self {
        Self { header, counted }
    }
}

impl Downstream {
    /// What tells a backend of this set whose connection it is; mostly nothing.
    pub fn proxy_header(&self, set: &spec::BackendSet) -> Box<[u8]> {
        let Some(version) = set.proxy_protocol else { return Box::default() };
        let Client { peer, address, proxied, .. } = &*self.client;
        let said = proxied.as_ref().map(|proxied| &proxied.header);
        let addresses = said.and_then(|said| said.addresses);
        // Of a socket that is gone, it does not matter any more.
        let own = || self.stream.local_address().unwrap_or(*peer);
        let destination = addresses.map_or_else(own, |addresses| addresses.destination);
        let version = match version {
            spec::ProxyVersion::V1 => Version::V1,
            spec::ProxyVersion::V2 => Version::V2,
        };
        let nothing = Tlvs::default();
        let mut header = Vec::new();
        encode(
            version,
            Some(Addresses { source: *address, destination }),
            said.map_or(&nothing, |said| &said.tlvs),
            &mut header,
        );
        header.into()
    }

    pub fn new(local: &Rc<Local>, client: Rc<Client>, stream: Stream) -> Self {
        Self {
            client,
            stream,
            input: Block::default(),
            outbox: Outbox::default(),
            body: BodyDecoder::Empty,
            ended: None,
            end_seen: None,
            is_body_open: false,
            used: 0,
            counted: (0, 0),
            held: Held::new(local),
        }
    }

    /// A request begins: there is memory for its answer.
    pub fn begin(&mut self, local: &Local) {
        if self.outbox.capacity() == 0 {
            *self.outbox.bytes() = local.buffer();
        }
    }

    /// It is over: what it used is for others. What waits stays.
    pub fn rest(&mut self, local: &Local) {
        if self.outbox.is_empty() {
            local.recycle_buffer(self.outbox.take());
        }
        self.hold(0);
    }

    /// Reads on into `input`. Ready with nothing when the client has ended its side.
    pub fn poll_more(&mut self, local: &Local, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended.is_some() {
            return Poll::Ready(Ok(0));
        }
        let filled = ready!(local.poll_fill(&mut self.stream, cx))?;
        if filled.is_empty() {
            self.ended = Some(clock::now());
        } else {
            local.keep(filled, &mut self.input);
        }
        Poll::Ready(Ok(filled.len()))
    }

    /// Watches a client from whom nothing is expected: notices its end, and reads what it sends ahead
    /// up to a limit.
    ///
    /// # Errors
    /// When it is gone.
    pub fn watch(&mut self, local: &Local, cx: &mut Context<'_>) -> io::Result<()> {
        while self.ended.is_none() && !self.is_unread() {
            match self.poll_more(local, cx) {
                Poll::Ready(Ok(0)) | Poll::Pending => break,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// When the client was seen to have ended its side, whether all before that was read or not.
    pub fn ends_at(&self) -> Option<Instant> {
        self.ended.or(self.end_seen)
    }

    /// Looks after a client that is not read. Returns whether it is gone.
    pub fn look(&mut self) -> bool {
        if self.end_seen.is_none() && self.stream.has_ended() {
            self.end_seen = Some(clock::now());
        }
        self.stream.has_failed()
    }

    /// Whether so much has come that no more is read.
    pub fn is_unread(&self) -> bool {
        AHEAD <= self.input.len()
    }

    /// Counts what has gone through since the last call.
    pub fn count(&mut self, metrics: &RouteMetrics) {
        let now = (self.used, self.outbox.written());
        metrics.received_bytes.add(now.0 - self.counted.0);
        metrics.sent_bytes.add(now.1 - self.counted.1);
        self.counted = now;
    }

    /// What has gone through since the last call is of no route.
    pub fn count_nothing(&mut self) {
        self.counted = (self.used, self.outbox.written());
    }

    /// The first bytes of the input were used.
    pub fn consume(&mut self, local: &Local, bytes: usize) {
        self.used += bytes as u64;
        self.input.consume(bytes);
        if self.input.is_empty() {
            local.recycle_block(std::mem::take(&mut self.input));
        }
    }

    /// Who has its buffers now counts what they hold.
    pub fn hold_nothing(&mut self) {
        self.held.set(0);
    }

    /// Counts what it holds in buffers, and `more` bytes besides.
    pub fn hold(&mut self, more: usize) {
        let own = self.input.capacity()
            + self.outbox.capacity()
            + self.body.buffered()
            + self.stream.capacity();
        self.held.set(own + more);
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        if self.is_body_open {
            self.stream.reset_when_closed();
        }
    }
}

/// As a field has it. Each connection needs it, and the standard library takes its time.
pub fn text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        for (above, unit) in [(99, 100), (9, 10)] {
            if octet > above {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
        text.push(char::from(b'0' + octet % 10));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everywhere() {
        for i in 0..=u8::MAX {
            let address = IpAddr::from([i, 0, 10, 255 - i]);
            assert_eq!(text(address), address.to_string());
        }
        let address: IpAddr = "2001:db8::1".parse().expect("an address");
        assert_eq!(text(address), "2001:db8::1");
    }
}
