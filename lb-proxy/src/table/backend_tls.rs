//! How the backends of a set are spoken to, compiled.

use std::{fmt, net::SocketAddr, sync::Arc};

use lb_common::{
    id::BackendSetName,
    material::Materials,
    secret::Secret,
    spec::{self, TlsVersion, Trust, UNVERIFIED},
};
use lb_tls::{
    certificate,
    client::{self, Client, ClientOptions, client},
};
use rustls::ClientConfig;

use super::tls::{Certificates, Compiled, Unusable, content, text};

/// What a set's backends must show and are shown, and what it was made of. One that is made anew takes
/// no connection and no session over from the one before.
pub struct BackendTls {
    config: ClientConfig,
    spec: spec::BackendTls,
    ca: Option<Secret>,
    certificate: Option<Arc<Compiled>>,
}

impl BackendTls {
    /// `former` is what it was before; it stays if nothing of it is new.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn new(
        set: &BackendSetName,
        spec: &spec::BackendTls,
        materials: &Materials,
        certificates: &Certificates,
        former: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Unusable> {
        let unusable =
            |reason: String| Unusable { resource: format!("backend_sets[{set}].tls"), reason };
        let ca = spec.ca().map(|ca| content(ca, materials));
        let ca = ca.transpose().map_err(unusable)?.flatten();
        // One that is ordered and not there yet is not shown.
        let certificate =
            spec.client_certificate.as_ref().and_then(|name| certificates.get(name)).cloned();
        let pointer = |certificate: &Option<_>| certificate.as_ref().map(Arc::as_ptr);
        if let Some(former) = former
            && former.spec == *spec
            && former.ca == ca
            && pointer(&former.certificate) == pointer(&certificate)
        {
            return Ok(Arc::clone(former));
        }
        let roots = match &spec.trust {
            Trust::Ca(pem) => {
                let roots = certificate::certificates(text(pem, ca.as_ref()));
                Some(roots.map_err(|error| unusable(format!("ca {error}")))?)
            }
            Trust::Anybody => {
                tracing::warn!(backend_set = %set, "{UNVERIFIED}");
                None
            }
        };
        let options = ClientOptions {
            trust: roots.as_deref().map_or(client::Trust::Anybody, client::Trust::Of),
            certificate: certificate.as_ref().map(|compiled| &*compiled.certificate),
            only_tls13: spec.min_version == TlsVersion::Tls13,
            // What speaks HTTP/1.1 is asked for by no name: not all that do know it.
            alpn: &[],
        };
        let config = client(&options).map_err(|error| unusable(error.to_string()))?;
        Ok(Arc::new(Self { config, spec: spec.clone(), ca, certificate }))
    }

    /// For the backend at this address, with sessions of its own.
    pub fn client(&self, address: SocketAddr) -> Arc<Client> {
        let verifies = self.spec.ca().is_some();
        Arc::new(Client::new(&self.config, self.spec.name_of(address), verifies))
    }
}

/// What it was made of is partly secret.
impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTls").field("spec", &self.spec).finish_non_exhaustive()
    }
}
