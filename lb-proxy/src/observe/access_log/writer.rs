//! The access log's one thread, which is the only one to wait for the sink, and the queue to it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::clock;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

use super::{Destination, QUEUE};
use crate::local::Shared;

/// Lines on their way.
#[derive(Debug)]
pub struct Chunk {
    pub bytes: Vec<u8>,
    pub lines: u64,
}

/// Where workers put chunks.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: SyncSender<Message>,
    /// Lines that were taken and neither written nor dropped yet.
    waiting: Arc<AtomicU64>,
}

/// Why a chunk was not taken.
#[derive(Debug)]
pub enum Refused {
    Full(Chunk),
    /// Nobody writes any more.
    Ended(Chunk),
}

/// The thread, as its owner has it.
#[derive(Debug)]
pub struct Writer {
    queue: Queue,
    done: oneshot::Receiver<()>,
    reopening: JoinHandle<()>,
}

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("--access-log-to {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("standard output cannot be used for the access log: {0}")]
    Stdout(io::Error),
    #[error("the access log has no thread: {0}")]
    Thread(io::Error),
}

#[derive(Debug)]
enum Message {
    Chunk(Chunk),
    /// There is something to do besides.
    Wake,
}

/// What is written to.
#[derive(Debug)]
enum Sink {
    Open(File),
    /// A pipe with a name, which cannot be opened before somebody reads it.
    Pipe,
}

struct Thread {
    received: Receiver<Message>,
    waiting: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    to: Destination,
    sink: Sink,
    shared: Arc<Shared>,
    /// The last write ended within a line.
    is_torn: bool,
    complained: Option<Instant>,
}

/// How long the end may take when the sink takes nothing.
const END: Duration = Duration::from_secs(1);
/// Between complaints about a sink that fails.
const COMPLAINTS: Duration = Duration::from_secs(10);
/// Between tries of a sink that does not block, and is full.
const FULL: Duration = Duration::from_millis(5);
/// Not for everybody: paths and addresses are in it.
const FILE_MODE: u32 = 0o640;

/// Opens the sink and starts the thread. SIGHUP opens a file again from then on.
///
/// # Errors
/// If the file cannot be opened, or the thread not be started.
pub fn open(to: &Destination, shared: &Arc<Shared>) -> Result<Writer, OpenError> {
    let sink = Sink::open(to)?;
    let (sender, received) = mpsc::sync_channel(QUEUE);
    let queue = Queue { sender, waiting: Arc::default() };
    let reopen = Arc::new(AtomicBool::new(false));
    let thread = Thread {
        received,
        waiting: Arc::clone(&queue.waiting),
        reopen: Arc::clone(&reopen),
        to: to.clone(),
        sink,
        shared: Arc::clone(shared),
        is_torn: false,
        complained: None,
    };
    let (report, done) = oneshot::channel();
    let builder = thread::Builder::new().name("lb-access-log".into());
    builder
        .spawn(move || {
            thread.run();
            // Nobody may be left who wants to know.
            let _ = report.send(());
        })
        .map_err(OpenError::Thread)?;
    let reopening = tokio::spawn(reopen_on_hangup(reopen, queue.sender.clone()));
    Ok(Writer { queue, done, reopening })
}

async fn reopen_on_hangup(reopen: Arc<AtomicBool>, wake: SyncSender<Message>) {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            while hangup.recv().await.is_some() {
                reopen.store(true, Relaxed);
                // If there is no room, the thread is awake and sees it with its next chunk.
                let _ = wake.try_send(Message::Wake);
            }
        }
        Err(error) => tracing::warn!(%error, "SIGHUP will not open the access log again"),
    }
}

// === impl Queue ===

impl Queue {
    /// Never waits.
    pub fn offer(&self, chunk: Chunk) -> Result<(), Refused> {
        let lines = chunk.lines;
        self.waiting.fetch_add(lines, Relaxed);
        let refused = match self.sender.try_send(Message::Chunk(chunk)) {
            Err(TrySendError::Full(Message::Chunk(chunk))) => Refused::Full(chunk),
            Err(TrySendError::Disconnected(Message::Chunk(chunk))) => Refused::Ended(chunk),
            // It comes back as it was sent.
            Ok(()) | Err(_) => return Ok(()),
        };
        self.waiting.fetch_sub(lines, Relaxed);
        Err(refused)
    }
}

