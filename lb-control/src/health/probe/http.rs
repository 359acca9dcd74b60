//! One HTTP/1.1 request and its answer, read as strictly as proxies read it: a backend whose answers
//! they would refuse is not well.

use std::{io, net::SocketAddr, ops::RangeInclusive, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use lb_http::{
    h1::{BodyDecoder, HeadParser, Limits},
    message::{Method, Response},
};
use lb_proto::encode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout_at,
};

use super::{
    connection::Stream,
    problem::Problem,
    search::{LOOKED_AT, Search},
    verdict::Verdict,
};
use crate::health::probe::USER_AGENT;

/// Of answers.
const LIMITS: Limits = Limits { head: 64 * 1024, fields: 100, target: 16 * 1024 };
/// Most answers fit into so many bytes.
const READ: usize = 1024;
/// Before the final answer; as many as proxies pass.
const MOST_INTERIMS: usize = 16;
/// Of a body with all that is around its chunks, in bytes.
const MOST_RAW: usize = 16 * LOOKED_AT;
/// Once an answer is judged, the rest of it has so long to come. Else its connection is not used again:
/// a new one costs less than what waits meanwhile.
const REST: Duration = Duration::from_millis(10);

/// What is asked for, and which answers pass.
#[derive(Debug)]
pub struct Ask<'a> {
    pub path: &'a str,
    pub statuses: &'a [RangeInclusive<u16>],
    /// The backend's address, if there is none.
    pub host: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub expect_body: &'a str,
}

/// Why there is no answer, or not all of it.
#[derive(Debug)]
pub enum Broken {
    /// There may be one on another connection.
    Closed(Option<io::Error>),
    Malformed(String),
}

impl Ask<'_> {
    /// Returns whether the connection may be used again, which is asked for by `keeps`.
    pub async fn exchange(
        &self,
        stream: &mut Stream,
        address: SocketAddr,
        keeps: bool,
        verdict: &mut Verdict,
    ) -> Result<bool, Broken> {
        stream.write_all(&self.request(address, keeps)).await.map_err(closed)?;
        stream.flush().await.map_err(closed)?;
        let mut bytes = Vec::with_capacity(READ);
        let response = head(stream, &mut bytes).await?;
        let mut search = Search::new(self.expect_body);
        self.judge(response.status, &search, verdict);
        let mut body = BodyDecoder::of_response(response.body);
        let goes_on = keeps && response.keeps_alive();
        let (mut raw, mut payload) = (0, 0);
        loop {
            let decoded = body.decode(&mut bytes).map_err(|error| malformed(&error))?;
            payload += decoded.payload.len();
            search.add(&bytes[decoded.payload]);
            if search.is_found() {
                self.judge(response.status, &search, verdict);
            }
            raw += decoded.consumed;
            bytes.drain(..decoded.consumed);
            let is_enough = verdict.is_said() && !goes_on;
            let is_long = payload >= LOOKED_AT || raw >= MOST_RAW;
            if body.is_end() || is_enough || search.is_over() || is_long {
                break;
            }
            let more = more(stream, &mut bytes);
            let more = match verdict.said_at() {
                Some(at) => match timeout_at((at + REST).into(), more).await {
                    Ok(more) => more?,
                    Err(_) => break,
                },
                None => more.await?,
            };
            if more == 0 {
                body.end().map_err(|error| malformed(&error))?;
                break;
            }
        }
        if !verdict.is_said() {
            let why = format!("status {}, of its body {}", response.status, search.missing());
            verdict.say(Err(Problem::OfBackend(why)));
        }
        Ok(goes_on && body.is_end() && bytes.is_empty())
    }

    /// Says what is certain by now.
    fn judge(&self, status: u16, search: &Search<'_>, verdict: &mut Verdict) {
        if !self.statuses.iter().any(|range| range.contains(&status)) {
            let expected: Vec<_> = self.statuses.iter().map(encode::status_range).collect();
            let expected = expected.join(" or ");
            let why = format!("status {status}, expected {expected}");
            verdict.say(Err(Problem::OfBackend(why)));
        } else if search.is_found() {
            verdict.say(Ok(format!("status {status}")));
        }
    }

    fn request(&self, address: SocketAddr, keeps: bool) -> Vec<u8> {
        let mut request = Vec::with_capacity(256);
        let mut put = |parts: [&[u8]; 3]| parts.iter().for_each(|part| request.extend(*part));
        put([b"GET ", self.path.as_bytes(), b" HTTP/1.1\r\n"]);
        let host = self.host.map_or_else(|| address.to_string(), Into::into);
        let mut ours = |name: HeaderName, value: &[u8]| {
            if !self.headers.contains_key(&name) {
                put([name.as_str().as_bytes(), b": ", value]);
                put([b"\r\n", b"", b""]);
            }
        };
        ours(header::HOST, host.as_bytes());
        ours(header::USER_AGENT, USER_AGENT.as_bytes());
        if !keeps {
            ours(header::CONNECTION, b"close");
        }
        let given =
            self.headers.iter().map(|(name, value)| (name.as_str(), HeaderValue::as_bytes(value)));
        for (name, value) in given {
            put([name.as_bytes(), b": ", value]);
            put([b"\r\n", b"", b""]);
        }
        put([b"\r\n", b"", b""]);
        request
    }
}

/// The final one; what comes behind it stays in `bytes`.
async fn head(stream: &mut Stream, bytes: &mut Vec<u8>) -> Result<Response, Broken> {
    let (mut parser, mut response) = (HeadParser::default(), Response::default());
    let mut interims = 0;
    loop {
        if bytes.is_empty() && more(stream, bytes).await? == 0 {
            return Err(Broken::Closed(None));
        }
        match response.read(&mut parser, bytes, &LIMITS, Method::Get) {
            Ok(None) => {
                if more(stream, bytes).await? == 0 {
                    return Err(Broken::Closed(None));
                }
            }
            Ok(Some(length)) => {
                bytes.drain(..length);
                if !response.is_interim() {
                    return Ok(response);
                }
                interims += 1;
                if interims > MOST_INTERIMS {
                    let why = format!("more than {MOST_INTERIMS} interim answers");
                    return Err(Broken::Malformed(why));
                }
                (parser, response) = (HeadParser::default(), Response::default());
            }
            Err(error) => return Err(malformed(&error)),
        }
    }
}

async fn more(stream: &mut Stream, bytes: &mut Vec<u8>) -> Result<usize, Broken> {
    bytes.reserve(READ);
    stream.read_buf(bytes).await.map_err(closed)
}

fn closed(error: io::Error) -> Broken {
    Broken::Closed(Some(error))
}

fn malformed(error: &dyn std::error::Error) -> Broken {
    Broken::Malformed(error.to_string())
}
