//! Which of a backend's answers a client gets, how, and what becomes of the backend's connection:
//! RFC 9110 and 9112 as real bytes.
//!
//! Each case is asked for, and then `/ok` is, on the same connections if the proxy keeps them. So
//! the connection that `/ok` comes on says whether the one before was kept.

use std::sync::{Arc, Mutex};

use integration_tests::{
    backend::{Backend, Reply},
    client::Response,
    exchange::{End, Exchange, Pieces, exchange},
    fleet::{Fleet, app},
    wire::Framing,
};

mod bad;
mod old_clients;
mod passed;

/// What a backend sends, and what is to come of it.
struct Case {
    method: &'static str,
    bytes: Vec<u8>,
    /// Whether it closes after that.
    closes: bool,
    expect: Expect,
}

#[derive(Debug)]
enum Expect {
    /// 502 instead of it, and nothing more on the backend's connection.
    Bad,
    /// What the body breaks off for. A client that got the head must not take it for all.
    Broken,
    /// A client gets this, as [`describe`] has it.
    Passed { text: String, reused: bool },
}

/// A proxy before a backend that sends what a case says.
struct Bench {
    fleet: Fleet,
    backend: Backend,
    script: Arc<Mutex<(Vec<u8>, bool)>>,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn bad(bytes: impl Into<Vec<u8>>) -> Case {
    Case { method: "GET", bytes: bytes.into(), closes: false, expect: Expect::Bad }
}

fn broken(bytes: impl Into<Vec<u8>>) -> Case {
    Case { method: "GET", bytes: bytes.into(), closes: false, expect: Expect::Broken }
}

/// Passed on, and the connection is used again.
fn kept(bytes: impl Into<Vec<u8>>, text: impl Into<String>) -> Case {
    let expect = Expect::Passed { text: text.into(), reused: true };
    Case { method: "GET", bytes: bytes.into(), closes: false, expect }
}

/// Passed on, and the connection is not used again.
fn left(bytes: impl Into<Vec<u8>>, text: impl Into<String>) -> Case {
    let expect = Expect::Passed { text: text.into(), reused: false };
    Case { method: "GET", bytes: bytes.into(), closes: false, expect }
}

fn ok_with(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}").into_bytes()
}

/// An answer in one line: what it is, its fields without those that a proxy adds, and its body.
fn describe(answer: &Response, to_head: bool) -> String {
    let ours = ["via", "date", "content-length", "transfer-encoding", "trailer"];
    let mut text = String::new();
    for interim in &answer.informational {
        text.push_str(&format!("{} ", interim.start));
        for (name, value) in &interim.fields.0 {
            if !name.eq_ignore_ascii_case("via") {
                text.push_str(&format!("| {name}: {value} "));
            }
        }
        text.push_str("then ");
    }
    text.push_str(&answer.head.start);
    for (name, value) in &answer.fields().0 {
        if !ours.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            text.push_str(&format!(" | {name}: {value}"));
        }
    }
    match answer.head.response_framing(to_head) {
        Ok(Framing::None) => {
            let length = answer.header("content-length");
            text.push_str(&length.map(|length| format!(" | ({length})")).unwrap_or_default());
        }
        Ok(framing) => text.push_str(&format!(" | {framing:?} {:?}", answer.text())),
        Err(error) => text.push_str(&format!(" | {error}")),
    }
    for (name, value) in &answer.body.trailers.0 {
        text.push_str(&format!(" + {name}: {value}"));
    }
    text
}

// === impl Case, Bench ===

