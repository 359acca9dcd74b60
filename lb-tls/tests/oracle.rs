//! Handshakes and records against rustls's own connections, which do all of it by themselves.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use lb_tls::{
    certificate::Certificate,
    client::{Client, ClientOptions, Trust, client},
    fault::Fault,
    handshake::{Agreed, Handshake, Progress},
    provider, record,
    server::{ServerOptions, server},
    session::{Opened, Session, SessionError},
    tickets::Tickets,
};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConfig, ServerConnection,
    crypto::CryptoProvider,
    pki_types::{ServerName, pem::PemObject},
};

/// A certificate for itself, and its PEM.
fn certificate(names: &[&str]) -> (Arc<Certificate>, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("names are valid");
    let pem = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    (Arc::new(Certificate::read(pem.as_bytes(), key.as_bytes()).expect("a pair")), pem)
}

fn server_config(certificates: &[Arc<Certificate>]) -> Arc<ServerConfig> {
    let options = ServerOptions {
        certificates,
        only_tls13: false,
        client_auth: None,
        tickets: Arc::new(Tickets::new([&[7; 32]], b"")),
        alpn: &[b"http/1.1"],
    };
    server(&options).expect("it can be used")
}

/// One that offers a single cipher, and so a single version.
fn client_config(ca: &str, suite: CipherSuite) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(PemObject::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a certificate");
    let mut only = CryptoProvider::clone(&provider());
    only.cipher_suites.retain(|known| known.suite() == suite);
    ClientConfig::builder_with_provider(Arc::new(only))
        .with_safe_default_protocol_versions()
        .expect("a version is left")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// One for servers called [`name`].
fn client_of(trust: Trust<'_>, only_tls13: bool) -> Client {
    let options = ClientOptions { trust, certificate: None, only_tls13, alpn: &[] };
    let verifies = matches!(trust, Trust::Of(_));
    Client::new(&client(&options).expect("it can be used"), name(), verifies)
}

const SUITES: [CipherSuite; 6] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

fn name() -> ServerName<'static> {
    ServerName::try_from("a.test").expect("a name")
}

/// What rustls has to send.
fn output(conn: &mut impl Conn) -> Vec<u8> {
    let mut bytes = Vec::new();
    conn.take(&mut bytes);
    bytes
}

/// What both kinds of rustls's connections can do.
trait Conn {
    fn take(&mut self, into: &mut Vec<u8>);
    fn give(&mut self, bytes: &[u8]) -> Result<Vec<u8>, rustls::Error>;
    fn say(&mut self, bytes: &[u8]);
    fn update_key(&mut self);
    fn close(&mut self);
}

macro_rules! conn {
    ($($of:ty)*) => {$(
        impl Conn for $of {
            fn take(&mut self, into: &mut Vec<u8>) {
                while self.wants_write() {
                    self.write_tls(into).expect("memory takes all");
                }
            }

            fn give(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
                let mut plain = Vec::new();
                while !bytes.is_empty() {
                    self.read_tls(&mut bytes).expect("memory gives all");
                    let state = self.process_new_packets()?;
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    self.reader().read_exact(&mut plain[start..]).expect("it is there");
                }
                Ok(plain)
            }

            fn say(&mut self, bytes: &[u8]) {
                self.set_buffer_limit(None);
                self.writer().write_all(bytes).expect("there is no limit");
            }

            fn update_key(&mut self) {
                self.refresh_traffic_keys().expect("it may");
            }

            fn close(&mut self) {
                self.send_close_notify();
            }
        }
    )*};
}

conn!(ClientConnection ServerConnection);

/// Runs a handshake; what the other side sends comes in pieces of this size.
fn shake(mut ours: Handshake, theirs: &mut impl Conn, piece: usize) -> (Agreed, Session, Vec<u8>) {
    let (mut input, mut progress) = (Vec::new(), Progress::Waiting);
    let mut arriving = output(theirs);
    let mut to_them = Vec::new();
    progress = ours.advance(&mut input, &mut to_them).unwrap_or(progress);
    loop {
        theirs.give(&to_them).expect("they agree");
        to_them.clear();
        arriving.extend(output(theirs));
        if arriving.is_empty() || progress == Progress::Done {
            break;
        }
        let next: Vec<u8> = arriving.drain(..piece.min(arriving.len())).collect();
        input.extend(next);
        progress = ours.advance(&mut input, &mut to_them).expect("we agree");
    }
    assert_eq!(progress, Progress::Done);
    theirs.give(&to_them).expect("they agree");
    input.extend(arriving);
    let (agreed, session) = ours.finish().expect("it is done");
    (agreed, session, input)
}

