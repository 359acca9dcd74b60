//! A client that connects, shakes hands, asks for something small and goes, again and again: for
//! `bench/compare`.
//!
//! `handshakes ADDRESS full|resumed SECONDS CA`

use std::{
    env,
    error::Error,
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lb_tls::{certificate, provider};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, Stream,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
};

const THREADS: usize = 16;
const HOST: &str = "bench.example.com";
#[expect(clippy::disallowed_methods, reason = "it has no other clock")]
fn now() -> Instant {
    Instant::now()
}

const WITHIN: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [address, kind, seconds, ca] = &args[..] else {
        return Err("usage: handshakes ADDRESS full|resumed SECONDS CA".into());
    };
    let kind = match kind.as_str() {
        "full" => HandshakeKind::Full,
        "resumed" => HandshakeKind::Resumed,
        other => return Err(format!("{other:?} is not known; valid are full, resumed").into()),
    };
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let ca = certificate::certificates(&fs::read(ca)?)?;
    let started = now();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (address, ca) = (address.clone(), ca.clone());
            thread::spawn(move || repeat(&address, kind, ca, started + duration))
        })
        .collect();
    let (mut done, mut broken) = (0, 0);
    for thread in threads {
        let (well, ill) = thread.join().map_err(|_| "a thread failed")??;
        done += well;
        broken += ill;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "RESULT {{\"requests\": {done}, \"seconds\": {seconds:.6}, \"p50_us\": 0, \"p99_us\": 0, \
         \"broken\": {broken}, \"refused\": 0}}"
    );
    Ok(())
}

/// Returns how many went well, and how many did not.
fn repeat(
    address: &str,
    kind: HandshakeKind,
    ca: Vec<CertificateDer<'static>>,
    until: Instant,
) -> Result<(u64, u64), Box<dyn Error + Send + Sync>> {
    let mut only = CryptoProvider::clone(&provider());
    only.cipher_suites.retain(|s| s.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    only.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(only))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = match kind {
        HandshakeKind::Resumed => {
            let config = Arc::new(config);
            // So that there is a session to be resumed.
            once(address, &config)?;
            config
        }
        _ => {
            config.resumption = Resumption::disabled();
            Arc::new(config)
        }
    };
    let (mut well, mut ill) = (0, 0);
    while now() < until {
        match once(address, &config) {
            Ok(was) if was == Some(kind) => well += 1,
            _ => ill += 1,
        }
    }
    Ok((well, ill))
}

fn once(
    address: &str,
    config: &Arc<ClientConfig>,
) -> Result<Option<HandshakeKind>, Box<dyn Error + Send + Sync>> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(WITHIN))?;
    socket.set_nodelay(true)?;
    let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST)?)?;
    let mut stream = Stream::new(&mut tls, &mut socket);
    write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // Not everybody says that the end is one.
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error.into()),
        Ok(_) | Err(_) if answer.starts_with(b"HTTP/1.1 200") => Ok(tls.handshake_kind()),
        Ok(_) | Err(_) => Err("no answer".into()),
    }
}
