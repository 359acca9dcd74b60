//! What a request is, in the bytes of a connection.
//!
//! ```text
//! METHOD TARGET host=HOST [1.0] BODY keep|close [continue] [te] [upgrade=..] [max-forwards=..] [left ".."]
//! ```
//!
//! The host is `-` if there is none. A body is `none`, `length=5 "hello"` or `chunked "hello"`, with
//! `trailers "X: 1, Y: 2"` if some go on; `...` after it says that more is to come, and a status in
//! its place that it is malformed. `left` are bytes that are not read as HTTP. A status alone is what
//! the request is refused with, and `more` is a head that is not complete.

use lb_http::{
    h1::{
        BodyDecoder, HeadParser,
        encode::{self, Forwarded, ToBackend, TraceContext},
    },
    message::{Request, RequestBody, Version},
};

use crate::{
    text::Vector,
    vectors::{self, Body, Found, LIMITS, Taken, show},
};

#[test]
fn requests_are_read_as_the_vectors_say() {
    let files = [
        include_str!("requests/line.txt"),
        include_str!("requests/target.txt"),
        include_str!("requests/host.txt"),
        include_str!("requests/fields.txt"),
        include_str!("requests/length.txt"),
        include_str!("requests/chunked.txt"),
        include_str!("requests/connection.txt"),
        include_str!("requests/limits.txt"),
    ];
    vectors::check(&files, 300, read);
}

enum State {
    Head,
    Body(Body),
    Stopped,
}

fn read(_: &Vector, pieces: &[&[u8]]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut buffer = Vec::new();
    let (mut request, mut parser) = (Request::default(), HeadParser::default());
    let mut state = State::Head;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match &mut state {
                State::Head if buffer.is_empty() => break,
                State::Head => match request.read(&mut parser, &buffer, &LIMITS) {
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        buffer.drain(..length);
                        let decoder = BodyDecoder::of_request(request.body);
                        state = State::Body(Body { decoder, ..Body::default() });
                    }
                    Err(error) => {
                        found.push(Found { read: error.status().to_string(), written: None });
                        state = State::Stopped;
                    }
                },
                State::Body(body) => match body.take(&mut buffer) {
                    Taken::InPart => break,
                    Taken::Malformed => {
                        found.push(Found { read: describe(&request, body, " 400"), written: None });
                        state = State::Stopped;
                    }
                    Taken::Whole => {
                        let read = describe(&request, body, "");
                        found.push(Found { read, written: Some(written(&request, body)) });
                        let goes_on = request.connection.keeps_alive(request.version)
                            && request.upgrade().is_none();
                        state = if goes_on { State::Head } else { State::Stopped };
                        request.clear();
                        parser = HeadParser::default();
                    }
                },
                State::Stopped => break,
            }
        }
    }
    match &state {
        State::Head if buffer.is_empty() => {}
        State::Head => found.push(Found { read: "more".to_owned(), written: None }),
        State::Body(body) => {
            found.push(Found { read: describe(&request, body, "..."), written: None });
        }
        State::Stopped => {
            let last = found.last_mut().expect("something made it stop");
            if last.written.is_some() && !buffer.is_empty() {
                last.read += &format!(" left \"{}\"", show(&buffer));
            }
        }
    }
    found
}

fn describe(request: &Request, body: &Body, after_body: &str) -> String {
    let is_malformed = after_body == " 400";
    let (method, target) = (show(request.method_text()), show(request.target()));
    let host = match request.authority() {
        b"" => "-".to_owned(),
        host => show(host),
    };
    let version = if request.version == Version::Http10 { " 1.0" } else { "" };
    let mut text = format!("{method} {target} host={host}{version}");
    match request.body {
        RequestBody::None => text += " none",
        RequestBody::Length(length) => text += &format!(" length={length}"),
        RequestBody::Chunked => text += " chunked",
    }
    if request.body != RequestBody::None && !is_malformed {
        text += &format!(" \"{}\"", show(&body.payload));
    }
    let trailers = trailers(request, body);
    if !trailers.is_empty() {
        text += &format!(" trailers \"{trailers}\"");
    }
    text += after_body;
    if is_malformed {
        return text;
    }
    let keeps_alive = request.connection.keeps_alive(request.version);
    text += if keeps_alive { " keep" } else { " close" };
    if request.expects_continue {
        text += " continue";
    }
    if request.takes_trailers {
        text += " te";
    }
    if let Some(protocol) = request.upgrade() {
        text += &format!(" upgrade={}", show(protocol));
    }
    if let Some(left) = request.max_forwards {
        text += &format!(" max-forwards={left}");
    }
    text
}

/// Those that go on.
fn trailers(request: &Request, body: &Body) -> String {
    let mut out = Vec::new();
    encode::last_chunk_after(&mut out, &request.fields, body.decoder.trailers());
    let text = String::from_utf8_lossy(&out);
    text.lines().skip(1).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

fn written(request: &Request, body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    let to = ToBackend {
        target: request.target(),
        host: request.authority(),
        forwarded: Forwarded {
            address: b"192.0.2.1",
            passed_on_by: None,
            host: request.authority(),
            proto: b"http",
            port: 80,
            by_forwarded: false,
        },
        client_cert: b"",
        via: true,
        body: request.body,
        upgrades: true,
        trace: TraceContext::AsItCame,
    };
    encode::request(&mut out, request, &to);
    if request.body == RequestBody::Chunked {
        if !body.payload.is_empty() {
            encode::chunk_begin(&mut out, body.payload.len());
            out.extend_from_slice(&body.payload);
            out.extend_from_slice(encode::CRLF);
        }
        encode::last_chunk_after(&mut out, &request.fields, body.decoder.trailers());
    } else {
        out.extend_from_slice(&body.payload);
    }
    out
}
