//! `lb backend`: a server to balance over. It says who it is, and can be slow, fail and be sick on
//! request.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context;

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_common::drain::{self, Drain};
use tokio::{net::TcpStream, task::JoinSet};

use crate::flags;

/// Answer every request with a name: a server to balance over, for trying things out
///
/// /health is its health check, /health/off and /health/on set what that answers, /slow?ms=500 takes
/// so long, /status/503 answers with that status, and every other path says who answered.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Where it accepts
    #[arg(long, env = "LB_LISTEN", value_name = "ADDR", value_parser = flags::address)]
    listen: SocketAddr,

    /// Who it says it is
    #[arg(long, env = "LB_NAME", value_name = "NAME", default_value = "backend")]
    name: String,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  a signal came, and requests that were under way finished
  1  could not start
  2  wrong usage

Examples:
  lb backend --listen 127.0.0.1:3001
  lb backend --listen 0.0.0.0:3002 --name blue";

const MAX_SLOWNESS: Duration = Duration::from_secs(60);
/// How long requests have to finish after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Backend {
    name: String,
    /// What its health check answers. Nobody decides anything else by it.
    healthy: AtomicBool,
}

/// # Errors
/// If it cannot listen.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { listen, name } = args;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on --listen {listen}"))?;
        let mut signals = drain::Signals::new().context("cannot handle signals")?;
        crate::print(&format!("lb backend: {name} serves on {}\n", socket.local_addr()?));
        let (trigger, drain) = drain::channel();
        let mut serving = pin!(serve(Arc::new(Backend::new(name)), socket, drain));
        tokio::select! {
            () = &mut serving => return Ok(ExitCode::SUCCESS),
            _ = signals.next() => trigger.start(),
        }
        tokio::select! {
            _ = tokio::time::timeout(END_TIMEOUT, serving) => Ok(ExitCode::SUCCESS),
            stop = signals.next() => Ok(stop.exit_code().into()),
        }
    })
}

/// Starts so many backends on free ports of the loopback interface, in a thread of their own: load
/// on them does not slow the controller's probes. They end with the process.
///
/// # Errors
/// Those of the system.
pub fn start(count: usize) -> io::Result<Vec<SocketAddr>> {
    let sockets: Vec<TcpListener> = (0..count)
        .map(|_| {
            let socket = TcpListener::bind(flags::loopback(0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect::<io::Result<_>>()?;
    let addresses = sockets.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo-backends".into()).spawn(move || {
        runtime.block_on(async {
            let (_never, drain) = drain::channel();
            for (i, socket) in sockets.into_iter().enumerate() {
                let backend = Arc::new(Backend::new(format!("backend {}", i + 1)));
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => drop(tokio::spawn(serve(backend, socket, drain.clone()))),
                    Err(error) => tracing::error!(backend.name, %error, "cannot serve"),
                }
            }
            std::future::pending::<()>().await;
        });
    })?;
    Ok(addresses)
}

/// Until the drain starts, and then until every request that is under way has its answer.
async fn serve(backend: Arc<Backend>, socket: tokio::net::TcpListener, mut drain: Drain) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = drain.started() => break,
            Some(_) = connections.join_next() => continue,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(Arc::clone(&backend), stream, drain.clone()));
            }
            Err(error) => {
                tracing::warn!(backend.name, %error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

async fn connection(backend: Arc<Backend>, stream: TcpStream, mut drain: Drain) {
    let Ok(address) = stream.local_addr() else { return };
    let answer = service_fn(|request: Request<Incoming>| {
        let backend = Arc::clone(&backend);
        async move { Ok::<_, Infallible>(backend.answer(request.uri(), address).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), answer)
    );
    // How a connection ends is its client's business.
    tokio::select! {
        _ = &mut connection => return,
        () = drain.started() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

// === impl Backend ===

impl Backend {
    fn new(name: String) -> Self {
        Self { name, healthy: AtomicBool::new(true) }
    }

    /// `address` is where the request came in.
    async fn answer(&self, uri: &http::Uri, address: SocketAddr) -> Response<String> {
        let (status, text) = match uri.path() {
            "/health" if self.healthy.load(Ordering::Relaxed) => (StatusCode::OK, "healthy".into()),
            "/health" => (StatusCode::SERVICE_UNAVAILABLE, "sick".into()),
            "/health/off" => self.set_healthy(false),
            "/health/on" => self.set_healthy(true),
            "/slow" => {
                tokio::time::sleep(slowness(uri.query().unwrap_or_default())).await;
                (StatusCode::OK, format!("{}, slowly", self.hello(address)))
            }
            path => match path.strip_prefix("/status/").and_then(status) {
                Some(status) => (status, format!("{status} from {}", self.name)),
                None => (StatusCode::OK, self.hello(address)),
            },
        };
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    }

    fn set_healthy(&self, healthy: bool) -> (StatusCode, String) {
        self.healthy.store(healthy, Ordering::Relaxed);
        let now = if healthy { "healthy" } else { "sick" };
        (StatusCode::OK, format!("{} now calls itself {now}", self.name))
    }

    fn hello(&self, address: SocketAddr) -> String {
        format!("hello from {} ({address})", self.name)
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
        let backend = Backend::new("backend 2".into());
        let address = flags::loopback(3002);
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
            let response = backend.answer(&path.parse().expect("a path"), address).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.body(), body, "{path}");
        }
    }
}
