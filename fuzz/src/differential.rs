//! The same bytes to hyper's server, in memory: what one of both takes and the other does not must
//! be for a reason that is named here.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, Version,
    body::Incoming,
    rt::{Read as HyperRead, ReadBufCursor, Write as HyperWrite},
    server::conn::http1,
    service::service_fn,
};
use lb_http::{
    h1::{BodyError, RequestError},
    message::Version as OurVersion,
};

use crate::checks::{
    self, Read,
    requests::{Meaning, Requests},
};

/// A request as hyper has it.
#[derive(Debug)]
struct Theirs {
    method: String,
    /// A path with its query.
    target: String,
    is_absolute: bool,
    version: Version,
    body: Vec<u8>,
    trailers: usize,
    fields: Vec<(String, Vec<u8>)>,
}

impl Theirs {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |(given, _): &&(String, Vec<u8>)| given == name;
        self.fields.iter().filter(is_it).map(|(_, value)| &value[..])
    }
}

/// What hyper says of a connection.
#[derive(Debug, Default)]
struct Served {
    requests: Vec<Theirs>,
    /// Why there are no more.
    error: Option<String>,
}

/// # Errors
/// A difference for no known reason.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    let ours = checks::requests(bytes, crate::seed(bytes));
    let theirs = serve(bytes);
    compare(&ours, &theirs).map_err(|what| {
        format!("{what}\n  here  {ours:?}\n  hyper {theirs:?}\n  {}", bytes.escape_ascii())
    })
}

fn compare(ours: &Requests, theirs: &Served) -> Result<(), String> {
    for (i, read) in ours.iter().enumerate() {
        match (read, theirs.requests.get(i)) {
            (Read::Message(ours), Some(theirs)) => {
                is_same(ours, theirs)?;
                // A proxy that refuses CONNECT ends the connection, and hyper takes what follows for
                // the tunnel's.
                if !ours.keeps_alive || ours.upgrade.is_some() || ours.method == b"CONNECT" {
                    return Ok(());
                }
                // hyper reads none of a `Connection` that is not ASCII, here what of it are options.
                if theirs.all("connection").any(|value| !value.is_ascii()) {
                    return Ok(());
                }
            }
            (Read::Message(_), None) => {
                let error = theirs.error.as_deref().unwrap_or("nothing");
                return match theirs_only(error) {
                    Some(_) => Ok(()),
                    None => Err(format!("taken here, and hyper says: {error}")),
                };
            }
            (_, None) => return Ok(()),
            (Read::Refused(error), Some(_)) => {
                return match refused_only(*error) {
                    Some(_) => Ok(()),
                    None => Err(format!("taken by hyper, and here: {error}")),
                };
            }
            (Read::BadBody(BodyError::Malformed(what)), Some(_)) => {
                return match malformed_only(what) {
                    Some(_) => Ok(()),
                    None => Err(format!("taken by hyper, and here: {what}")),
                };
            }
            (Read::Left(_), Some(_)) => return Ok(()),
            (_, Some(_)) => return Err("taken by hyper, and not complete here".to_owned()),
        }
    }
    match theirs.requests.get(ours.len()) {
        None => Ok(()),
        Some(_) => Err("hyper has one more".to_owned()),
    }
}

/// Why hyper does not take what is taken here, by what it says.
fn theirs_only(error: &str) -> Option<&'static str> {
    Some(match error {
        "invalid HTTP version parsed" => "a minor version above 1 counts as 1 (RFC 9110, 2.5)",
        "invalid URI" => "what RFC 3986 leaves out and all take for the same goes on",
        _ => return None,
    })
}

/// Why a request is not taken here that hyper takes.
fn refused_only(error: RequestError) -> Option<&'static str> {
    let what = match error {
        RequestError::Malformed(what) => what,
        RequestError::Expectation => return Some("hyper leaves it to its user"),
        RequestError::TargetTooLong | RequestError::HeadTooLong => {
            return Some("hyper has one limit for all, of 400 KiB");
        }
        _ => return None,
    };
    Some(match what {
        "a line does not end with CRLF" => "hyper takes LF (RFC 9112, 2.2 leaves a choice)",
        "too many empty lines" => "hyper skips any number",
        "PRI is the beginning of HTTP/2" => "a method like others to hyper",
        "connection has too many options" => "hyper does not look for them",
        "both content-length and transfer-encoding" => "hyper goes by the coding",
        "more than one content-length" => "hyper takes equal ones",
        "the content-length is not a number" => "hyper takes 64 bits",
        "more than one transfer-encoding" | "a transfer coding besides chunked" => {
            "hyper looks at the last coding only"
        }
        "no host"
        | "more than one host"
        | "the host is not a host"
        | "the target's host is not the one in the host field"
        | "the target has user information in it"
        | "the target's host is not a host" => "hyper leaves hosts to its user",
        "the target is neither a path nor an http URL"
        | "the target of a CONNECT is no host and port"
        | "the target has a character that is not allowed there"
        | "the path has an escape that is not allowed there" => "hyper leaves targets to its user",
        _ => return None,
    })
}

