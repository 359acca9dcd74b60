//! One probe of one backend: connect, ask, and say what happened. The thin shell of [`super`].
//!
//! Each probe has a connection of its own, because whether the backend takes one is the question.

use std::{
    error::Error, future::ready, io, net::SocketAddr, ops::RangeInclusive, pin::pin, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use lb_common::{
    clock,
    shortage::is_shortage,
    spec::{HealthCheck, Probe, ProxyVersion},
};
use lb_prelude::proxy_protocol::{self, Addresses, Tlvs, Version};
use lb_proto::{duration, encode};
use lb_tls::fault::Fault;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;

use super::{Outcome, tls::ProbeTls};

const USER_AGENT: &str = "lb-health";
/// Before what is wrong with it.
const TLS: &str = "TLS: ";

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `None` if the probe could not be made: that says nothing about the backend.
    pub outcome: Option<Outcome>,
    /// What happened, like `connection refused` or `status 503, expected 2xx`.
    pub detail: String,
    pub took: Duration,
}

/// What a probe may take.
#[derive(Clone, Copy)]
struct Time {
    end: tokio::time::Instant,
    limit: Duration,
}

/// Why a probe brought nothing good.
#[derive(Debug)]
enum Problem {
    OfBackend(String),
    /// This process is short of something.
    Ours(String),
}

/// Takes no longer than the check's timeout, from the connect to the answer.
pub async fn probe(
    address: SocketAddr,
    check: &HealthCheck,
    proxy_protocol: Option<ProxyVersion>,
    tls: Option<&ProbeTls>,
) -> Finding {
    let started = clock::now();
    let time = Time { end: (started + check.timeout).into(), limit: check.timeout };
    let asking = async {
        let stream = time.bound("no answer", connect(address, proxy_protocol)).await?;
        match tls {
            None => time.bound("no answer", ask(address, stream, "http", &check.probe)).await,
            Some(tls) => {
                let stream = time.bound("TLS: no handshake", shake(address, stream, tls)).await?;
                time.bound("no answer", ask(address, stream, "https", &check.probe)).await
            }
        }
    };
    let answer = asking.await;
    let took = clock::now() - started;
    let (outcome, detail) = match answer {
        Ok(detail) => (Some(Outcome::Pass), detail),
        Err(Problem::OfBackend(detail)) => (Some(Outcome::Fail), detail),
        Err(Problem::Ours(detail)) => (None, format!("not checked: {detail}")),
    };
    Finding { outcome, detail, took }
}

async fn ask(
    address: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    scheme: &str,
    probe: &Probe,
) -> Result<String, Problem> {
    match probe {
        Probe::Tcp => Ok("connected".into()),
        Probe::Http { path, statuses, host, headers } => {
            let request =
                request(address, path, host.as_deref(), headers).map_err(Problem::OfBackend)?;
            ask_http(address, stream, request, statuses).await
        }
        Probe::Grpc { service, host } => {
            let host = host.as_deref().map_or_else(|| address.to_string(), Into::into);
            ask_grpc(address, stream, service, &format!("{scheme}://{host}")).await
        }
    }
}

impl Time {
    /// `missing` is what there will be nothing of when it is over.
    async fn bound<T>(
        self,
        missing: &str,
        future: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let late = || format!("{missing} within {}", duration::format(self.limit));
        let bound = tokio::time::timeout_at(self.end, future).await;
        bound.unwrap_or_else(|_| Err(Problem::OfBackend(late())))
    }
}

async fn connect(
    address: SocketAddr,
    proxy_protocol: Option<ProxyVersion>,
) -> Result<TcpStream, Problem> {
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        if let Some(version) = proxy_protocol {
            stream.write_all(&own_header(version, &stream)?).await?;
        }
        Ok(stream)
    };
    connecting.await.map_err(|error: io::Error| describe(&error, address))
}

async fn shake(
    address: SocketAddr,
    stream: TcpStream,
    tls: &ProbeTls,
) -> Result<TlsStream<TcpStream>, Problem> {
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
    Ok(stream)
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

fn request(
    address: SocketAddr,
    path: &str,
    host: Option<&str>,
    headers: &HeaderMap,
) -> Result<Request<Empty<Bytes>>, String> {
    let host = host.map_or_else(|| address.to_string(), Into::into);
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in headers {
        request.headers_mut().insert(name, value.clone());
    }
    Ok(request)
}

async fn ask_http(
    address: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    statuses: &[RangeInclusive<u16>],
) -> Result<String, Problem> {
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|error| describe(&error, address))?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // It may end in the same instant that it delivers the answer.
        _ = connection => response.await,
    };
    let status = response.map_err(|error| describe(&error, address))?.status().as_u16();
    if statuses.iter().any(|range| range.contains(&status)) {
        return Ok(format!("status {status}"));
    }
    let expected: Vec<_> = statuses.iter().map(encode::status_range).collect();
    Err(Problem::OfBackend(format!("status {status}, expected {}", expected.join(" or "))))
}

