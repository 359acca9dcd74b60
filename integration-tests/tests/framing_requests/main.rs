//! Which requests a proxy passes on, how, and which it refuses: RFC 9110 and 9112 as real bytes.
//!
//! Every case is followed on its connection by `GET /after`, which asks for the end. So nothing has
//! to be waited for: what is refused ends the connection, and `/after` is not served; what is passed
//! on is answered, and so is `/after`. Each case is sent twice, whole and byte by byte, and a client
//! of its own is served after it.

use integration_tests::{
    backend::{Backend, Reply, Seen},
    client::{self, Response},
    exchange::{End, Pieces, exchange},
    fleet::{Fleet, app, listening},
    wire::{Fields, Framing},
};

mod bodies;
mod fields;
mod hosts;
mod lines;
mod targets;

const AFTER: &str = "GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const SEEN_AFTER: &str = "GET /after HTTP/1.1 | Host: a";

/// A request, and what is to come of it.
struct Case {
    bytes: Vec<u8>,
    expect: Expect,
}

#[derive(Debug)]
enum Expect {
    /// One of these answers of the proxy's own, and then the end. No backend gets a byte.
    Refused(&'static [u16]),
    /// The same, because of the body: of the request, a backend may have seen a beginning. A proxy
    /// that had passed on an answer by then only ends the connection.
    Cut(&'static [u16]),
    /// The proxy's own answer, and the connection goes on.
    Answered(u16),
    /// A backend gets this, as [`describe`] has it, and the connection goes on.
    Passed(String),
    /// A backend gets this, and the connection ends with the answer.
    PassedLast(String),
}

/// A proxy before a backend that keeps every byte.
struct Bench {
    fleet: Fleet,
    backend: Backend,
    wrong: Vec<String>,
}

fn refused(bytes: impl Into<Vec<u8>>) -> Case {
    Case { bytes: bytes.into(), expect: Expect::Refused(&[400]) }
}

fn refused_with(status: &'static [u16], bytes: impl Into<Vec<u8>>) -> Case {
    Case { bytes: bytes.into(), expect: Expect::Refused(status) }
}

fn cut(bytes: impl Into<Vec<u8>>) -> Case {
    Case { bytes: bytes.into(), expect: Expect::Cut(&[400]) }
}

fn passed(bytes: impl Into<Vec<u8>>, seen: impl Into<String>) -> Case {
    Case { bytes: bytes.into(), expect: Expect::Passed(seen.into()) }
}

fn passed_last(bytes: impl Into<Vec<u8>>, seen: impl Into<String>) -> Case {
    Case { bytes: bytes.into(), expect: Expect::PassedLast(seen.into()) }
}

/// `GET / HTTP/1.1` with these bytes as further lines.
fn get_with(lines: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: a\r\n", lines.as_ref(), b"\r\n\r\n"].concat()
}

/// A request in one line: what it is, its fields without those that a proxy adds, and its body.
fn describe(seen: &Seen) -> String {
    let ours =
        ["via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];
    let framing = ["content-length", "transfer-encoding", "trailer"];
    let mut text = seen.head.start.clone();
    for (name, value) in &seen.head.fields.0 {
        // It is written anew, so how its name is spelt is free.
        let name = if name.eq_ignore_ascii_case("host") { "Host" } else { name };
        if !ours.iter().chain(&framing).any(|other| name.eq_ignore_ascii_case(other)) {
            text.push_str(&format!(" | {name}: {value}"));
        }
    }
    match seen.head.request_framing() {
        // Both say that there is none.
        Ok(Framing::None | Framing::Length(0)) => {}
        Ok(Framing::Chunked) => text.push_str(&format!(" | chunked {:?}", seen.body.text())),
        Ok(framing) => text.push_str(&format!(" | {framing:?} {:?}", seen.body.text())),
        Err(error) => text.push_str(&format!(" | {error}")),
    }
    for (name, value) in &seen.body.trailers.0 {
        text.push_str(&format!(" + {name}: {value}"));
    }
    text
}

/// What must be true of every request that reaches a backend.
fn check_added(seen: &Seen) -> Result<(), String> {
    let fields = &seen.head.fields;
    let first = fields.0.first().map(|(name, _)| name.to_ascii_lowercase());
    let expect = |what: &str, holds: bool| match holds {
        true => Ok(()),
        false => Err(format!("{what}: {fields:?}")),
    };
    expect("Host is first, and once", {
        first.as_deref() == Some("host") && fields.all("host").len() == 1
    })?;
    expect("the client's address is told", fields.all("x-forwarded-for") == ["127.0.0.1"])?;
    expect("its protocol is told", fields.all("x-forwarded-proto") == ["http"])?;
    let hosts = [fields.all("x-forwarded-host"), fields.all("host")];
    expect("its host is told", hosts[0].is_empty() || hosts[0] == hosts[1])?;
    let via = fields.all("via");
    expect("the way is told", via.last().is_some_and(|via| via.ends_with(" lb")))
}

/// What must be true of every refusal.
fn check_refusal(answer: &Response, expected: &[u16]) -> Result<(), String> {
    let is = |what: &str, holds: bool| match holds {
        true => Ok(()),
        false => Err(format!("{what}: {answer:?}")),
    };
    is(&format!("it is answered with {expected:?}"), expected.contains(&answer.status()))?;
    is("the answer says that the connection ends", answer.fields().all("connection") == ["close"])?;
    let error = answer.proxy_error().unwrap_or_default();
    is("the answer says why", error.starts_with("http_") || answer.status() == 505)?;
    let details = answer.header("proxy-status").is_some_and(|status| status.contains("details="));
    is("with details", details)?;
    is("405 says what is allowed", answer.status() != 405 || answer.fields().has("allow"))
}

// === impl Bench ===

impl Bench {
    async fn start() -> Self {
        let backend = Backend::recording(|_| Reply::ok("ok")).await;
        // What hangs is told 408, which nobody here expects.
        let spec = listening(&app("", "", &[backend.address()]), "header_timeout = '5s'");
        let fleet = Fleet::start(1, &spec).await;
        Self { fleet, backend, wrong: Vec::new() }
    }

    async fn run(mut self, cases: Vec<Case>) {
        for case in &cases {
            for pieces in [Pieces::Whole, Pieces::Bytes] {
                if pieces == Pieces::Bytes && case.bytes.len() > 1_000 {
                    continue;
                }
                if let Err(why) = self.check(case, pieces).await {
                    let text: String =
                        case.bytes.escape_ascii().to_string().chars().take(300).collect();
                    self.wrong.push(format!("\"{text}\" ({pieces:?})\n    {why}"));
                }
            }
        }
        self.fleet.nothing_is_left().await;
        let (wrong, count) = (&self.wrong, cases.len());
        assert!(wrong.is_empty(), "{} of {count}, twice:\n{}", wrong.len(), wrong.join("\n"));
    }

    async fn check(&self, case: &Case, pieces: Pieces) -> Result<(), String> {
        let web = self.fleet.proxies[0].web();
        let (requests, bytes) = (self.backend.count(), self.bytes());
        let all = [&case.bytes[..], AFTER.as_bytes()].concat();
        let exchange = exchange(web, &all, pieces).await;
        let reached = self.bytes() - bytes;
        let seen: Vec<_> = self.backend.requests().split_off(requests);
        let next = client::get(web, "/next").await;
        if next.status() != 200 {
            return Err(format!("the next client is not served: {next:?}"));
        }

        if exchange.end != End::Closed {
            return Err(format!("it ended {:?} after {:?}", exchange.end, exchange.text()));
        }
        let to_head = case.bytes.starts_with(b"HEAD ");
        let answers = exchange.answers(&[to_head]).await?;
        let lines: Vec<_> = seen.iter().map(describe).collect();
        let (statuses, expected): (Vec<_>, Vec<String>) = match &case.expect {
            Expect::Refused(status) | Expect::Cut(status) => {
                let [answer] = &answers[..] else {
                    return Err(format!("not one answer: {answers:?}; a backend saw {lines:?}"));
                };
                check_refusal(answer, status)?;
                if reached > 0 && matches!(case.expect, Expect::Refused(_)) {
                    return Err(format!("a backend got {reached} bytes, {lines:?}"));
                }
                (vec![answer.status()], vec![])
            }
            Expect::Answered(status) => (vec![*status, 200], vec![SEEN_AFTER.into()]),
            Expect::Passed(seen) => (vec![200, 200], vec![seen.clone(), SEEN_AFTER.into()]),
            Expect::PassedLast(seen) => (vec![200], vec![seen.clone()]),
        };
        let got: Vec<_> = answers.iter().map(Response::status).collect();
        if matches!(case.expect, Expect::Answered(_)) && !answers[0].fields().has("allow") {
            return Err(format!("it does not say what is allowed: {:?}", answers[0]));
        }
        if got != statuses || lines != expected {
            let got = format!("answers {got:?}, a backend saw {lines:?}");
            return Err(format!("expected answers {statuses:?} and {expected:?};\n    {got}"));
        }
        seen.iter().try_for_each(check_added)
    }

    fn bytes(&self) -> usize {
        self.backend.received().iter().map(Vec::len).sum()
    }
}

#[test]
fn a_request_is_described_with_all_that_matters() {
    let fields = [("Host", "a"), ("Via", "1.1 lb"), ("X", "1"), ("Content-Length", "2")];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let head =
        integration_tests::wire::Head { start: "PUT / HTTP/1.1".into(), fields: Fields(fields) };
    let body = integration_tests::wire::Body { bytes: b"hi".to_vec(), trailers: Fields::default() };
    let seen = Seen { connection: 0, head, body };
    assert_eq!(describe(&seen), "PUT / HTTP/1.1 | Host: a | X: 1 | Length(2) \"hi\"");
}
