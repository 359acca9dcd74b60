//! How backends are spoken to.

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DEFAULT_VERSIONS, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use crate::{
    certificate::{self, Certificate},
    handshake::{Agreed, Handshake},
    provider,
    server::{OptionsError, roots},
    sessions::Sessions,
};

/// What makes the TLS of backends.
#[derive(Debug)]
pub struct ClientOptions<'a> {
    pub trust: Trust<'a>,
    /// What this side shows when it is asked.
    pub certificate: Option<&'a Certificate>,
    /// No version before 1.3.
    pub only_tls13: bool,
    pub alpn: &'a [&'a [u8]],
}

/// Whose certificates are believed.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those that one of these signed.
    Of(&'a [CertificateDer<'static>]),
    /// The same, of those that could be read.
    Roots(&'a Arc<RootCertStore>),
    /// Everybody's.
    Anybody,
}

/// How one server is spoken to.
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    sessions: Arc<Sessions>,
    verifies: bool,
}

/// What servers are spoken to with, with nothing of one of them: no session is kept.
///
/// # Errors
/// If they cannot be used.
pub fn client(options: &ClientOptions<'_>) -> Result<ClientConfig, OptionsError> {
    let other = |error: &dyn fmt::Display| OptionsError::Other(error.to_string());
    let versions: &[&SupportedProtocolVersion] =
        if options.only_tls13 { &[&TLS13] } else { DEFAULT_VERSIONS };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| other(&error))?;
    let builder = match options.trust {
        Trust::Of(ca) => builder.with_root_certificates(roots(ca)?),
        Trust::Roots(roots) => builder.with_root_certificates(Arc::clone(roots)),
        Trust::Anybody => {
            let algorithms = provider().signature_verification_algorithms;
            let anybody = Arc::new(Anybody(algorithms));
            builder.dangerous().with_custom_certificate_verifier(anybody)
        }
    };
    let mut config = match options.certificate {
        Some(certificate) => {
            let CertifiedKey { cert, key, .. } = &*certificate.key;
            let key = CertifiedKey::new(cert.clone(), Arc::clone(key));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = options.alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    // [`crate::record`] does with the keys what rustls would.
    config.enable_secret_extraction = true;
    Ok(config)
}

impl Client {
    /// Sessions with it are resumed. `verifies` says whether `config` believes not everybody.
    pub fn new(config: &ClientConfig, name: ServerName<'static>, verifies: bool) -> Self {
        let mut config = config.clone();
        let sessions = Arc::<Sessions>::default();
        config.resumption = Resumption::store(Arc::clone(&sessions) as _);
        Self { config: Arc::new(config), name, sessions, verifies }
    }

    /// # Errors
    /// If the configuration cannot be used.
    pub fn handshake(&self) -> Result<Handshake, Error> {
        Handshake::client(&self.config, self.name.clone())
    }

    /// The next handshake is a full one: something was wrong with this one.
    pub fn forget_sessions(&self) {
        self.sessions.forget();
    }

    /// Whether a session was resumed with a server whose certificate has expired since. rustls looks at
    /// certificates only when they are shown.
    pub fn has_expired(&self, agreed: &Agreed, wall: Duration) -> bool {
        let shown = agreed.certificates.first().filter(|_| agreed.is_resumed && self.verifies);
        shown.is_some_and(|shown| certificate::has_expired(shown, wall))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Believes whatever certificate is shown, as long as its key is the one that signs.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
