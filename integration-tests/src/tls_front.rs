//! TLS before a scripted backend: rustls shakes hands, what it saw is remembered, and bytes are passed
//! on.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server::TlsStream};

use crate::{
    certs::{Ca, Pair},
    eventually::{PATIENCE, within},
    ports::Port,
};

/// Listens until it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    port: Port,
    state: Arc<State>,
    _task: JoinSet<()>,
}

/// What is asked of clients, and how it is spoken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// Clients must show a certificate that this CA signed; as PEM.
    pub clients: Option<&'a str>,
    /// Not 1.3.
    pub only_tls12: bool,
    /// It ends without close_notify.
    pub breaks_off: bool,
}

/// What a client said in a handshake that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub name: Option<String>,
    pub is_resumed: bool,
    /// The client's certificate, as DER.
    pub certificate: Option<Vec<u8>>,
}

#[derive(Debug)]
struct State {
    config: Mutex<Arc<ServerConfig>>,
    greetings: Mutex<Vec<Greeting>>,
    failed: AtomicUsize,
    breaks_off: AtomicBool,
}

impl TlsFront {
    /// Shows this certificate, and passes on to the backend at `behind`.
    ///
    /// # Panics
    /// If that is no certificate.
    pub async fn start(behind: SocketAddr, shown: &Pair, terms: Terms<'_>) -> Self {
        let port = Port::reserve();
        let listener = port.listen().await;
        let state = Arc::new(State {
            config: Mutex::new(config(shown, terms)),
            greetings: Mutex::default(),
            failed: AtomicUsize::new(0),
            breaks_off: AtomicBool::new(terms.breaks_off),
        });
        let (shared, mut task) = (Arc::clone(&state), JoinSet::new());
        task.spawn(async move {
            // All of them end with this one.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    // Who breaks off in the middle is for the other side to judge.
                    let _ = serve(stream, behind, &state).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, state, _task: task }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on, this is what clients are shown and asked.
    ///
    /// # Panics
    /// If it is no certificate.
    pub fn show(&self, shown: &Pair, terms: Terms<'_>) {
        *self.state.config.lock().expect("nobody panics with it") = config(shown, terms);
    }

    /// Of all handshakes that came to their end, in their order.
    ///
    /// # Panics
    /// Never.
    pub fn greetings(&self) -> Vec<Greeting> {
        self.state.greetings.lock().expect("nobody panics with it").clone()
    }

    /// Handshakes that did not.
    pub fn failed(&self) -> usize {
        self.state.failed.load(SeqCst)
    }
}

async fn serve(stream: TcpStream, behind: SocketAddr, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let config = Arc::clone(&state.config.lock().expect("nobody panics with it"));
    let accepted = TlsAcceptor::from(config).accept(stream).await;
    let tls = accepted.inspect_err(|_| {
        state.failed.fetch_add(1, SeqCst);
    })?;
    state.greetings.lock().expect("nobody panics with it").push(greeting(&tls));
    let mut backend = TcpStream::connect(behind).await?;
    backend.set_nodelay(true)?;
    let (mut from_client, mut to_client) = tokio::io::split(tls);
    let (mut from_backend, mut to_backend) = backend.split();
    let up = async {
        copy(&mut from_client, &mut to_backend).await?;
        to_backend.shutdown().await
    };
    let down = async {
        copy(&mut from_backend, &mut to_client).await?;
        if state.breaks_off.load(SeqCst) {
            to_client.flush().await?;
            // Not by an end of the other direction: this is the end of both.
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        to_client.shutdown().await
    };
    tokio::try_join!(up, down)?;
    // Until the client is gone, too: closing before would reset what it has not read.
    while from_client.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

fn greeting(tls: &TlsStream<TcpStream>) -> Greeting {
    let conn = tls.get_ref().1;
    let certificates = conn.peer_certificates();
    Greeting {
        name: conn.server_name().map(Into::into),
        is_resumed: conn.handshake_kind() == Some(HandshakeKind::Resumed),
        certificate: certificates.and_then(|all| all.first()).map(|first| first.to_vec()),
    }
}

fn config(shown: &Pair, terms: Terms<'_>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[&SupportedProtocolVersion] =
        if terms.only_tls12 { &[&TLS12] } else { &[&TLS12, &TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("there is one");
    let builder = match terms.clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM");
            roots.add(ca).expect("a certificate");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is a root"))
        }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(shown.cert.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("PEM");
    let mut config = builder.with_single_cert(chain.expect("PEM"), key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// All that a server of `a.test` says of itself, and how that ended: an error if nobody said that it was
/// all.
///
/// # Panics
/// If it cannot be spoken to.
pub async fn read_all(at: SocketAddr, ca: &Ca) -> (Vec<u8>, std::io::Result<()>) {
    let mut tls = connect(at, ca).await;
    let mut all = Vec::new();
    let reading = within(PATIENCE, "an end", tls.read_to_end(&mut all)).await;
    (all, reading.map(drop))
}

/// The certificate that a new client is shown for `a.test`, as DER.
///
/// # Panics
/// If there is none that this CA signed.
pub async fn shown(at: SocketAddr, ca: &Ca) -> Vec<u8> {
    let tls = connect(at, ca).await;
    let certificates = tls.get_ref().1.peer_certificates();
    certificates.and_then(|shown| shown.first()).expect("it was checked").to_vec()
}

async fn connect(at: SocketAddr, ca: &Ca) -> client::TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("PEM"))
        .expect("it is one");
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(at).await.expect("it listens");
    let name = ServerName::try_from("a.test").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.expect("they agree")
}
