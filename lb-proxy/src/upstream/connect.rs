//! Opening a connection to a backend, and whose fault it is if that fails.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::Poll,
    time::{Duration, Instant},
};

use lb_common::shortage::is_shortage;
use rustix::io::Errno;

use crate::{
    local::Local,
    net::{socket::Socket, stream::Stream, timer::LazyTimer},
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connect refused")]
    Refused,
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("could not connect: {0}")]
    Failed(io::Error),
    /// This process or its host lacks something: nothing is said about the backend.
    #[error("no connection could be begun: {0}")]
    Local(io::Error),
}

/// Connects within `timeout`, and before `deadline`.
///
/// # Errors
/// Why it could not.
pub async fn connect(
    local: &Local,
    address: SocketAddr,
    timeout: Duration,
    now: Instant,
    deadline: Instant,
    timer: &LazyTimer,
) -> Result<Stream, ConnectError> {
    if !local.make_room_within(local.shared.bounds.room.for_backends) {
        return Err(ConnectError::Local(Errno::MFILE.into()));
    }
    let until = deadline.min(now + timeout);
    let connecting = Socket::connecting(address, local.shared.streams.one());
    let failed = |error| ConnectError::of(error, address);
    let mut socket = connecting.map_err(failed).inspect_err(|error| {
        if matches!(error, ConnectError::Local(_)) {
            local.make_room();
        }
    })?;
    let connected = poll_fn(|cx| match socket.poll_connected(cx) {
        Poll::Ready(result) => Poll::Ready(result.map_err(failed)),
        Poll::Pending => timer
            .poll_expired(until, cx)
            .map(|()| Err(ConnectError::Timeout(until.saturating_duration_since(now)))),
    });
    connected.await?;
    Ok(Stream::Tcp(socket))
}

impl ConnectError {
    fn of(error: io::Error, to: SocketAddr) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ if is_shortage(&error, to) => Self::Local(error),
            _ => Self::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_no_fault_of_a_backend() {
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        let error = |errno: Errno| {
            ConnectError::of(io::Error::from_raw_os_error(errno.raw_os_error()), here)
        };
        assert!(matches!(error(Errno::ADDRNOTAVAIL), ConnectError::Local(_)));
        assert!(matches!(error(Errno::HOSTUNREACH), ConnectError::Failed(_)));
        assert!(matches!(error(Errno::CONNREFUSED), ConnectError::Refused));
    }
}
