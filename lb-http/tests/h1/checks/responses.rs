//! Responses on one connection, which then ends.

use lb_http::{
    h1::{
        BodyDecoder, HeadParser, Limits, ResponseError,
        encode::{self, ToClient},
    },
    hop,
    message::{Method, Response, ResponseBody, Version},
};

use super::{Body, LIMITS, MORE, Pairs, Read, cut, trailers, write_body};

pub type Answers = Vec<Read<Answer, ResponseError>>;

/// What a response means to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: Vec<u8>,
    pub version: Version,
    pub body: ResponseBody,
    pub content_length: Option<u64>,
    pub payload: Vec<u8>,
    pub fields: Pairs,
    pub trailers: Pairs,
    pub keeps_alive: bool,
    pub upgrade: Option<Vec<u8>>,
}

/// Checks responses on one connection up to the one that answers a request of this method.
pub fn responses(bytes: &[u8], method: Method, seed: u64) -> Answers {
    let (whole, written) = read_responses(&mut [bytes.to_vec()], &LIMITS, method);
    let mut pieces = cut(bytes, seed);
    let in_pieces = read_responses(&mut pieces, &LIMITS, method).0;
    assert_eq!(in_pieces, whole, "cut into {pieces:?}");
    let messages = whole.iter().filter_map(|read| match read {
        Read::Message(answer) => Some(answer),
        _ => None,
    });
    for (answer, written) in messages.zip(written) {
        // A proxy says that such a one is no answer.
        if answer.status == 101 && answer.upgrade.is_none() {
            continue;
        }
        let text = String::from_utf8_lossy(&written);
        let (again, _) = read_responses(&mut [written.clone()], &MORE, method);
        let Some(Read::Message(again)) = again.first() else { panic!("{again:?} from {text}") };
        let is_interim = answer.status < 200;
        let body = passed_on_as(answer.body);
        let has_date = is_interim && answer.status != 101
            || answer.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"date"));
        let mut fields = answer.fields.clone();
        if !has_date {
            fields.push((b"Date".to_vec(), b"now".to_vec()));
        }
        let via = if answer.version == Version::Http10 { "1.0 lb" } else { "1.1 lb" };
        fields.push((b"Via".to_vec(), via.into()));
        let expected = Answer {
            version: Version::Http11,
            body,
            content_length: answer.content_length.filter(|_| !is_interim && answer.status != 204),
            fields,
            keeps_alive: true,
            upgrade: answer.upgrade.clone().filter(|_| matches!(answer.status, 101 | 426)),
            ..answer.clone()
        };
        assert_eq!(*again, expected, "from {text}");
    }
    whole
}

/// To a client of HTTP/1.1.
fn passed_on_as(body: ResponseBody) -> ResponseBody {
    match body {
        ResponseBody::UntilClose => ResponseBody::Chunked,
        body => body,
    }
}

fn read_responses(
    pieces: &mut [Vec<u8>],
    limits: &Limits,
    method: Method,
) -> (Answers, Vec<Vec<u8>>) {
    let (mut found, mut written) = (Vec::new(), Vec::new());
    let mut buffer = Vec::new();
    let (mut response, mut parser) = (Response::default(), HeadParser::default());
    let mut body: Option<Body> = None;
    let mut is_open = true;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while is_open {
            let Some(reading) = &mut body else {
                match response.read(&mut parser, &buffer, limits, method) {
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        buffer.drain(..length);
                        let decoder = BodyDecoder::of_response(response.body);
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
                    found.push(Read::Message(answer(&response, reading)));
                    written.push(write_response(&response, reading));
                    is_open = response.is_interim();
                    response.clear();
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
        None => found.push(Read::Head),
        Some(mut body) => match body.decoder.end() {
            Ok(()) => {
                found.push(Read::Message(answer(&response, &body)));
                written.push(write_response(&response, &body));
            }
            Err(_) => found.push(Read::Body(answer(&response, &body))),
        },
    }
    (found, written)
}

fn answer(response: &Response, body: &Body) -> Answer {
    let fields = response.fields.iter().filter(|field| hop::response_field_goes_on(field));
    let bytes = |span| response.fields.bytes(span).to_vec();
    Answer {
        status: response.status,
        reason: response.reason().to_vec(),
        version: response.version,
        body: response.body,
        content_length: response.content_length,
        payload: body.payload.clone(),
        fields: fields.map(|field| (bytes(field.name), bytes(field.value))).collect(),
        trailers: trailers(&response.fields, body),
        keeps_alive: response.keeps_alive(),
        upgrade: response.upgrade().map(<[u8]>::to_vec),
    }
}

fn write_response(response: &Response, body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    let to = ToClient {
        body: passed_on_as(response.body),
        version: Version::Http11,
        keeps_alive: true,
        date: b"now",
        explain: None,
        hsts: None,
    };
    encode::response(&mut out, response, &to);
    write_body(&mut out, &response.fields, body, to.body == ResponseBody::Chunked);
    out
}
