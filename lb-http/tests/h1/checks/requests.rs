//! Requests on one connection.

use lb_http::{
    h1::{
        BodyDecoder, HeadParser, Limits, RequestError,
        encode::{self, Forwarded, ToBackend, TraceContext},
    },
    hop,
    message::{Field, Name, Request, RequestBody, Version},
};

use super::{Body, LIMITS, MORE, Pairs, Read, cut, trailers, write_body};

pub type Requests = Vec<Read<Meaning, RequestError>>;

/// What a request means to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub host: Vec<u8>,
    pub version: Version,
    pub body: RequestBody,
    pub payload: Vec<u8>,
    /// Those that go on.
    pub fields: Pairs,
    pub trailers: Pairs,
    pub keeps_alive: bool,
    pub expects_continue: bool,
    pub takes_trailers: bool,
    pub upgrade: Option<Vec<u8>>,
    pub max_forwards: Option<u32>,
}

/// Checks requests that come on one connection, and says what they are.
pub fn requests(bytes: &[u8], seed: u64) -> Requests {
    let (whole, written) = read_requests(&mut [bytes.to_vec()], &LIMITS);
    let mut pieces = cut(bytes, seed);
    assert_eq!(read_requests(&mut pieces, &LIMITS).0, whole, "cut into {pieces:?}");
    let messages = whole.iter().filter_map(|read| match read {
        Read::Message(meaning) => Some(meaning),
        _ => None,
    });
    for (meaning, written) in messages.zip(written) {
        let text = String::from_utf8_lossy(&written);
        let (again, _) = read_requests(&mut [written.clone()], &MORE);
        let [Read::Message(again), rest @ ..] = &again[..] else { panic!("{again:?} from {text}") };
        assert!(rest.is_empty(), "{rest:?} follows {text}");
        let host = if meaning.host.is_empty() { b"none".to_vec() } else { meaning.host.clone() };
        let expected = Meaning {
            host,
            version: Version::Http11,
            fields: added(meaning),
            keeps_alive: true,
            takes_trailers: meaning.takes_trailers && meaning.upgrade.is_none(),
            max_forwards: meaning.max_forwards.map(|left| left.saturating_sub(1)),
            ..meaning.clone()
        };
        // The reader drops what says for whom the request was passed on, as it does from anybody.
        assert_eq!(*again, expected, "from {text}");
    }
    whole
}

/// What goes on of a request that was passed on once.
fn added(meaning: &Meaning) -> Pairs {
    let mut fields = meaning.fields.clone();
    let via = if meaning.version == Version::Http10 { "1.0 lb" } else { "1.1 lb" };
    fields.push((b"Via".to_vec(), via.into()));
    fields
}

/// What the requests are, and what is written of those that are complete.
fn read_requests(pieces: &mut [Vec<u8>], limits: &Limits) -> (Requests, Vec<Vec<u8>>) {
    let (mut found, mut written) = (Vec::new(), Vec::new());
    let mut buffer = Vec::new();
    let (mut request, mut parser) = (Request::default(), HeadParser::default());
    let mut body: Option<Body> = None;
    let mut is_open = true;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while is_open {
            let Some(reading) = &mut body else {
                if buffer.is_empty() {
                    break;
                }
                match request.read(&mut parser, &buffer, limits) {
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        buffer.drain(..length);
                        let decoder = BodyDecoder::of_request(request.body);
                        body = Some(Body { decoder, payload: Vec::new() });
                    }
                    Err(error) => {
                        found.push(Read::Refused(error));
                        return (found, written);
                    }
                }
                continue;
            };
            match reading.take(&mut buffer) {
                Ok(false) => break,
                Ok(true) => {
                    let meaning = meaning(&request, reading);
                    is_open = meaning.keeps_alive && meaning.upgrade.is_none();
                    found.push(Read::Message(meaning));
                    written.push(write_request(&request, reading));
                    request.clear();
                    (parser, body) = (HeadParser::default(), None);
                }
                Err(error) => {
                    found.push(Read::BadBody(error));
                    return (found, written);
                }
            }
        }
    }
    match body {
        _ if !is_open && buffer.is_empty() => {}
        _ if !is_open => found.push(Read::Left(buffer.len())),
        Some(body) => found.push(Read::Body(meaning(&request, &body))),
        None if buffer.is_empty() => {}
        None => found.push(Read::Head),
    }
    (found, written)
}

fn meaning(request: &Request, body: &Body) -> Meaning {
    let is_counted =
        |field: &&Field| field.known == Name::MaxForwards && request.max_forwards.is_some();
    let fields = request.fields.iter().filter(|field| hop::request_field_goes_on(field));
    let fields = fields.filter(|field| !is_counted(field));
    let bytes = |span| request.fields.bytes(span).to_vec();
    Meaning {
        method: request.method_text().to_vec(),
        target: request.target().to_vec(),
        host: request.authority().to_vec(),
        version: request.version,
        body: request.body,
        payload: body.payload.clone(),
        fields: fields.map(|field| (bytes(field.name), bytes(field.value))).collect(),
        trailers: trailers(&request.fields, body),
        keeps_alive: request.connection.keeps_alive(request.version),
        expects_continue: request.expects_continue,
        takes_trailers: request.takes_trailers,
        upgrade: request.upgrade().map(<[u8]>::to_vec),
        max_forwards: request.max_forwards,
    }
}

fn write_request(request: &Request, body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    let host = if request.authority().is_empty() { b"none" } else { request.authority() };
    let to = ToBackend {
        target: request.target(),
        host,
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
    let is_chunked = request.body == RequestBody::Chunked;
    write_body(&mut out, &request.fields, body, is_chunked);
    out
}