/// Why a body is not taken here that hyper takes.
fn malformed_only(what: &str) -> Option<&'static str> {
    Some(match what {
        "a line does not end with CRLF" => "hyper takes LF in trailers",
        "a chunk's size is too long" => "hyper takes 64 bits",
        "a chunk's size is not hexadecimal" => "hyper takes white space behind it",
        "the chunks' extensions are too long" => "hyper takes 16 KiB of them",
        "a chunk's extension has a control character" => "hyper looks for LF only",
        _ => return None,
    })
}

fn is_same(ours: &Meaning, theirs: &Theirs) -> Result<(), String> {
    let what = if ours.method != theirs.method.as_bytes() {
        "method"
    } else if ours.target != theirs.target.as_bytes() && !is_of_server(ours, theirs) {
        "target"
    } else if (ours.version == OurVersion::Http10) != (theirs.version == Version::HTTP_10) {
        "version"
    } else if ours.payload != theirs.body {
        "body"
    } else if theirs.trailers < ours.trailers.len() {
        "trailers"
    } else if !ours.fields.iter().all(|field| has(&theirs.fields, field)) {
        "fields"
    } else {
        return Ok(());
    };
    Err(format!("another {what}: {ours:?} and {theirs:?}"))
}

/// hyper does not say whether an absolute target had a path.
fn is_of_server(ours: &Meaning, theirs: &Theirs) -> bool {
    ours.method == b"OPTIONS" && ours.target == b"*" && theirs.target == "/" && theirs.is_absolute
}

fn has(theirs: &[(String, Vec<u8>)], (name, value): &(Vec<u8>, Vec<u8>)) -> bool {
    theirs.iter().any(|(their_name, their_value)| {
        their_name.as_bytes().eq_ignore_ascii_case(name) && their_value == value
    })
}

/// Lets hyper serve a connection that has these bytes and then ends.
fn serve(bytes: &[u8]) -> Served {
    let requests = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| async {
        if let Some(request) = collect(request).await {
            requests.borrow_mut().push(request);
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut builder = http1::Builder::new();
    builder.half_close(true).auto_date_header(false).header_read_timeout(None);
    let connection = builder.serve_connection(Memory { input: bytes }, service);
    let result = run(connection);
    let error = match result {
        Poll::Ready(Ok(())) => None,
        Poll::Ready(Err(error)) => Some(error.to_string()),
        Poll::Pending => Some("pending".to_owned()),
    };
    Served { requests: requests.into_inner(), error }
}

/// A request with its whole body, if that comes.
async fn collect(request: Request<Incoming>) -> Option<Theirs> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().map_or(0, |trailers| trailers.len());
    let target = parts.uri.path_and_query().map(ToString::to_string);
    let is_absolute = parts.uri.scheme().is_some();
    let fields = parts.headers.iter();
    Some(Theirs {
        method: parts.method.to_string(),
        target: target.unwrap_or_else(|| parts.uri.to_string()),
        is_absolute,
        version: parts.version,
        body: body.to_bytes().to_vec(),
        trailers,
        fields: fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
    })
}

/// Polls until nothing happens any more. All that it waits for is in memory.
fn run<F: Future>(future: F) -> Poll<F::Output> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Poll::Ready(output);
        }
    }
    Poll::Pending
}

/// A connection whose other side sent this and no more, and takes everything.
struct Memory<'a> {
    input: &'a [u8],
}

impl HyperRead for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let (piece, rest) = self.input.split_at(self.input.len().min(buffer.remaining()));
        buffer.put_slice(piece);
        self.input = rest;
        Poll::Ready(Ok(()))
    }
}

impl HyperWrite for Memory<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use lb_fuzz_seeds::text;

    #[test]
    fn the_vectors_differ_for_known_reasons_only() {
        let files = [
            include_str!("../../lb-http/tests/h1/requests/line.txt"),
            include_str!("../../lb-http/tests/h1/requests/target.txt"),
            include_str!("../../lb-http/tests/h1/requests/host.txt"),
            include_str!("../../lb-http/tests/h1/requests/fields.txt"),
            include_str!("../../lb-http/tests/h1/requests/length.txt"),
            include_str!("../../lb-http/tests/h1/requests/chunked.txt"),
            include_str!("../../lb-http/tests/h1/requests/connection.txt"),
            include_str!("../../lb-http/tests/h1/requests/limits.txt"),
        ];
        let vectors = files.iter().flat_map(|file| text::parse(file));
        let differences = vectors.filter_map(|vector| {
            let difference = super::check(&vector.bytes).err()?;
            Some(format!("{}: {}", vector.name, difference.chars().take(600).collect::<String>()))
        });
        let differences: Vec<String> = differences.collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}
