//! A worker's end of the access log: a buffer that only its thread touches.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use http::StatusCode;
use lb_common::{clock, id::ProxyId};
use lb_http::message::Request;
use tokio::{sync::Notify, time};

use super::{
    CHUNK, MAX_AGE, Mode, Queue,
    json::WallClock,
    line,
    writer::{Chunk, Refused},
};
use crate::{
    downstream::Client,
    local::Shared,
    observe::facts::{ConnectionFacts, Facts},
};

/// One worker's part of the log. Nothing here waits.
#[derive(Debug)]
pub struct WorkerLog {
    mode: Mode,
    shared: Arc<Shared>,
    /// None if the log is off.
    queue: Option<Queue>,
    buffer: RefCell<Vec<u8>>,
    /// In the buffer.
    lines: Cell<u64>,
    clock: RefCell<WallClock>,
    /// That something is in the buffer.
    begun: Notify,
}

/// Room for what a line may be longer than the rest of a chunk.
const SLACK: usize = 4 * 1024;

impl WorkerLog {
    pub fn new(mode: Mode, shared: Arc<Shared>, queue: Option<Queue>) -> Self {
        Self {
            mode,
            shared,
            queue,
            buffer: RefCell::default(),
            lines: Cell::new(0),
            clock: RefCell::new(WallClock::new(clock::now(), clock::wall())),
            begun: Notify::new(),
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn request(&self, proxy: &ProxyId, request: &Request, facts: &Facts, end: Instant) {
        self.append(|clock, out| line::request(proxy, request, facts, end, clock, out));
    }

    pub fn connection(&self, proxy: &ProxyId, facts: &ConnectionFacts, end: Instant) {
        self.append(|clock, out| line::connection(proxy, facts, end, clock, out));
    }

    pub fn malformed(
        &self,
        proxy: &ProxyId,
        client: &Client,
        status: StatusCode,
        reason: &'static str,
        now: Instant,
    ) {
        self.append(|clock, out| line::malformed(proxy, client, status, reason, now, clock, out));
    }

    /// Keeps to the system's clock; to be called now and then.
    pub fn set_clock(&self, now: Instant) {
        if self.mode != Mode::Off {
            self.clock.borrow_mut().set(now, clock::wall());
        }
    }

    /// Hands on what is in the buffer when it is old enough, for as long as it is polled.
    pub async fn keep_moving(self: Rc<Self>) {
        loop {
            self.begun.notified().await;
            time::sleep(MAX_AGE).await;
            self.flush();
        }
    }

    fn append(&self, write: impl FnOnce(&mut WallClock, &mut Vec<u8>)) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            buffer.reserve(CHUNK + SLACK);
            self.begun.notify_one();
        }
        write(&mut self.clock.borrow_mut(), &mut buffer);
        self.lines.set(self.lines.get() + 1);
        let is_full = CHUNK <= buffer.len();
        drop(buffer);
        if is_full {
            self.flush();
        }
    }

    /// Hands the buffer's lines on. Should the queue be full they stay, until there are so many
    /// that they are dropped.
    fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let bytes = self.buffer.take();
        if bytes.is_empty() {
            return;
        }
        let chunk = Chunk { bytes, lines: self.lines.take() };
        match queue.offer(chunk) {
            Ok(()) => {}
            Err(Refused::Full(chunk)) if chunk.bytes.len() < CHUNK => {
                self.buffer.replace(chunk.bytes);
                self.lines.set(chunk.lines);
                self.begun.notify_one();
            }
            Err(Refused::Full(mut chunk)) => {
                self.drop_lines(chunk.lines);
                chunk.bytes.clear();
                self.buffer.replace(chunk.bytes);
            }
            Err(Refused::Ended(chunk)) => self.drop_lines(chunk.lines),
        }
    }

    fn drop_lines(&self, lines: u64) {
        self.shared.access_log.dropped(lines);
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
        self.drop_lines(self.lines.get());
    }
}
