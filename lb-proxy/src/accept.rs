//! Listening sockets: one a worker and address, all in one `SO_REUSEPORT` group, which several
//! proxies of one host may share.
//!
//! # Closing one loses no connection
//!
//! The kernel resets what waits in the queue of a socket that is closed, also if others share its
//! port. So a socket that is to be closed first gets a filter that drops SYNs: no new connection
//! begins, those that are being made complete, and all are accepted before it is closed. A client
//! whose SYN was dropped sends it again, to a socket that is left.
//!
//! A socket that was inherited is not closed at all: a service manager has it too, and what waits in
//! its queue is for the process that comes next.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use lb_common::id::ListenerName;
use socket2::{Domain, Protocol, SockFilter, SockRef, Type};
use tokio::{sync::oneshot, task::spawn_local, time};

use crate::{table, worker::Worker};

/// How long connections that are being made get to complete, once no new ones begin.
pub const LINGER: Duration = Duration::from_millis(50);
/// How long accepting rests when the system has no more descriptors or memory.
const REST: Duration = Duration::from_millis(50);
const BACKLOG: i32 = 4096;

/// To accept on.
#[derive(Debug)]
pub struct Socket {
    listener: TcpListener,
    /// Somebody else has it too.
    is_inherited: bool,
}

/// Stops accepting when it is dropped.
#[derive(Debug)]
pub struct Stop(#[expect(dead_code, reason = "dropping it is the signal")] oneshot::Sender<()>);

/// Binds one socket for each worker. With port 0, all of them get the same free one.
///
/// # Errors
/// Those of the system; another program that listens there without sharing, for instance.
pub fn bind(address: SocketAddr, sockets: usize) -> io::Result<Vec<Socket>> {
    let mut address = address;
    let mut bound = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        bound.push(Socket { listener, is_inherited: false });
    }
    Ok(bound)
}

/// Gives each worker a socket that somebody else opened. It has one queue, of which each takes what
/// it can.
///
/// # Errors
/// If there are no more descriptors.
pub fn share(inherited: &TcpListener, sockets: usize) -> io::Result<Vec<Socket>> {
    inherited.set_nonblocking(true)?;
    let share = |_| Ok(Socket { listener: inherited.try_clone()?, is_inherited: true });
    (0..sockets).map(share).collect()
}

/// Accepts in a task of its own until told to stop.
pub fn start(worker: &Rc<Worker>, name: &ListenerName, socket: Socket) -> Option<Stop> {
    let (stop, stopped) = oneshot::channel();
    // Tables come before their listeners, so it is there unless it is gone again.
    let at_first = Arc::clone(worker.table().listeners.get(name)?);
    let acceptor = Acceptor { worker: Rc::clone(worker), name: name.clone(), at_first };
    spawn_local(async move {
        if let Err(error) = acceptor.run(socket, stopped).await {
            tracing::error!(listener = %acceptor.name, %error, "cannot accept");
        }
    });
    Some(Stop(stop))
}

// === impl Socket ===

impl Socket {
    /// # Errors
    /// If the system does not know any more.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Acceptor {
    worker: Rc<Worker>,
    name: ListenerName,
    /// For connections that are accepted when the listener is gone from the table.
    at_first: Arc<table::Listener>,
}

impl Acceptor {
    async fn run(&self, socket: Socket, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
        let Socket { listener, is_inherited } = socket;
        let socket = tokio::net::TcpListener::from_std(listener)?;
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                accepted = socket.accept() => self.take(accepted).await,
            }
        }
        if is_inherited {
            return Ok(());
        }
        SockRef::from(&socket).attach_filter(&DROP_SYNS)?;
        let linger = async {
            loop {
                self.take(socket.accept().await).await;
            }
        };
        // Never completes by itself; what the queue still has then is taken without waiting.
        let _ = time::timeout(LINGER, linger).await;
        while let Ok(Ok(accepted)) = time::timeout(Duration::ZERO, socket.accept()).await {
            self.take(Ok(accepted)).await;
        }
        Ok(())
    }

    async fn take(&self, accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, _)) => {
                let table = self.worker.table();
                let listener = table.listeners.get(&self.name).unwrap_or(&self.at_first);
                self.worker.serve(Arc::clone(listener), stream);
            }
            Err(error) => {
                self.worker.metrics().accept_errors.increment();
                // A client that is gone already is no reason to rest; a full table of descriptors is.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    tracing::warn!(listener = %self.name, %error, "accepting rests");
                    time::sleep(REST).await;
                }
            }
        }
    }
}

/// Classic BPF over a TCP segment: 0 bytes of what has the SYN flag, all of the rest.
const DROP_SYNS: [SockFilter; 4] = [
    SockFilter::new(LOAD_BYTE, 0, 0, TCP_FLAGS_OFFSET),
    SockFilter::new(JUMP_IF_SET, 0, 1, TCP_SYN),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
/// `BPF_LD | BPF_B | BPF_ABS`
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JSET | BPF_K`
const JUMP_IF_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_SYN: u32 = 0x02;