/// Opens all records of these bytes.
fn open(session: &mut Session, bytes: &[u8]) -> Result<(Vec<u8>, bool, Vec<u8>), SessionError> {
    let (mut plain, mut has_ended, mut reply, mut rest) = (Vec::new(), false, Vec::new(), bytes);
    while let Some(length) = record::length(rest)? {
        let (record, after) = rest.split_at(length);
        let mut out = vec![0; length];
        match session.open(record, &mut out, &mut reply)? {
            Opened::Data(length) => plain.extend_from_slice(&out[..length]),
            Opened::Nothing => {}
            Opened::End => has_ended = true,
        }
        rest = after;
    }
    assert!(rest.is_empty(), "records are whole");
    Ok((plain, has_ended, reply))
}

fn seal(session: &mut Session, mut plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    while !plain.is_empty() {
        let mut out = [0; 40_000];
        let (used, filled) = session.seal(plain, &mut out).expect("it goes on");
        sealed.extend_from_slice(&out[..filled]);
        plain = &plain[used..];
    }
    sealed
}

/// All that two ends can say to each other, for one pair of them.
fn talk(
    (agreed, mut session, rest): (Agreed, Session, Vec<u8>),
    theirs: &mut impl Conn,
    rng: &mut fastrand::Rng,
) {
    let rest = &rest[..];
    assert_eq!(open(&mut session, rest).expect("they are right").0, []);
    for round in 0..20 {
        let length = [0, 1, 100, 16_384, 16_385, 50_000][rng.usize(..6)];
        let message: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
        assert!(theirs.give(&seal(&mut session, &message)).expect("it is right") == message);
        theirs.say(&message);
        if agreed.version == ProtocolVersion::TLSv1_3 && rng.bool() {
            theirs.update_key();
        }
        let (plain, has_ended, reply) = open(&mut session, &output(theirs)).expect("right");
        assert!(plain == message && !has_ended, "round {round}");
        assert_eq!(theirs.give(&reply).expect("it is right"), []);
    }
    theirs.close();
    let (_, has_ended, _) = open(&mut session, &output(theirs)).expect("it is right");
    assert!(has_ended);
    // The other direction goes on until it is closed, too.
    assert_eq!(theirs.give(&seal(&mut session, b"last")).expect("it is right"), b"last");
    let mut closing = Vec::new();
    session.close(&mut closing);
    session.close(&mut closing);
    theirs.give(&closing).expect("it is right");
}

#[test]
fn a_client_of_rustls_understands_our_server_and_is_understood() {
    let (certificate, ca) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    let mut rng = fastrand::Rng::with_seed(1);
    for suite in SUITES {
        for piece in [1, 7, 100_000] {
            let client = Arc::new(client_config(&ca, suite));
            let mut theirs = ClientConnection::new(client, name()).expect("it can be");
            let ours = Handshake::server(&config).expect("it can be");
            let finished = shake(ours, &mut theirs, piece);
            assert_eq!(finished.0.suite, suite);
            talk(finished, &mut theirs, &mut rng);
        }
    }
}

#[test]
fn a_server_of_rustls_understands_our_client_and_is_understood() {
    let (_, ca) = certificate(&["other.test"]);
    let (certificate, own) = certificate(&["a.test"]);
    let ca_of = |pem: &str| vec![PemObject::from_pem_slice(pem.as_bytes()).expect("PEM")];
    let config = server_config(&[certificate]);
    let mut rng = fastrand::Rng::with_seed(2);
    for piece in [1, 7, 100_000] {
        let trust = ca_of(&own);
        let ours = client_of(Trust::Of(&trust), false).handshake();
        let mut theirs = ServerConnection::new(Arc::clone(&config)).expect("it can be");
        let finished = shake(ours.expect("it can be"), &mut theirs, piece);
        talk(finished, &mut theirs, &mut rng);
    }
    let trust = ca_of(&ca);
    let mut ours = client_of(Trust::Of(&trust), false).handshake().expect("it can be");
    let mut theirs = ServerConnection::new(Arc::clone(&config)).expect("it can be");
    let (mut input, mut to_them) = (Vec::new(), Vec::new());
    ours.advance(&mut input, &mut to_them).expect("it begins");
    theirs.give(&to_them).expect("it is a hello");
    input.extend(output(&mut theirs));
    to_them.clear();
    let error = ours.advance(&mut input, &mut to_them).expect_err("nobody signed it");
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    let told = theirs.give(&to_them).expect_err("it is told");
    assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told}");
}

