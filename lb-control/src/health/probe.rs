//! One probe of one backend: connect, ask, and say what happened. The thin shell of [`super`].
//!
//! A connection that answered may serve a few probes more. Not for long, because whether the backend
//! takes a new one is part of the question; and what goes wrong with it before there is an answer is
//! concluded from only after a new one was tried. But not silence: half the time is not enough to tell a
//! backend that is slow, and a whole one more would be twice what the check allows.

pub mod connection;
mod grpc;
mod http;
mod problem;
mod search;
mod verdict;

use std::{net::SocketAddr, time::Duration};

use lb_common::{clock, spec::Probe};
use lb_proto::duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout_at,
};

use self::{
    connection::{Kept, Stream, connect, shake},
    http::{Ask, Broken},
    problem::{Problem, describe},
    search::Search,
    verdict::Verdict,
};
use super::{Outcome, asking::Asking};

const USER_AGENT: &str = "lb-health";

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `None` if the probe could not be made: that says nothing about the backend.
    pub outcome: Option<Outcome>,
    /// What happened, like `connection refused` or `status 503, expected 2xx`.
    pub detail: String,
    pub took: Duration,
}

/// Takes no longer than the check's timeout, from the connect to the answer. A new connection is to
/// serve so many probes as `uses` says, this one included; which is returned if it is to serve more,
/// and may.
pub async fn probe(
    address: SocketAddr,
    asking: &Asking,
    kept: Option<Kept>,
    uses: u8,
) -> (Finding, Option<Kept>) {
    let (started, limit) = (clock::now(), asking.check.timeout);
    let mut verdict = Verdict::new();
    let asked = ask(address, asking, kept, uses, &mut verdict);
    let (problem, kept) = match timeout_at((started + limit).into(), asked).await {
        Ok(Ok(kept)) => (None, kept),
        Ok(Err(problem)) => (Some(problem), None),
        Err(_) => (None, None),
    };
    let missing = verdict.missing;
    let late = || format!("{missing} within {}", duration::format(limit));
    let (answer, said) = verdict.into_said().unwrap_or_else(|| {
        let problem = problem.unwrap_or_else(|| Problem::OfBackend(late()));
        (Err(problem), clock::now())
    });
    let (outcome, detail) = match answer {
        Ok(detail) => (Some(Outcome::Pass), detail),
        Err(Problem::OfBackend(detail)) => (Some(Outcome::Fail), detail),
        Err(Problem::Ours(detail)) => (None, format!("not checked: {detail}")),
    };
    (Finding { outcome, detail, took: said - started }, kept)
}

async fn ask(
    address: SocketAddr,
    asking: &Asking,
    kept: Option<Kept>,
    uses: u8,
    verdict: &mut Verdict,
) -> Result<Option<Kept>, Problem> {
    let ask = match &asking.check.probe {
        Probe::Http { path, statuses, host, headers, expect_body } => {
            Ask { path, statuses, host: host.as_deref(), headers, expect_body }
        }
        Probe::Tcp { send, expect } => {
            let mut stream = open(address, asking, verdict).await?;
            verdict.say(converse(&mut stream, address, send, expect).await);
            return Ok(None);
        }
        Probe::Grpc { service, host } => {
            let stream = open(address, asking, verdict).await?;
            let scheme = if asking.tls.is_some() { "https" } else { "http" };
            let host = host.as_deref().map_or_else(|| address.to_string(), Into::into);
            let origin = format!("{scheme}://{host}");
            // In a box, because most do without.
            verdict.say(Box::pin(grpc::ask(address, stream, service, &origin)).await);
            return Ok(None);
        }
    };
    if let Some(mut kept) = kept
        && kept.is_silent()
    {
        match exchange(&ask, address, kept, verdict).await {
            Err(Broken::Closed(_)) if !verdict.is_said() => {}
            exchanged => return exchanged.map_err(|broken| broken.describe(address)),
        }
    }
    let new = Kept { stream: open(address, asking, verdict).await?, uses };
    exchange(&ask, address, new, verdict).await.map_err(|broken| broken.describe(address))
}

/// Uses a connection once more. Returns it if it may be used again.
async fn exchange(
    ask: &Ask<'_>,
    address: SocketAddr,
    mut kept: Kept,
    verdict: &mut Verdict,
) -> Result<Option<Kept>, Broken> {
    kept.uses = kept.uses.saturating_sub(1);
    let is_good = ask.exchange(&mut kept.stream, address, kept.uses > 0, verdict).await?;
    if is_good {
        return Ok(Some(kept));
    }
    kept.stream.close_at_once();
    Ok(None)
}

async fn open(
    address: SocketAddr,
    asking: &Asking,
    verdict: &mut Verdict,
) -> Result<Stream, Problem> {
    // A server that speaks first, or is not spoken to, is to see the connection at once.
    let is_silent = matches!(&asking.check.probe, Probe::Tcp { send, .. } if send.is_empty());
    let speaks_first = asking.tls.is_some() || !is_silent;
    let stream = connect(address, asking.proxy_protocol, speaks_first).await?;
    let Some(tls) = &asking.tls else { return Ok(Stream::Plain(stream)) };
    verdict.missing = "TLS: no handshake";
    let stream = Box::pin(shake(address, stream, tls)).await?;
    verdict.missing = "no answer";
    Ok(stream)
}

/// Says something and waits for what is expected, as far as either is wanted.
async fn converse(
    stream: &mut Stream,
    address: SocketAddr,
    send: &str,
    expect: &str,
) -> Result<String, Problem> {
    let failed = |error| describe(&error, address);
    if !send.is_empty() {
        stream.write_all(send.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
    }
    if expect.is_empty() {
        return Ok("connected".into());
    }
    let mut search = Search::new(expect);
    let mut bytes = [0; 1024];
    while !search.is_found() {
        let read = stream.read(&mut bytes).await.map_err(failed)?;
        search.add(&bytes[..read]);
        if (read == 0 || search.is_over()) && !search.is_found() {
            return Err(Problem::OfBackend(search.missing()));
        }
    }
    Ok(format!("answered {expect:?}"))
}

// === impl Broken ===

impl Broken {
    fn describe(self, address: SocketAddr) -> Problem {
        match self {
            Self::Closed(Some(error)) => describe(&error, address),
            Self::Closed(None) => Problem::OfBackend("connection closed without an answer".into()),
            Self::Malformed(why) => Problem::OfBackend(why),
        }
    }
}
#[cfg(test)]
mod tests;