// === impl Writer ===

impl Writer {
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// To be called when all other queues are gone: writes what waits, but not for long.
    pub async fn end(self) {
        self.reopening.abort();
        // What it holds is dropped when it has ended, and not when it is told to.
        let _ = self.reopening.await;
        let waiting = Arc::clone(&self.queue.waiting);
        drop(self.queue);
        if tokio::time::timeout(END, self.done).await.is_err() {
            let lines = waiting.load(Relaxed);
            tracing::warn!(lines, "the access log's sink took nothing for {END:?}; lines are lost");
        }
    }
}

// === impl Sink ===

impl Sink {
    fn open(to: &Destination) -> Result<Self, OpenError> {
        match to {
            // Past the lock of standard output, which others must not have to wait for.
            Destination::Stdout => {
                let fd = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                Ok(Self::Open(fd.into()))
            }
            Destination::File(path) => {
                let is_pipe = path.metadata().is_ok_and(|meta| meta.file_type().is_fifo());
                if is_pipe { Ok(Self::Pipe) } else { open_file(path).map(Self::Open) }
            }
        }
    }
}

fn open_file(path: &Path) -> Result<File, OpenError> {
    let opened = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path);
    opened.map_err(|error| OpenError::File { path: path.into(), error })
}

// === impl Thread ===

impl Thread {
    /// Until all queues are gone and empty.
    fn run(mut self) {
        while let Ok(message) = self.received.recv() {
            if self.reopen.swap(false, Relaxed) {
                self.reopen();
            }
            if let Message::Chunk(chunk) = message {
                self.write(&chunk);
            }
        }
    }

    fn reopen(&mut self) {
        if self.to == Destination::Stdout {
            return;
        }
        match Sink::open(&self.to) {
            Ok(sink) => {
                self.sink = sink;
                self.is_torn = false;
                tracing::info!("the access log was opened again");
            }
            Err(error) => tracing::warn!(%error, "the access log goes on into the old file"),
        }
    }

    fn write(&mut self, chunk: &Chunk) {
        let (written, result) = match self.file() {
            Ok((file, is_torn)) => write_all(file, is_torn, &chunk.bytes),
            Err(error) => (0, Err(error)),
        };
        let lines = match &result {
            Ok(()) => chunk.lines,
            Err(_) => count_lines(&chunk.bytes[..written]).min(chunk.lines),
        };
        if let Err(error) = result {
            self.complain(&error, chunk.lines - lines);
        }
        self.shared.access_log.written(lines);
        self.shared.access_log.dropped(chunk.lines - lines);
        self.waiting.fetch_sub(chunk.lines, Relaxed);
    }

    /// Waits for somebody who reads, if it is a pipe that nobody has opened.
    fn file(&mut self) -> io::Result<(&mut File, &mut bool)> {
        if let (Sink::Pipe, Destination::File(path)) = (&self.sink, &self.to) {
            self.sink = Sink::Open(OpenOptions::new().append(true).open(path)?);
        }
        match &mut self.sink {
            Sink::Open(file) => Ok((file, &mut self.is_torn)),
            Sink::Pipe => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn complain(&mut self, error: &io::Error, lines: u64) {
        let now = clock::now();
        if self.complained.is_none_or(|last| COMPLAINTS <= now.duration_since(last)) {
            self.complained = Some(now);
            let dropped = self.shared.access_log.read().1 + lines;
            tracing::warn!(%error, dropped, "the access log cannot be written");
        }
    }
}

/// Also returns how many bytes were written. `is_torn` says whether the file ends within a line.
fn write_all(file: &mut File, is_torn: &mut bool, bytes: &[u8]) -> (usize, io::Result<()>) {
    if *is_torn {
        if let Err(error) = file.write_all(b"\n") {
            return (0, Err(error));
        }
        *is_torn = false;
    }
    let mut written = 0;
    while written < bytes.len() {
        let error = match file.write(&bytes[written..]) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(n) => {
                written += n;
                *is_torn = bytes[written - 1] != b'\n';
                continue;
            }
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => thread::sleep(FULL),
            _ => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}
