//! How backends are spoken to.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificate::Certificate,
    provider,
    server::{OptionsError, roots},
};

/// What makes the TLS of a backend.
#[derive(Debug)]
pub struct ClientOptions<'a> {
    /// Who its certificate is believed from.
    pub trust: Trust<'a>,
    /// What this side shows when it is asked.
    pub certificate: Option<&'a Certificate>,
    pub alpn: &'a [&'a [u8]],
}

#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    Of(&'a [CertificateDer<'static>]),
    Roots(&'a Arc<RootCertStore>),
    /// Whoever it is.
    Anybody,
}

/// Sessions with one backend that are kept to be resumed.
const SESSIONS: usize = 32;

/// One for each backend: sessions are resumed with whom they were had with.
///
/// # Errors
/// If they cannot be used.
pub fn client(options: &ClientOptions<'_>) -> Result<Arc<ClientConfig>, OptionsError> {
    let other = |error: &dyn std::fmt::Display| OptionsError::Other(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
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
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    // [`crate::record`] does with the keys what rustls would.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
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
