use super::*;
use crate::{
    h1::{BodyDecoder, HeadParser, Limits},
    message::Method,
};

const LIMITS: Limits = Limits { head: 1000, fields: 20, target: 100 };
const TO_BACKEND: ToBackend<'_> = ToBackend {
    target: b"/x",
    host: b"b:81",
    forwarded: FORWARDED_FOR,
    client_cert: b"",
    via: false,
    body: RequestBody::None,
    upgrades: false,
    trace: TraceContext::AsItCame,
};
const FORWARDED_FOR: Forwarded<'_> = Forwarded {
    address: b"192.0.2.1",
    passed_on_by: None,
    host: b"a",
    proto: b"https",
    port: 443,
    by_forwarded: false,
};
const TO_CLIENT: ToClient<'_> = ToClient {
    body: ResponseBody::None,
    version: Version::Http11,
    keeps_alive: true,
    date: b"now",
    explain: None,
    hsts: None,
};

#[track_caller]
fn check_request(fields: &str, to: &ToBackend<'_>, expected: &str) {
    let text = format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut request = Request::default();
    let read = request.read(&mut HeadParser::default(), text.as_bytes(), &LIMITS);
    assert_eq!(read, Ok(Some(text.len())));
    let mut out = Vec::new();
    super::request(&mut out, &request, to);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[track_caller]
fn check_response(head: &str, to: &ToClient<'_>, expected: &str) {
    let mut response = Response::default();
    let read = response.read(&mut HeadParser::default(), head.as_bytes(), &LIMITS, Method::Get);
    assert_eq!(read, Ok(Some(head.len())));
    let mut out = Vec::new();
    super::response(&mut out, &response, to);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

const BEGIN: &str = "GET /x HTTP/1.1\r\nHost: b:81\r\n";
const FORWARDED: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a\r\n\
                         X-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\n";

#[test]
fn a_request_goes_where_it_is_sent_and_says_for_whom() {
    check_request("A: b\r\n", &TO_BACKEND, &format!("{BEGIN}A: b\r\n{FORWARDED}\r\n"));
    let expected = format!("{BEGIN}{FORWARDED}Via: 1.1 lb\r\n\r\n");
    check_request("", &ToBackend { via: true, ..TO_BACKEND }, &expected);
}

#[test]
fn who_passed_a_request_on_is_replaced_or_put_behind_what_came() {
    let fields = "X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nForwarded: for=10.0.0.1\r\n\
                  X-Forwarded-For:\r\nX-Forwarded-For: 10.0.0.3\r\nX-Forwarded-Proto: ftp\r\n\
                  X-Real-IP: 10.0.0.1\r\nX-Client-Cert-Subject: CN=me\r\nClient_Cert: x\r\n";
    check_request(fields, &TO_BACKEND, &format!("{BEGIN}{FORWARDED}\r\n"));
    let by = Forwarded { passed_on_by: Some(b"192.0.2.9"), ..FORWARDED_FOR };
    let appended = FORWARDED.replacen("192.0.2.1", "10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.9", 1);
    let to = ToBackend { forwarded: by, ..TO_BACKEND };
    check_request(fields, &to, &format!("{BEGIN}{appended}\r\n"));
    let by = Forwarded { by_forwarded: true, ..by };
    let to = ToBackend { forwarded: by, ..TO_BACKEND };
    let standard = "Forwarded: for=10.0.0.1, for=192.0.2.9;host=\"a\";proto=https\r\n";
    check_request(fields, &to, &format!("{BEGIN}{FORWARDED}{standard}\r\n"));
    let quoted = "Forwarded: for=6.6.6.6;x=\"\r\nForwarded: x=\"\\\", \"\r\n";
    let standard = "Forwarded: x=\"\\\", \", for=192.0.2.9;host=\"a\";proto=https\r\n";
    check_request(quoted, &to, &format!("{BEGIN}{FORWARDED}{standard}\r\n"));
    let by = Forwarded { address: b"::1", host: b"", passed_on_by: None, ..by };
    let to = ToBackend { forwarded: by, ..TO_BACKEND };
    let expected = "X-Forwarded-For: ::1\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\n\
                    Forwarded: for=\"[::1]\";proto=https\r\n";
    check_request(fields, &to, &format!("{BEGIN}{expected}\r\n"));
}

#[test]
fn what_is_known_of_a_clients_certificate_is_said_by_nobody_else() {
    let to = ToBackend { client_cert: b"X-Client-Cert-Subject: CN=me\r\n", ..TO_BACKEND };
    let fields = "X-Client-Cert-Subject: CN=you\r\nConnection: X-Client-Cert-Subject\r\n";
    let expected = format!("{BEGIN}{FORWARDED}X-Client-Cert-Subject: CN=me\r\n\r\n");
    check_request(fields, &to, &expected);
}

#[test]
fn a_policy_about_tls_is_the_proxys_if_it_has_one() {
    let head = "HTTP/1.1 200 OK\r\nDate: d\r\nstrict-transport-security: max-age=1\r\n\r\n";
    let expected = "HTTP/1.1 200 OK\r\nDate: d\r\nstrict-transport-security: max-age=1\r\n\
                    Via: 1.1 lb\r\n\r\n";
    check_response(head, &TO_CLIENT, expected);
    let to = ToClient { hsts: Some(b"max-age=9"), ..TO_CLIENT };
    let expected = "HTTP/1.1 200 OK\r\nDate: d\r\nVia: 1.1 lb\r\n\
                    Strict-Transport-Security: max-age=9\r\n\r\n";
    check_response(head, &to, expected);
    let mut out = Vec::new();
    own(&mut out, (204, "No Content"), [], None, &to);
    let expected =
        "HTTP/1.1 204 No Content\r\nDate: now\r\nStrict-Transport-Security: max-age=9\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn the_body_of_a_request_may_be_another_than_it_was() {
    let expected = format!("{BEGIN}{FORWARDED}Content-Length: 0\r\n\r\n");
    let to = ToBackend { body: RequestBody::Length(0), ..TO_BACKEND };
    check_request("", &to, &expected);
    let expected = format!("{BEGIN}{FORWARDED}Content-Length: 18446744073709551615\r\n\r\n");
    let to = ToBackend { body: RequestBody::Length(u64::MAX), ..TO_BACKEND };
    check_request("Content-Length: 5\r\n", &to, &expected);
    let expected = format!("{BEGIN}{FORWARDED}Transfer-Encoding: chunked\r\n\r\n");
    let to = ToBackend { body: RequestBody::Chunked, ..TO_BACKEND };
    check_request("", &to, &expected);
}

#[test]
fn an_upgrade_is_asked_for_only_if_it_may_be() {
    let fields = "Connection: upgrade, te\r\nUpgrade: websocket\r\nTE: trailers\r\n";
    let expected = format!("{BEGIN}{FORWARDED}TE: trailers\r\nConnection: TE\r\n\r\n");
    check_request(fields, &TO_BACKEND, &expected);
    let expected = format!("{BEGIN}{FORWARDED}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    check_request(fields, &ToBackend { upgrades: true, ..TO_BACKEND }, &expected);
}

#[test]
fn a_trace_goes_on_or_gets_another_parent_or_begins_here() {
    let fields = "traceparent: p\r\ntracestate: s\r\n";
    let expected = format!("{BEGIN}traceparent: p\r\ntracestate: s\r\n{FORWARDED}\r\n");
    check_request(fields, &TO_BACKEND, &expected);
    let expected = format!("{BEGIN}tracestate: s\r\n{FORWARDED}traceparent: q\r\n\r\n");
    let to = ToBackend { trace: TraceContext::Parent(b"q"), ..TO_BACKEND };
    check_request(fields, &to, &expected);
    let expected = format!("{BEGIN}{FORWARDED}traceparent: q\r\n\r\n");
    let to = ToBackend { trace: TraceContext::New(b"q"), ..TO_BACKEND };
    check_request(fields, &to, &expected);
}

#[test]
fn a_response_says_what_its_connection_comes_to() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nDate: then\r\n\r\n";
    let begin = "HTTP/1.1 200 OK\r\nDate: then\r\nVia: 1.1 lb\r\n";
    check_response(head, &TO_CLIENT, &format!("{begin}\r\n"));
    let to = ToClient { keeps_alive: false, ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Connection: close\r\n\r\n"));
    let to = ToClient { version: Version::Http10, ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Connection: keep-alive\r\n\r\n"));
    let to = ToClient { keeps_alive: false, version: Version::Http10, ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Connection: close\r\n\r\n"));
}

#[test]
fn a_response_has_the_body_that_it_goes_on_with() {
    let head = "HTTP/1.0 200 OK\r\nDate: then\r\nContent-Length: 5\r\n\r\n";
    let begin = "HTTP/1.1 200 OK\r\nDate: then\r\nVia: 1.0 lb\r\n";
    let to = ToClient { body: ResponseBody::UntilClose, keeps_alive: false, ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Connection: close\r\n\r\n"));
    let to = ToClient { body: ResponseBody::Chunked, ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Transfer-Encoding: chunked\r\n\r\n"));
    let to = ToClient { body: ResponseBody::Length(7), ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Content-Length: 7\r\n\r\n"));
    // As to a HEAD.
    check_response(head, &TO_CLIENT, &format!("{begin}Content-Length: 5\r\n\r\n"));
}

#[test]
fn an_explanation_comes_with_every_kind_of_response() {
    let to = ToClient { explain: Some(b"why"), ..TO_CLIENT };
    let head = "HTTP/1.1 204 No Content\r\n\r\n";
    let expected =
        "HTTP/1.1 204 No Content\r\nDate: now\r\nVia: 1.1 lb\r\nx-lb-explain: why\r\n\r\n";
    check_response(head, &to, expected);
    let mut out = Vec::new();
    own(&mut out, (404, "Not Found"), [(&b"A"[..], &b"b"[..])], Some(12), &to);
    let expected = "HTTP/1.1 404 Not Found\r\nA: b\r\nDate: now\r\nx-lb-explain: why\r\n\
                    Content-Length: 12\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn a_response_of_our_own_need_not_have_a_length() {
    let mut out = Vec::new();
    let to = ToClient { keeps_alive: false, ..TO_CLIENT };
    own(&mut out, (204, "No Content"), [], None, &to);
    let expected = "HTTP/1.1 204 No Content\r\nDate: now\r\nConnection: close\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn only_a_client_of_this_version_hears_what_to_upgrade_to() {
    let head = "HTTP/1.1 426 X\r\nDate: d\r\nConnection: upgrade\r\nUpgrade: u\r\n\r\n";
    let begin = "HTTP/1.1 426 X\r\nDate: d\r\nVia: 1.1 lb\r\n";
    let expected = format!("{begin}Connection: Upgrade\r\nUpgrade: u\r\n\r\n");
    check_response(head, &TO_CLIENT, &expected);
    let to = ToClient { version: Version::Http10, ..TO_CLIENT };
    check_response(head, &to, &format!("{begin}Connection: keep-alive\r\n\r\n"));
    let other = head.replace("426", "400");
    check_response(&other, &TO_CLIENT, &format!("{}\r\n", begin.replace("426", "400")));
}

#[test]
fn chunks_are_read_as_they_were_written() {
    for length in [1, 9, 10, 15, 16, 17, 255, 256, 0xabcde, 1 << 20] {
        let mut out = Vec::new();
        chunk_begin(&mut out, length);
        assert_eq!(out, format!("{length:x}\r\n").as_bytes());
        out.resize(out.len() + length, b'x');
        out.extend_from_slice(CRLF);
        last_chunk(&mut out, None);
        let decoded = BodyDecoder::of_request(RequestBody::Chunked).decode(&mut out);
        let decoded = decoded.expect("proper chunks");
        assert!(decoded.is_end && decoded.payload.len() == length, "{decoded:?}");
    }
}

#[test]
fn trailers_end_the_chunks() {
    let mut body = BodyDecoder::of_request(RequestBody::Chunked);
    body.decode(&mut b"0\r\nA: 1\r\nHost: b\r\nB: 2\r\n\r\n".to_vec()).expect("trailers");
    let mut out = Vec::new();
    last_chunk(&mut out, body.trailers());
    assert_eq!(String::from_utf8_lossy(&out), "0\r\nA: 1\r\nB: 2\r\n\r\n");

    let mut request = Request::default();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, b\r\n\r\n";
    request.read(&mut HeadParser::default(), head, &LIMITS).expect("a proper head");
    let mut out = Vec::new();
    last_chunk_after(&mut out, &request.fields, body.trailers());
    assert_eq!(String::from_utf8_lossy(&out), "0\r\nA: 1\r\n\r\n");
}

#[test]
fn numbers_are_written_in_decimal() {
    for value in [0, 7, 10, 99, 100, 12345, u64::MAX] {
        let mut out = Vec::new();
        decimal(&mut out, value);
        assert_eq!(out, value.to_string().as_bytes());
    }
}
