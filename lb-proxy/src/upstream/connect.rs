//! Opening a connection to a backend, and whose fault it is if that fails.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use lb_common::{clock, shortage::is_shortage};
use lb_tls::{client::Client, fault::Fault, handshake::Agreed};
use rustix::io::Errno;

use crate::{
    local::{Held, Local},
    net::{
        shake::{ShakeError, Shaking},
        socket::Socket,
        stream::Stream,
        timer::LazyTimer,
    },
    table::Pick,
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
    #[error("TLS: no handshake within {0:?} from the connect on")]
    SlowHandshake(Duration),
    /// Clients get to read this.
    #[error("TLS: {}", .0.in_short())]
    Tls(Box<Fault>),
    /// This process or its host lacks something: nothing is said about the backend.
    #[error("no connection could be begun: {0}")]
    Local(io::Error),
}

/// Connects to the backend, tells it first whose connection it is if there is such a `header`, and shakes
/// hands with it if it is spoken to by TLS: all together within the set's `connect_timeout`, and before
/// `deadline`.
///
/// # Errors
/// Why it could not.
pub async fn connect(
    local: &Rc<Local>,
    pick: &Pick,
    header: &[u8],
    now: Instant,
    deadline: Instant,
    timer: &LazyTimer,
) -> Result<Stream, ConnectError> {
    if !local.make_room_within(local.shared.bounds.room.for_backends) {
        return Err(ConnectError::Local(Errno::MFILE.into()));
    }
    let address = pick.backend().address;
    let until = deadline.min(now + pick.set().spec.connect_timeout);
    let connecting = Socket::connecting(address, local.shared.streams.one());
    let failed = |error| ConnectError::of(error, address);
    let mut socket = connecting.map_err(failed).inspect_err(|error| {
        if matches!(error, ConnectError::Local(_)) {
            local.make_room();
        }
    })?;
    let late = || until.saturating_duration_since(now);
    let connected = poll_fn(|cx| match socket.poll_connected(cx) {
        Poll::Ready(result) => Poll::Ready(result.map_err(failed)),
        Poll::Pending => timer.poll_expired(until, cx).map(|()| Err(ConnectError::Timeout(late()))),
    });
    connected.await?;
    let mut sent = 0;
    while sent < header.len() {
        // A new connection has room for it.
        let written = poll_fn(|cx| match socket.poll_write(cx, &header[sent..]) {
            Poll::Ready(written) => Poll::Ready(written.map_err(failed)),
            Poll::Pending => {
                timer.poll_expired(until, cx).map(|()| Err(ConnectError::Timeout(late())))
            }
        });
        sent += written.await?;
    }
    let stream = Stream::Tcp(socket);
    let Some(client) = pick.tls() else { return Ok(stream) };
    // In a box, because most do without.
    let shaking = Box::pin(shake(local, client, stream, until, timer));
    let shaken = shaking.await.map_err(|error| match error {
        NoHandshake::Late => ConnectError::SlowHandshake(late()),
        NoHandshake::Shake(ShakeError::Io(error)) if is_shortage(&error, address) => {
            ConnectError::Local(error)
        }
        NoHandshake::Shake(error) => ConnectError::of_handshake(error),
        NoHandshake::Expired => ConnectError::Tls(Fault::Expired.into()),
    });
    let metrics = pick.set().set_metrics().of(local.index);
    match &shaken {
        Ok((_, agreed)) if agreed.is_resumed => metrics.handshakes_resumed.increment(),
        Ok(_) => metrics.handshakes_full.increment(),
        Err(_) => {
            metrics.handshakes_failed.increment();
            // Whatever it was, no session is to blame for the next one.
            client.forget_sessions();
        }
    }
    shaken.map(|(stream, _)| stream)
}

/// Why there was no handshake.
enum NoHandshake {
    Late,
    /// It would have gone on with a session whose certificate is not good any more.
    Expired,
    Shake(ShakeError),
}

async fn shake(
    local: &Rc<Local>,
    client: &Arc<Client>,
    stream: Stream,
    until: Instant,
    timer: &LazyTimer,
) -> Result<(Stream, Agreed), NoHandshake> {
    let of_tls = |error| NoHandshake::Shake(ShakeError::Tls(error));
    let handshake = client.handshake().map_err(of_tls)?;
    let mut shaking = Shaking::beginning(stream, handshake).map_err(of_tls)?;
    let mut held = Held::new(local);
    poll_fn(|cx| {
        loop {
            held.set(shaking.capacity());
            match shaking.poll_step(&local.hot, cx) {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(NoHandshake::Shake(error))),
                Poll::Pending => {
                    return timer.poll_expired(until, cx).map(|()| Err(NoHandshake::Late));
                }
            }
        }
    })
    .await?;
    let (tls, agreed) = shaking.finish(&local.scratch).map_err(NoHandshake::Shake)?;
    if client.has_expired(&agreed, clock::wall()) {
        return Err(NoHandshake::Expired);
    }
    Ok((Stream::Tls(Box::new(tls)), agreed))
}

impl ConnectError {
    fn of(error: io::Error, to: SocketAddr) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ if is_shortage(&error, to) => Self::Local(error),
            _ => Self::Failed(error),
        }
    }

    fn of_handshake(error: ShakeError) -> Self {
        let fault = match error {
            ShakeError::Tls(error) => Fault::of(&error),
            ShakeError::Session(error) => error.of_server(),
            ShakeError::Gone | ShakeError::TooMuch | ShakeError::Io(_) => {
                Fault::Protocol(error.to_string())
            }
        };
        match fault {
            Fault::Ours(why) => Self::Local(io::Error::other(why)),
            fault => Self::Tls(fault.into()),
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
