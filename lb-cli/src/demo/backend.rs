//! A server to balance over: says who it is, and can be slow, fail and be sick on request.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

const MAX_SLOWNESS: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Backend {
    /// From 1.
    number: usize,
    address: SocketAddr,
    /// What its health check answers. Nobody decides anything else by it.
    healthy: AtomicBool,
}

/// Starts so many backends on free ports of the loopback interface, in a thread of their own: load
/// on them does not slow the controller's probes. They end with the process.
///
/// # Errors
/// Those of the system.
pub fn start(count: usize) -> io::Result<Vec<SocketAddr>> {
    let sockets: Vec<TcpListener> = (0..count)
        .map(|_| {
            let socket = TcpListener::bind(crate::flags::loopback(0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect::<io::Result<_>>()?;
    let addresses = sockets.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serving = addresses.clone();
    thread::Builder::new().name("demo-backends".into()).spawn(move || {
        runtime.block_on(async {
            for (i, (socket, address)) in sockets.into_iter().zip(serving).enumerate() {
                let backend = Backend { number: i + 1, address, healthy: AtomicBool::new(true) };
                tokio::spawn(serve(Arc::new(backend), socket));
            }
            std::future::pending::<()>().await;
        });
    })?;
    Ok(addresses)
}

async fn serve(backend: Arc<Backend>, socket: TcpListener) {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(number = backend.number, %error, "cannot serve"),
    };
    loop {
        match socket.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(Arc::clone(&backend), stream))),
            Err(error) => {
                tracing::warn!(number = backend.number, %error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(backend: Arc<Backend>, stream: TcpStream) {
    let answer = service_fn(|request: Request<Incoming>| {
        let backend = Arc::clone(&backend);
        async move { Ok::<_, Infallible>(backend.answer(request.uri()).await) }
    });
    // How a connection ends is its client's business.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

// === impl Backend ===

impl Backend {
    async fn answer(&self, uri: &http::Uri) -> Response<String> {
        let (status, text) = match uri.path() {
            "/health" if self.healthy.load(Ordering::Relaxed) => (StatusCode::OK, "healthy".into()),
            "/health" => (StatusCode::SERVICE_UNAVAILABLE, "sick".into()),
            "/health/off" => self.set_healthy(false),
            "/health/on" => self.set_healthy(true),
            "/slow" => {
                tokio::time::sleep(slowness(uri.query().unwrap_or_default())).await;
                (StatusCode::OK, format!("{}, slowly", self.hello()))
            }
            path => match path.strip_prefix("/status/").and_then(status) {
                Some(status) => (status, format!("{status} from backend {}", self.number)),
                None => (StatusCode::OK, self.hello()),
            },
        };
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    }

    fn set_healthy(&self, healthy: bool) -> (StatusCode, String) {
        self.healthy.store(healthy, Ordering::Relaxed);
        let now = if healthy { "healthy" } else { "sick" };
        (StatusCode::OK, format!("backend {} now calls itself {now}", self.number))
    }

    fn hello(&self) -> String {
        format!("hello from backend {} ({})", self.number, self.address)
    }
}

/// `ms=250`; anything else is half a second.
fn slowness(query: &str) -> Duration {
    let ms = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok()).unwrap_or(500);
    Duration::from_millis(ms).min(MAX_SLOWNESS)
}

/// Final statuses only.
fn status(text: &str) -> Option<StatusCode> {
    let status = text.parse::<u16>().ok().filter(|status| (200..600).contains(status))?;
    StatusCode::from_u16(status).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backend_answers_what_it_is_asked_for() {
        let backend = Backend {
            number: 2,
            address: crate::flags::loopback(3002),
            healthy: AtomicBool::new(true),
        };
        let cases = [
            ("/", 200, "hello from backend 2 (127.0.0.1:3002)\n"),
            ("/any/path?q", 200, "hello from backend 2 (127.0.0.1:3002)\n"),
            ("/slow?ms=1", 200, "hello from backend 2 (127.0.0.1:3002), slowly\n"),
            ("/status/503", 503, "503 Service Unavailable from backend 2\n"),
            ("/status/100", 200, "hello from backend 2 (127.0.0.1:3002)\n"),
            ("/health", 200, "healthy\n"),
            ("/health/off", 200, "backend 2 now calls itself sick\n"),
            ("/health", 503, "sick\n"),
            ("/health/on", 200, "backend 2 now calls itself healthy\n"),
            ("/health", 200, "healthy\n"),
        ];
        for (path, status, body) in cases {
            let response = backend.answer(&path.parse().expect("a path")).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.body(), body, "{path}");
        }
    }
}
