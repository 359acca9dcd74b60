//! What an exchange is between, and how long each side may keep the other waiting.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use lb_common::clock;

use super::upload::Upload;
use crate::{downstream::Downstream, local::Local};

/// What an exchange goes on between, besides its backend.
#[derive(Debug)]
pub struct Sides<'a> {
    pub local: &'a Rc<Local>,
    pub down: &'a mut Downstream,
    pub upload: &'a mut Upload,
    pub deadlines: &'a Deadlines,
}

/// How long each side may be silent, and until when the response's head must be there.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the request's last byte to the response's head, over all attempts.
    pub response: Duration,
    /// The same, for this attempt.
    pub per_try: Option<Duration>,
    pub body: Duration,
    pub stream_idle: Option<Duration>,
    pub write: Duration,
    /// How long a client that has ended its side is waited for.
    pub half_closed: Duration,
}

/// How long nothing has moved. The clock is read at the first look after something did.
#[derive(Debug, Default)]
pub struct Silence(Option<Instant>);

impl Silence {
    /// Something moved.
    pub fn broken(&mut self) {
        self.0 = None;
    }

    /// When it will have lasted for so long.
    pub fn until(&mut self, limit: Duration) -> Instant {
        *self.0.get_or_insert_with(clock::now) + limit
    }
}