/// A server of rustls with this certificate, of this version only.
fn rustls_server(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>, tls12: bool) -> ServerConfig {
    let key = PemObject::from_pem_slice(certificate.signing_key.serialize_pem().as_bytes());
    let version = if tls12 { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("there is one")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key.expect("PEM"))
        .expect("a pair")
}

/// Goes on until there is agreement, or one of them refuses.
fn try_shake(client: &Client, server: &Arc<ServerConfig>) -> Result<(Agreed, Session), Fault> {
    let mut theirs = ServerConnection::new(Arc::clone(server)).expect("it can be");
    let mut ours = client.handshake().expect("it can be");
    let (mut input, mut to_them) = (Vec::new(), Vec::new());
    loop {
        let progress = ours.advance(&mut input, &mut to_them).map_err(|e| Fault::of(&e))?;
        // What they think of it they say.
        let _ = theirs.give(&to_them);
        to_them.clear();
        input.extend(output(&mut theirs));
        if progress == Progress::Done {
            break;
        }
    }
    let (agreed, mut session) = ours.finish().expect("it is done");
    open(&mut session, &input).map_err(|error| error.of_server())?;
    Ok((agreed, session))
}

#[test]
fn our_client_resumes_its_sessions_until_they_are_forgotten() {
    let made = rcgen::generate_simple_self_signed(["a.test".into()]).expect("it is made");
    let trust = [made.cert.der().clone()];
    for tls12 in [false, true] {
        let server = Arc::new(rustls_server(&made, tls12));
        let client = client_of(Trust::Of(&trust), false);
        let resumed = || try_shake(&client, &server).expect("they agree").0.is_resumed;
        assert_eq!([resumed(), resumed(), resumed()], [false, true, true], "1.2: {tls12}");
        client.forget_sessions();
        assert_eq!([resumed(), resumed()], [false, true], "1.2: {tls12}");
    }
}

#[test]
fn a_session_outlives_its_servers_certificate_but_is_known_to() {
    let made = rcgen::generate_simple_self_signed(["a.test".into()]).expect("it is made");
    let trust = [made.cert.der().clone()];
    let server = Arc::new(rustls_server(&made, false));
    let (early, late) = (Duration::from_secs(1_000_000_000), Duration::from_secs(100_000_000_000));
    let client = client_of(Trust::Of(&trust), false);
    let shake = || try_shake(&client, &server).expect("they agree").0;
    assert!(!client.has_expired(&shake(), late), "rustls has looked at it");
    assert!(!client.has_expired(&shake(), early));
    assert!(client.has_expired(&shake(), late));
    let careless = client_of(Trust::Anybody, false);
    let shake = || try_shake(&careless, &server).expect("they agree").0;
    assert!(!careless.has_expired(&shake(), late) && !careless.has_expired(&shake(), late));
}

#[test]
fn whoever_is_not_believed_is_told_of_by_what_is_wrong() {
    let signed = |name: &str, year: i32| {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let signing_key = rcgen::KeyPair::generate().expect("it is made");
        let cert = params.self_signed(&signing_key).expect("it signs");
        rcgen::CertifiedKey { cert, signing_key }
    };
    let (good, other) = (signed("a.test", 2090), signed("b.test", 2090));
    let old = signed("a.test", 2021);
    for tls12 in [false, true] {
        let fault = |shown: &rcgen::CertifiedKey<_>, trusted: &rcgen::CertifiedKey<_>, only13| {
            let server = Arc::new(rustls_server(shown, tls12));
            let trust = [trusted.cert.der().clone()];
            let shaken = try_shake(&client_of(Trust::Of(&trust), only13), &server);
            let careless = try_shake(&client_of(Trust::Anybody, false), &server);
            assert!(careless.is_ok(), "whatever it is: {careless:?}");
            shaken.map(drop)
        };
        assert_eq!(fault(&good, &good, false), Ok(()));
        assert_eq!(fault(&good, &other, false), Err(Fault::UnknownIssuer));
        assert_eq!(fault(&old, &old, false), Err(Fault::Expired));
        assert!(matches!(fault(&other, &other, false), Err(Fault::OtherName(_))));
        let too_old = fault(&good, &good, true);
        assert_eq!(too_old.is_err(), tls12, "{too_old:?}");
    }
}

