//! How backends that are spoken to by TLS are probed: with the settings of their set, as proxies do.
//!
//! No session is resumed, because whether a backend's certificate is good is part of the question.

use std::{fmt, net::SocketAddr, sync::Arc};

use lb_common::{
    material::Materials,
    secret::Secret,
    spec::{self, BackendSet, Certificate, DesiredState, Probe, TlsVersion, Trust},
};
use lb_tls::client::{self, ClientOptions, client};
use rustls::{ClientConfig, pki_types::ServerName};

use crate::vault;

/// Of one set.
pub struct ProbeTls {
    made_of: MadeOf,
    /// Or why there is none. The vault has said so, too.
    config: Result<Arc<ClientConfig>, String>,
}

#[derive(PartialEq)]
struct MadeOf {
    spec: spec::BackendTls,
    certificate: Option<Arc<Certificate>>,
    /// What these need.
    materials: Vec<Option<Secret>>,
    is_h2: bool,
}

impl ProbeTls {
    /// `None` if it is not asked for. `former` is what it was before; it stays if nothing of it is new.
    pub fn of(
        set: &BackendSet,
        probe: &Probe,
        desired: &DesiredState,
        materials: &Materials,
        former: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        let spec = set.tls.clone()?;
        let name = spec.client_certificate.as_ref();
        let certificate = name.and_then(|name| desired.certificates.get(name)).cloned();
        let of_certificate = certificate.iter().flat_map(|spec| spec.materials());
        let ids = spec.ca().and_then(spec::Pem::material).into_iter().chain(of_certificate);
        let materials_of = ids.map(|id| materials.get(&id).cloned()).collect();
        let is_h2 = matches!(probe, Probe::Grpc { .. });
        let made_of = MadeOf { spec, certificate, materials: materials_of, is_h2 };
        if let Some(former) = former
            && former.made_of == made_of
        {
            return Some(Arc::clone(former));
        }
        let config = config(&made_of, materials).map(Arc::new);
        Some(Arc::new(Self { made_of, config }))
    }

    /// # Errors
    /// Why there is none.
    pub fn config(&self) -> Result<&Arc<ClientConfig>, &str> {
        self.config.as_ref().map_err(String::as_str)
    }

    pub fn name_of(&self, address: SocketAddr) -> ServerName<'static> {
        self.made_of.spec.name_of(address)
    }
}

fn config(of: &MadeOf, materials: &Materials) -> Result<ClientConfig, String> {
    let certificate = of.certificate.as_ref().filter(|spec| !spec.is_awaited(materials));
    let certificate = certificate.map(|spec| vault::certificate(spec, materials)).transpose()?;
    let roots = match &of.spec.trust {
        Trust::Ca(ca) => Some(vault::ca(ca, materials)?),
        Trust::Anybody => None,
    };
    let options = ClientOptions {
        trust: roots.as_deref().map_or(client::Trust::Anybody, client::Trust::Of),
        certificate: certificate.as_ref(),
        only_tls13: of.spec.min_version == TlsVersion::Tls13,
        alpn: if of.is_h2 { &[b"h2"] } else { &[] },
    };
    client(&options).map_err(|error| error.to_string())
}

/// What it was made of is partly secret.
impl fmt::Debug for ProbeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeTls").field("spec", &self.made_of.spec).finish_non_exhaustive()
    }
}
