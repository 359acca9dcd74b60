//! What a listener offers its clients.

use std::sync::Arc;

use rustls::{
    DEFAULT_VERSIONS, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::CertificateDer,
    server::{
        NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::TLS13,
};

use crate::{certificate::Certificate, names::Names, provider};

/// What makes a listener's TLS.
#[derive(Debug)]
pub struct ServerOptions<'a> {
    /// The first one is for clients that ask for a name that none has, or for none.
    pub certificates: &'a [Arc<Certificate>],
    /// No version before 1.3.
    pub only_tls13: bool,
    pub client_auth: Option<ClientAuth<'a>>,
    pub tickets: Arc<dyn ProducesTickets>,
    /// Protocols, the most wanted first.
    pub alpn: &'a [&'a [u8]],
}

/// Clients show a certificate.
#[derive(Debug)]
pub struct ClientAuth<'a> {
    /// Who signs them.
    pub ca: &'a [CertificateDer<'static>],
    pub is_required: bool,
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("the CA {position} cannot be used: {why}")]
    Ca { position: usize, why: String },
    #[error("{0}")]
    Other(String),
}

/// # Errors
/// If they cannot be used.
pub fn server(options: &ServerOptions<'_>) -> Result<Arc<ServerConfig>, OptionsError> {
    let other = |error: &dyn std::fmt::Display| OptionsError::Other(error.to_string());
    let versions: &[&SupportedProtocolVersion] =
        if options.only_tls13 { &[&TLS13] } else { DEFAULT_VERSIONS };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| other(&error))?;
    let builder = match &options.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder.with_client_cert_verifier(verifier(auth)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Names::new(options.certificates)));
    config.alpn_protocols = options.alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // One order for all, as auditors ask for.
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(&options.tickets);
    // Browsers open a few connections at once, and each ticket is for one.
    config.send_tls13_tickets = 2;
    // [`crate::record`] does with the keys what rustls would.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// Whether others can be known by these.
///
/// # Errors
/// If they cannot.
pub fn check_ca(ca: &[CertificateDer<'static>]) -> Result<(), OptionsError> {
    verifier(&ClientAuth { ca, is_required: true }).map(drop)
}

fn verifier(auth: &ClientAuth<'_>) -> Result<Arc<dyn ClientCertVerifier>, OptionsError> {
    let roots = Arc::new(roots(auth.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let verifier = if auth.is_required { verifier } else { verifier.allow_unauthenticated() };
    verifier.build().map_err(|error| OptionsError::Other(error.to_string()))
}

/// # Errors
/// If one of them cannot be one.
pub(crate) fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, OptionsError> {
    let mut roots = RootCertStore::empty();
    for (i, certificate) in ca.iter().enumerate() {
        roots
            .add(certificate.clone())
            .map_err(|error| OptionsError::Ca { position: i + 1, why: error.to_string() })?;
    }
    Ok(roots)
}