impl Case {
    fn to(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// The backend closes afterwards.
    fn closing(mut self) -> Self {
        self.closes = true;
        self
    }
}

impl Bench {
    async fn start() -> Self {
        let script = Arc::new(Mutex::new((Vec::new(), false)));
        let shared = Arc::clone(&script);
        let backend = Backend::start(move |seen| match seen.head.target() {
            "/case" => match shared.lock().expect("nobody panics with it").clone() {
                (bytes, false) => Reply::Raw(bytes),
                (bytes, true) => Reply::RawAndClose(bytes),
            },
            _ => Reply::Raw(OK.to_vec()),
        })
        .await;
        let lines = "outlier_ejection = { disabled = true }";
        // What hangs is told 504, which nobody here expects.
        let spec = app("timeout = '5s'", lines, &[backend.address()]);
        let fleet = Fleet::start(1, &spec).await;
        Self { fleet, backend, script }
    }

    async fn run(self, cases: Vec<Case>) {
        let mut wrong = Vec::new();
        for case in &cases {
            if let Err(why) = self.check(case).await {
                let text: String = case.bytes.escape_ascii().to_string();
                let text: String = text.chars().take(300).collect();
                wrong.push(format!("{} \"{text}\"\n    {why}", case.method));
            }
        }
        self.fleet.nothing_is_left().await;
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }

    async fn ask(&self, method: &str) -> Exchange {
        let web = self.fleet.proxies[0].web();
        let ask = format!(
            "{method} /case HTTP/1.1\r\nHost: a\r\n\r\n\
             GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        exchange(web, ask.as_bytes(), Pieces::Whole).await
    }

    async fn check(&self, case: &Case) -> Result<(), String> {
        *self.script.lock().expect("nobody panics with it") = (case.bytes.clone(), case.closes);
        let before = self.backend.count();
        let exchange = self.ask(case.method).await;
        let seen: Vec<_> = self.backend.requests().split_off(before);
        let to_head = case.method == "HEAD";
        let answers = exchange.answers(&[to_head]).await;
        let last = seen.last().filter(|last| last.head.target() == "/ok");
        let first = seen.first().ok_or("the backend was not asked")?;
        let reused = last.map(|last| last.connection == first.connection);
        let got = || format!("{:?}: {:?}, reused: {reused:?}", exchange.end, exchange.text());

        match (&case.expect, answers.as_deref()) {
            (Expect::Bad, Ok([answer, _])) => {
                let error = answer.proxy_error().unwrap_or_default();
                let errors = ["http_protocol_error", "connection_terminated"];
                let told = answer.status() == 502
                    && (errors.contains(&error) || error.starts_with("http_response_"));
                if !told || reused != Some(false) {
                    return Err(format!("not 502 and a new connection: {}", got()));
                }
            }
            // The head was on its way before the rest of it was known.
            (Expect::Broken, Err(_)) => {
                if exchange.end == End::Open || last.is_some() {
                    return Err(format!("it goes on: {}", got()));
                }
                let next = integration_tests::client::get(self.fleet.proxies[0].web(), "/ok").await;
                let seen = self.backend.requests();
                if next.text() != "ok"
                    || seen.last().is_some_and(|s| s.connection == first.connection)
                {
                    return Err(format!("its connection is used again: {next:?}"));
                }
            }
            (Expect::Broken, Ok([answer, _])) => {
                if answer.status() != 502 || reused != Some(false) {
                    return Err(format!("it looks whole: {}", got()));
                }
            }
            (Expect::Passed { text, reused: expected }, Ok([answer, ok])) => {
                let described = describe(answer, to_head);
                if described != *text || reused != Some(*expected) || ok.text() != "ok" {
                    let expected = format!("{text:?}, reused: {expected}");
                    return Err(format!("expected {expected};\n    {described:?} of {}", got()));
                }
                let via = answer.fields().all("via");
                if !via.last().is_some_and(|via| via.ends_with(" lb")) {
                    return Err(format!("via {via:?}"));
                }
            }
            (_, Err(error)) => return Err(format!("{error}; {}", got())),
            (_, Ok(_)) => return Err(format!("not both are answered; {}", got())),
        }
        let next = integration_tests::client::get(self.fleet.proxies[0].web(), "/ok").await;
        match next.text().as_str() {
            "ok" => Ok(()),
            _ => Err(format!("the next client gets {next:?}")),
        }
    }
}
