//! What a CA is shown that makes a handshake to see whether a domain is ours (`tls-alpn-01`, RFC 8737).

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    certificate::{CertificateError, certificates, signing_key},
    provider,
};

/// It offers this and nothing else.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// What a CA is offered: a certificate, which is given with its key as PEM, and nothing else.
///
/// # Errors
/// If it cannot be used.
pub fn server(pem: &[u8]) -> Result<Arc<ServerConfig>, CertificateError> {
    // Whether they belong together is not asked: what is critical in it only CAs understand.
    let key = CertifiedKey::new(certificates(pem)?, signing_key(pem)?);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::Unreadable(error.to_string()))?;
    let mut config =
        builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // As of every handshake here, what is left of it is a session.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ca_is_offered_may_have_in_it_what_nobody_else_understands() {
        let key = rcgen::KeyPair::generate().expect("it is made");
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a name");
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&[7; 32])];
        let pem = params.self_signed(&key).expect("it signs").pem();
        let config =
            server((pem.clone() + &key.serialize_pem()).as_bytes()).expect("it can be used");
        assert_eq!(config.alpn_protocols, [PROTOCOL]);
        assert_eq!(server(pem.as_bytes()).err(), Some(CertificateError::NoKey));
    }
}