#[test]
fn a_session_is_resumed_and_data_that_comes_with_the_last_words_is_not_lost() {
    let (certificate, ca) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    for suite in [SUITES[0], SUITES[3]] {
        let client = Arc::new(client_config(&ca, suite));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut theirs = ClientConnection::new(Arc::clone(&client), name()).expect("it can be");
            theirs.say(b"at once");
            let ours = Handshake::server(&config).expect("it can be");
            let (agreed, mut session, rest) = shake(ours, &mut theirs, 100_000);
            let (late, ..) = open(&mut session, &rest).expect("it is right");
            assert_eq!(late, b"at once");
            assert_eq!(agreed.is_resumed, kind == HandshakeKind::Resumed);
            assert_eq!(theirs.handshake_kind(), Some(kind));
        }
    }
}

#[test]
fn what_follows_the_last_words_at_once_is_the_sessions_and_a_key_may_be_replaced_there() {
    let (certificate, ca) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    for suite in &SUITES[..3] {
        let client = Arc::new(client_config(&ca, *suite));
        let mut theirs = ClientConnection::new(client, name()).expect("it can be");
        let mut ours = Handshake::server(&config).expect("it can be");
        let (mut input, mut to_them) = (output(&mut theirs), Vec::new());
        ours.advance(&mut input, &mut to_them).expect("it is a hello");
        theirs.give(&to_them).expect("they agree");
        theirs.update_key();
        theirs.say(b"x");
        to_them.clear();
        input.extend(output(&mut theirs));
        assert_eq!(ours.advance(&mut input, &mut to_them), Ok(Progress::Done));
        theirs.give(&to_them).expect("they agree");
        let (_, mut session) = ours.finish().expect("it is done");
        assert_eq!(open(&mut session, &input).expect("they are right").0, b"x");
        assert_eq!(theirs.give(&seal(&mut session, b"y")).expect("it is right"), b"y");
    }
}

#[test]
fn however_often_a_new_key_is_asked_for_it_is_announced_once() {
    let (certificate, ca) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    let client = Arc::new(client_config(&ca, SUITES[0]));
    let mut theirs = ClientConnection::new(client, name()).expect("it can be");
    let ours = Handshake::server(&config).expect("it can be");
    let (_, mut session, _) = shake(ours, &mut theirs, 100_000);
    for _ in 0..100 {
        theirs.update_key();
        theirs.say(b"x");
        let (plain, _, reply) = open(&mut session, &output(&mut theirs)).expect("it is right");
        assert_eq!((&plain[..], reply.len()), (&b"x"[..], 0));
    }
    let sealed = seal(&mut session, b"y");
    assert_eq!(theirs.give(&sealed).expect("it is right"), b"y");
    assert!(sealed.len() < 60, "one announcement, and one record: {}", sealed.len());
}

#[test]
fn a_record_that_was_changed_ends_the_connection_and_the_other_side_is_told() {
    let (certificate, ca) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    for suite in [SUITES[0], SUITES[3]] {
        let client = Arc::new(client_config(&ca, suite));
        for i in 0.. {
            let mut theirs = ClientConnection::new(Arc::clone(&client), name()).expect("it can be");
            let ours = Handshake::server(&config).expect("it can be");
            let (_, mut session, _) = shake(ours, &mut theirs, 100_000);
            theirs.say(b"hello");
            let mut record = output(&mut theirs);
            let Some(byte) = record.get_mut(i) else { break };
            // The header's version and length are looked at elsewhere.
            if (1..record::HEADER).contains(&i) {
                continue;
            }
            *byte ^= 1;
            let (mut out, mut reply) = ([0; 100], Vec::new());
            let error = session.open(&record, &mut out, &mut reply).expect_err("it is forged");
            assert!(matches!(error, SessionError::Record(_)), "byte {i}: {error}");
            let told = theirs.give(&reply).expect_err("it is told");
            assert!(matches!(told, rustls::Error::AlertReceived(_)), "byte {i}: {told}");
        }
    }
}

/// In records of this many bytes each, as a client may divide its hello.
fn fragmented(hello: &[u8], most: usize) -> Vec<Vec<u8>> {
    let (header, message) = hello.split_at(5);
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).expect("it is short").to_be_bytes();
        [&header[..3], &length, part].concat()
    };
    message.chunks(most).map(record).collect()
}

