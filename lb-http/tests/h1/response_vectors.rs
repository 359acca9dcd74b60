//! What a response is, in the bytes of a connection that then ends.
//!
//! ```text
//! STATUS [1.0] BODY keep|close [content-length=..] [upgrade=..] [left ".."] [truncated]
//! ```
//!
//! A body is as in `request_vectors.rs`, or `until-close "hello"`. `content-length` is one that frames
//! nothing. `truncated` says that the connection's end came too early, and 502 that the response, or
//! the body in whose place it is, is malformed. The request was a GET unless brackets have its method.

use lb_http::{
    h1::{
        BodyDecoder, HeadParser,
        encode::{self, ToClient},
    },
    message::{Method, Response, ResponseBody, Version},
};

use crate::{
    text::Vector,
    vectors::{self, Body, Found, LIMITS, Taken, show},
};

#[test]
fn responses_are_read_as_the_vectors_say() {
    let files = [
        include_str!("responses/line.txt"),
        include_str!("responses/framing.txt"),
        include_str!("responses/fields.txt"),
    ];
    vectors::check(&files, 120, read);
}

enum State {
    Head,
    Body(Body),
    Stopped,
}

fn read(vector: &Vector, pieces: &[&[u8]]) -> Vec<Found> {
    let method = Method::of(vector.option.as_deref().unwrap_or("GET").as_bytes());
    let mut found: Vec<Found> = Vec::new();
    let mut buffer = Vec::new();
    let (mut response, mut parser) = (Response::default(), HeadParser::default());
    let mut state = State::Head;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match &mut state {
                State::Head => match response.read(&mut parser, &buffer, &LIMITS, method) {
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        buffer.drain(..length);
                        let decoder = BodyDecoder::of_response(response.body);
                        state = State::Body(Body { decoder, ..Body::default() });
                    }
                    Err(_) => {
                        found.push(Found { read: "502".to_owned(), written: None });
                        state = State::Stopped;
                    }
                },
                State::Body(body) => match body.take(&mut buffer) {
                    Taken::InPart => break,
                    Taken::Malformed => {
                        found
                            .push(Found { read: describe(&response, body, " 502"), written: None });
                        state = State::Stopped;
                    }
                    Taken::Whole => {
                        finish(&response, body, &mut found);
                        state = if response.is_interim() { State::Head } else { State::Stopped };
                        response.clear();
                        parser = HeadParser::default();
                    }
                },
                State::Stopped => break,
            }
        }
    }
    match &mut state {
        State::Head => found.push(Found { read: "truncated".to_owned(), written: None }),
        State::Body(body) => match body.decoder.end() {
            Ok(()) => finish(&response, body, &mut found),
            Err(_) => {
                let read = describe(&response, body, "...") + " truncated";
                found.push(Found { read, written: None });
            }
        },
        State::Stopped => {
            let last = found.last_mut().expect("something made it stop");
            if last.written.is_some() && !buffer.is_empty() {
                last.read += &format!(" left \"{}\"", show(&buffer));
            }
        }
    }
    found
}

fn finish(response: &Response, body: &Body, found: &mut Vec<Found>) {
    let read = describe(response, body, "");
    found.push(Found { read, written: Some(written(response, body)) });
}

fn describe(response: &Response, body: &Body, after_body: &str) -> String {
    let is_malformed = after_body == " 502";
    let version = if response.version == Version::Http10 { " 1.0" } else { "" };
    let mut text = format!("{}{version}", response.status);
    match response.body {
        ResponseBody::None => text += " none",
        ResponseBody::Length(length) => text += &format!(" length={length}"),
        ResponseBody::Chunked => text += " chunked",
        ResponseBody::UntilClose => text += " until-close",
    }
    if response.body != ResponseBody::None && !is_malformed {
        text += &format!(" \"{}\"", show(&body.payload));
    }
    let mut out = Vec::new();
    encode::last_chunk_after(&mut out, &response.fields, body.decoder.trailers());
    let out = String::from_utf8_lossy(&out);
    let trailers: Vec<&str> = out.lines().skip(1).filter(|line| !line.is_empty()).collect();
    if !trailers.is_empty() {
        text += &format!(" trailers \"{}\"", trailers.join(", "));
    }
    text += after_body;
    if is_malformed {
        return text;
    }
    text += if response.keeps_alive() { " keep" } else { " close" };
    if let (ResponseBody::None, Some(length)) = (response.body, response.content_length) {
        text += &format!(" content-length={length}");
    }
    if let Some(protocol) = response.upgrade() {
        text += &format!(" upgrade={}", show(protocol));
    }
    text
}

/// To a client of HTTP/1.1, whose connection goes on.
fn written(response: &Response, body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    let goes_on_as = match response.body {
        ResponseBody::UntilClose => ResponseBody::Chunked,
        body => body,
    };
    let to = ToClient {
        body: goes_on_as,
        version: Version::Http11,
        keeps_alive: true,
        date: b"Thu, 01 Jan 2026 00:00:00 GMT",
        explain: None,
        hsts: None,
    };
    encode::response(&mut out, response, &to);
    if goes_on_as == ResponseBody::Chunked {
        if !body.payload.is_empty() {
            encode::chunk_begin(&mut out, body.payload.len());
            out.extend_from_slice(&body.payload);
            out.extend_from_slice(encode::CRLF);
        }
        encode::last_chunk_after(&mut out, &response.fields, body.decoder.trailers());
    } else {
        out.extend_from_slice(&body.payload);
    }
    out
}
