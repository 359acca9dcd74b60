//! A connection to a backend while a request has it, with what is counted meanwhile.

use std::rc::Rc;

use lb_routing::backend::InFlight;

use crate::{local::Local, net::stream::Stream, table::Pick};

/// Dropping it closes the connection. Either way the attempt is in flight no more.
#[derive(Debug)]
pub struct Lease {
    pub stream: Stream,
    pub pick: Pick,
    /// It has served a request before.
    pub is_reused: bool,
    /// The PROXY header that it began with.
    header: Box<[u8]>,
    in_flight: InFlight,
}

impl Lease {
    pub fn new(
        stream: Stream,
        pick: Pick,
        is_reused: bool,
        header: Box<[u8]>,
        in_flight: InFlight,
    ) -> Self {
        Self { stream, pick, is_reused, header, in_flight }
    }

    /// The connection is as before its request, and may serve another one.
    pub fn give_back(self, local: &Rc<Local>) {
        if !local.pool.put(&self.pick, self.stream, self.header, local.coarse()) {
            local.metrics().limits.pool_idle.increment();
        }
    }

    /// The connection leaves HTTP.
    pub fn into_parts(self) -> (Stream, InFlight) {
        (self.stream, self.in_flight)
    }
}
