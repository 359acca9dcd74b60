//! A connection to a backend that is probed, and how it begins.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use lb_common::spec::ProxyVersion;
use lb_prelude::proxy_protocol::{self, Addresses, Tlvs, Version};
use rustix::net::sockopt::set_tcp_quickack;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::problem::{Problem, TLS, describe};
use crate::health::tls::ProbeTls;

/// A connection that answered, and may be asked again.
#[derive(Debug)]
pub struct Kept {
    pub stream: Stream,
    /// So many probes more may use it. Whether a backend takes new connections is part of the question.
    pub uses: u8,
}

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Whose connection it is, if there is a PROXY protocol, is this process's own. If something is to be
/// sent at once, the handshake's last word goes with it: a packet less on the way, and its reader is woken
/// up once.
pub async fn connect(
    address: SocketAddr,
    proxy_protocol: Option<ProxyVersion>,
    speaks_first: bool,
) -> Result<TcpStream, Problem> {
    let connecting = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if speaks_first {
            // Else it goes alone.
            let _ = set_tcp_quickack(&socket, false);
        }
        let mut stream = socket.connect(address).await?;
        if let Some(version) = proxy_protocol {
            stream.write_all(&own_header(version, &stream)?).await?;
        }
        Ok(stream)
    };
    connecting.await.map_err(|error: io::Error| describe(&error, address))
}

pub async fn shake(
    address: SocketAddr,
    stream: TcpStream,
    tls: &ProbeTls,
) -> Result<Stream, Problem> {
    let config = tls.config().map_err(|why| Problem::Ours(format!("{TLS}{why}")))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(tls.name_of(address), stream).await.map_err(|error| {
        match describe(&error, address) {
            Problem::OfBackend(why) if !why.starts_with(TLS) => {
                Problem::OfBackend(format!("{TLS}{why}"))
            }
            problem => problem,
        }
    })?;
    let agreed = stream.get_ref().1.alpn_protocol();
    if config.alpn_protocols.iter().any(|wanted| agreed != Some(wanted)) {
        return Err(Problem::OfBackend(format!("{TLS}it does not speak h2")));
    }
    Ok(Stream::Tls(Box::new(stream)))
}

/// What says that a connection is this process's own. Version 1 has no word for that which all servers
/// know: its description says to give the connection's own addresses.
fn own_header(version: ProxyVersion, stream: &TcpStream) -> io::Result<Vec<u8>> {
    let (version, addresses) = match version {
        ProxyVersion::V1 => {
            let (source, destination) = (stream.local_addr()?, stream.peer_addr()?);
            (Version::V1, Some(Addresses { source, destination }))
        }
        ProxyVersion::V2 => (Version::V2, None),
    };
    let mut header = Vec::new();
    proxy_protocol::encode(version, addresses, &Tlvs::default(), &mut header);
    Ok(header)
}

// === impl Kept, Stream ===

impl Stream {
    /// What was asked is answered, so the connection may end by a reset. A last word each way would cost
    /// time here and there, and for minutes a port and a place in each table of connections on the way.
    pub fn close_at_once(self) {
        let stream = match &self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        // Else it ends in the usual way.
        let _ = stream.set_zero_linger();
    }
}

impl Kept {
    /// Whether the backend has neither closed it nor said anything that nobody asked for.
    pub fn is_silent(&mut self) -> bool {
        self.stream.read(&mut [0]).now_or_never().is_none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