#[test]
fn a_hello_in_many_records_is_understood_however_they_come() {
    let (certificate, pem) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    for (most, at_once) in [(1, 1), (7, 1), (100, 1), (100, 3), (1, 1000)] {
        let client = ClientConnection::new(Arc::new(client_config(&pem, SUITES[0])), name());
        let (mut theirs, mut ours) = (client.expect("it can be"), server_end(&config));
        let (mut input, mut to_them) = (Vec::new(), Vec::new());
        for records in fragmented(&output(&mut theirs), most).chunks(at_once) {
            assert_eq!(to_them, [], "not before all of it is there");
            input.extend(records.concat());
            ours.advance(&mut input, &mut to_them).expect("it is a hello");
        }
        theirs.give(&to_them).expect("they agree");
        input.extend(output(&mut theirs));
        to_them.clear();
        assert_eq!(ours.advance(&mut input, &mut to_them), Ok(Progress::Done), "{most}");
    }
}

/// A client's flights, in which something is changed: whatever comes of it, it ends without a panic, and who
/// is refused is told so.
#[test]
fn a_handshake_in_which_something_is_changed_is_refused_with_a_word() {
    let (certificate, pem) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    let (mut refused, mut told) = (0, 0);
    for seed in 0..600 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let suite = SUITES[rng.usize(..SUITES.len())];
        let client = ClientConnection::new(Arc::new(client_config(&pem, suite)), name());
        let (mut theirs, mut ours) = (client.expect("it can be"), server_end(&config));
        let changed_flight = rng.usize(..2);
        let mut input = Vec::new();
        for flight in 0..2 {
            let mut said = output(&mut theirs);
            if flight == changed_flight {
                change(&mut said, &mut rng);
            }
            input.extend(said);
            let mut to_them = Vec::new();
            match ours.advance(&mut input, &mut to_them) {
                Ok(_) => {
                    if theirs.give(&to_them).is_err() {
                        break;
                    }
                }
                Err(_) => {
                    refused += 1;
                    // rustls has no word for all of it.
                    told += usize::from(matches!(to_them.first(), Some(21..=23)));
                    break;
                }
            }
        }
    }
    assert!(refused > 200 && told > refused / 2, "{refused} of 600, and {told}");
}

fn server_end(config: &Arc<ServerConfig>) -> Handshake {
    Handshake::server(config).expect("it can be")
}

/// One byte, or all from somewhere on.
fn change(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    let Some(at) = (!bytes.is_empty()).then(|| rng.usize(..bytes.len())) else { return };
    match rng.u8(..3) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at..].fill_with(|| rng.u8(..)),
        _ => bytes.splice(..at, (0..at).map(|_| rng.u8(..))).for_each(drop),
    }
}

/// What is no TLS, and what is wrong in the middle of it.
#[test]
fn whatever_comes_instead_of_a_handshake_ends_it_with_one_alert() {
    let (certificate, ca) = certificate(&["a.test"]);
    let config = server_config(&[certificate]);
    let trust: Vec<_> = vec![PemObject::from_pem_slice(ca.as_bytes()).expect("PEM")];
    let client = client_of(Trust::Of(&trust), false);
    let mut rng = fastrand::Rng::with_seed(3);
    let garbage = |rng: &mut fastrand::Rng| match rng.u8(..5) {
        0 => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        1 => [&[22, 3, 3, 0, 5][..], b"what?"].concat(),
        // A message that a record ends in, and one that is as long as none may be.
        2 => [&[22, 3, 3, 0, 8][..], &[2, 0, 0, 0, 2, 0xff, 0xff, 0xff]].concat(),
        3 => vec![21, 3, 3, 0, 2, 2, 40],
        _ => (0..rng.usize(..100)).map(|_| rng.u8(..)).collect(),
    };
    for _ in 0..2000 {
        for is_client in [true, false] {
            let mut ours = match is_client {
                true => client.handshake().expect("it can be"),
                false => Handshake::server(&config).expect("it can be"),
            };
            let (mut input, mut output) = (Vec::new(), Vec::new());
            ours.advance(&mut input, &mut output).expect("nothing has come");
            output.clear();
            input = garbage(&mut rng);
            if rng.bool() {
                input.extend(garbage(&mut rng));
            }
            if ours.advance(&mut input, &mut output).is_err() {
                // An alert is one record of two bytes.
                assert!([0, 7].contains(&output.len()), "{output:?}");
            }
        }
    }
}
