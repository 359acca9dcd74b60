//! The way of a request: read [`request`] first.

pub mod attempt;
pub mod deliver;
pub mod download;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod outgoing;
pub mod reply;
pub mod request;
pub mod respond;
pub mod sides;
pub mod tried;
pub mod tunnel;
pub mod upload;

use std::rc::Rc;

use crate::{local::Local, observe::record::Recorder};

/// What all requests of a worker have in common.
#[derive(Debug)]
pub struct Context {
    pub local: Rc<Local>,
    pub recorder: Rc<Recorder>,
}

/// What becomes of a client's connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It may bring another request.
    KeepAlive,
    Close,
    /// Closed once the client had time to read what was written, though it is still sending.
    Linger,
}
