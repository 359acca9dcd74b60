//! Opening a connection to a backend, and whose fault it is if that fails.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::Poll,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{
    local::Local,
    net::{stream::Stream, timer::LazyTimer},
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
    let counted = local.shared.streams.one();
    let until = deadline.min(now + timeout);
    let mut stream = Stream::connecting(address, counted)?;
    let connected = poll_fn(|cx| match stream.poll_connected(cx) {
        Poll::Ready(result) => Poll::Ready(result.map_err(ConnectError::from)),
        Poll::Pending => timer
            .poll_expired(until, cx)
            .map(|()| Err(ConnectError::Timeout(until.saturating_duration_since(now)))),
    });
    connected.await?;
    Ok(stream)
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ if is_local(&error) => Self::Local(error),
            _ => Self::Failed(error),
        }
    }
}

/// Whether it says that this process or its host is short of descriptors, ports or memory.
pub fn is_local(error: &io::Error) -> bool {
    let local = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::ADDRNOTAVAIL,
        Errno::NOMEM,
        Errno::AGAIN,
    ];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_no_fault_of_a_backend() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::NOMEM]
        {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert!(matches!(ConnectError::from(error), ConnectError::Local(_)), "{errno}");
        }
        for errno in [Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::TIMEDOUT, Errno::CONNRESET] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert!(matches!(ConnectError::from(error), ConnectError::Failed(_)), "{errno}");
        }
    }
}