async fn ask_grpc(
    address: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: &str,
    origin: &str,
) -> Result<String, Problem> {
    let invalid = |error: &dyn Error| Problem::OfBackend(error.to_string());
    let origin = origin.parse().map_err(|error| invalid(&error))?;
    // Whatever this says, the connection is there, and the origin is what is asked for.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|error| invalid(&error))?
        .origin(origin);
    let mut io = Some(TokioIo::new(stream));
    let connector = service_fn(move |_: Uri| {
        ready(io.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|error| describe(&error, address))?;
    let request = HealthCheckRequest { service: service.into() };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => match response.into_inner().status() {
            ServingStatus::Serving => Ok("SERVING".into()),
            other => Err(Problem::OfBackend(format!("{}, expected SERVING", other.as_str_name()))),
        },
        Err(status) if status.source().is_some() => Err(describe(&status, address)),
        Err(status) => Err(Problem::OfBackend(format!("{}: {}", status.code(), status.message()))),
    }
}

/// The cause that people know by name: libraries wrap it in several layers of their own.
fn describe(error: &(dyn Error + 'static), to: SocketAddr) -> Problem {
    let mut cause = error;
    loop {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            if is_shortage(error, to) {
                return Problem::Ours(error.to_string());
            }
            let inner = error.get_ref();
            if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return match Fault::of(error) {
                    Fault::Ours(why) => Problem::Ours(format!("{TLS}{why}")),
                    fault => Problem::OfBackend(format!("{TLS}{fault}")),
                };
            }
            if let Some(known) = describe_io(error) {
                return Problem::OfBackend(known.into());
            }
        }
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && error.is_incomplete_message()
        {
            return Problem::OfBackend("connection closed without an answer".into());
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return Problem::OfBackend(cause.to_string()),
        }
    }
}

fn describe_io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("connection refused"),
        io::ErrorKind::ConnectionReset => Some("connection reset"),
        io::ErrorKind::HostUnreachable => Some("host unreachable"),
        io::ErrorKind::NetworkUnreachable => Some("network unreachable"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::health::tests::check_of;

    /// A backend that reads one request, remembers it and answers with `answer`, or never.
    async fn backend(
        answer: Option<&'static [u8]>,
    ) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("the probe connects");
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.expect("the probe asks");
            request.truncate(n);
            match answer {
                Some(answer) => stream.write_all(answer).await.expect("the probe listens"),
                None => drop(stream.read(&mut [0; 64]).await),
            }
            String::from_utf8(request).expect("is text")
        });
        (address, task)
    }

    fn http(path: &str) -> HealthCheck {
        let mut headers = HeaderMap::new();
        headers.insert("x-probe", HeaderValue::from_static("1"));
        let probe = Probe::Http {
            path: path.into(),
            statuses: vec![200..=299, 304..=304],
            host: Some("app.test".into()),
            headers,
        };
        HealthCheck { probe, timeout: Duration::from_secs(5), ..check_of(1, 1) }
    }

    async fn check_answer(answer: &'static [u8], outcome: Outcome, detail: &str) {
        let (address, _task) = backend(Some(answer)).await;
        let finding = probe(address, &http("/up"), None, None).await;
        assert_eq!((finding.outcome, finding.detail.as_str()), (Some(outcome), detail));
    }

    #[tokio::test]
    async fn the_status_decides() {
        check_answer(b"HTTP/1.1 204 No Content\r\n\r\n", Outcome::Pass, "status 204").await;
        check_answer(b"HTTP/1.1 304 Not Modified\r\n\r\n", Outcome::Pass, "status 304").await;
        let unavailable = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        check_answer(unavailable, Outcome::Fail, "status 503, expected 2xx or 304").await;
        check_answer(b"", Outcome::Fail, "connection closed without an answer").await;
    }

    #[tokio::test]
    async fn the_request_is_what_the_check_says() {
        let (address, task) = backend(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
        probe(address, &http("/up?deep=1"), None, None).await;
        let request = task.await.expect("got a request").to_ascii_lowercase();
        for expected in [
            "get /up?deep=1 http/1.1\r\n",
            "host: app.test\r\n",
            "user-agent: lb-health\r\n",
            "x-probe: 1\r\n",
        ] {
            assert!(request.contains(expected), "{expected:?} in {request:?}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        drop(listener);
        let grpc = Probe::Grpc { service: String::new(), host: None };
        for probe_kind in [http("/").probe, Probe::Tcp, grpc] {
            let check = HealthCheck { probe: probe_kind, ..http("/") };
            let finding = probe(address, &check, None, None).await;
            assert_eq!(finding.detail, "connection refused", "{:?}", check.probe);
            assert_eq!(finding.outcome, Some(Outcome::Fail));
        }

        let (address, _task) = backend(None).await;
        let check = HealthCheck { timeout: Duration::from_millis(30), ..http("/") };
        assert_eq!(probe(address, &check, None, None).await.detail, "no answer within 30ms");
    }

    #[tokio::test]
    async fn a_connect_is_enough_for_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let finding = probe(address, &check_of(1, 1), None, None).await;
        assert_eq!((finding.outcome, finding.detail.as_str()), (Some(Outcome::Pass), "connected"));
    }

    #[test]
    fn what_this_process_is_short_of_is_found_below_what_libraries_make_of_it() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        let wrapped = io::Error::other(tonic::Status::from_error(error(Errno::MFILE).into()));
        assert!(matches!(describe(&wrapped, here), Problem::Ours(_)));
        let refused = tonic::Status::from_error(error(Errno::CONNREFUSED).into());
        assert!(
            matches!(describe(&refused, here), Problem::OfBackend(what) if what == "connection refused")
        );
    }

    #[tokio::test]
    async fn grpc_asks_for_the_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
        );
        let cases = [
            ("", Outcome::Pass, "SERVING"),
            ("up", Outcome::Pass, "SERVING"),
            ("down", Outcome::Fail, "NOT_SERVING, expected SERVING"),
            ("else", Outcome::Fail, "Some requested entity was not found: service not registered"),
        ];
        for (service, outcome, detail) in cases {
            let grpc = Probe::Grpc { service: service.into(), host: None };
            let finding =
                probe(address, &HealthCheck { probe: grpc, ..http("/") }, None, None).await;
            assert_eq!((finding.outcome, finding.detail.as_str()), (Some(outcome), detail));
        }
    }
}
