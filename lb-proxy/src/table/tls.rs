//! Certificates and what listeners offer with them, compiled.

use std::sync::Arc;

use lb_common::{
    id::CertificateName,
    map::HashMap,
    material::{MaterialId, Materials},
    secret::Secret,
    snapshot::Snapshot,
    spec::{self, CertificateSource, Pem, TlsVersion},
};
use lb_tls::{
    certificate::{self, Certificate},
    server::{ClientAuth, ServerOptions, server},
    tickets::{Keys, Tickets},
};
use rustls::ServerConfig;

/// A certificate, and what it was made of.
#[derive(Debug)]
pub struct Compiled {
    pub certificate: Arc<Certificate>,
    spec: Arc<spec::Certificate>,
    made_of: Vec<Secret>,
}

/// By name.
pub type Certificates = HashMap<CertificateName, Arc<Compiled>>;

/// What a listener offers its clients, and what it was made of.
#[derive(Debug)]
pub struct ListenerTls {
    pub config: Arc<ServerConfig>,
    certificates: Vec<Arc<Compiled>>,
    /// Of clients.
    pub(super) ca: Option<Secret>,
    tickets: Option<Secret>,
}

/// Which resource cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {reason}")]
pub struct Unusable {
    pub resource: String,
    pub reason: String,
}

/// What did not change is that of the version before, and so is what cannot be used: the controller
/// hands out none that cannot, and if it does all the same, the rest of a snapshot is not to wait for it.
///
/// # Errors
/// If one of them is new, and is not there or cannot be used.
pub fn compile(snapshot: &Snapshot, former: &Certificates) -> Result<Certificates, Unusable> {
    let compiled = snapshot.desired.certificates.iter().map(|(name, spec)| {
        let old = former.get(name);
        if spec.is_awaited(&snapshot.materials) {
            return Ok(None);
        }
        let compiled =
            Compiled::new(spec, &snapshot.materials, old).or_else(|reason| match old {
                Some(old) => {
                    tracing::error!(certificate = %name, reason, "a certificate is not replaced");
                    Ok(Arc::clone(old))
                }
                None => Err(Unusable { resource: format!("certificates[{name}]"), reason }),
            })?;
        Ok(Some((name.clone(), compiled)))
    });
    compiled.filter_map(Result::transpose).collect()
}

impl Compiled {
    fn new(
        spec: &Arc<spec::Certificate>,
        materials: &Materials,
        old: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        let made_of = spec.materials();
        let made_of: Result<Vec<_>, _> =
            made_of.iter().map(|id| get(materials, id).cloned()).collect();
        let made_of = made_of?;
        if let Some(old) = old
            && old.spec == *spec
            && old.made_of == made_of
        {
            return Ok(Arc::clone(old));
        }
        let (chain, key) = match (&spec.source, &made_of[..]) {
            (CertificateSource::Pair { chain: Pem::Text(chain), .. }, [key]) => {
                (chain.as_bytes(), key.reveal())
            }
            (CertificateSource::Pair { .. }, [chain, key]) => (chain.reveal(), key.reveal()),
            (CertificateSource::Acme(_), [both]) => (both.reveal(), both.reveal()),
            (_, parts) => return Err(format!("it has {} parts", parts.len())),
        };
        let certificate = Certificate::read(chain, key).map_err(|error| error.to_string())?;
        let certificate = Arc::new(certificate);
        Ok(Arc::new(Self { certificate, spec: Arc::clone(spec), made_of }))
    }
}

impl ListenerTls {
    /// `former` is what it offered before, if its settings were the same.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn new(
        spec: &spec::Listener,
        tls: &spec::ListenerTls,
        protocols: &[&[u8]],
        materials: &Materials,
        certificates: &Certificates,
        former: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Unusable> {
        let unusable =
            |reason: String| Unusable { resource: format!("listeners[{}].tls", spec.name), reason };
        let compiled: Vec<_> =
            tls.certificates.iter().filter_map(|name| certificates.get(name).cloned()).collect();
        let ca = tls.client_auth.as_ref().map(|auth| content(&auth.ca, materials));
        let ca = ca.transpose().map_err(unusable)?.flatten();
        let tickets = materials.get(&MaterialId::tickets()).cloned();
        if let Some(former) = former
            && former.config.alpn_protocols == protocols
            && former.is_made_of(&compiled, ca.as_ref(), tickets.as_ref())
        {
            return Ok(Arc::clone(former));
        }
        let roots = match &tls.client_auth {
            None => None,
            Some(auth) => {
                let roots = certificate::certificates(text(&auth.ca, ca.as_ref()));
                Some(roots.map_err(|error| unusable(format!("client_auth.ca {error}")))?)
            }
        };
        let client_auth = tls
            .client_auth
            .as_ref()
            .zip(roots.as_ref())
            .map(|(auth, roots)| ClientAuth { ca: roots, is_required: auth.is_required });
        let keys = tickets.as_ref().and_then(|keys| Keys::read(keys.reveal())).unwrap_or_default();
        // A ticket is good for the listener that gave it: who has come to another one checks its
        // certificate.
        let demands = format!("{:?} {tls:?} {client_auth:?}", spec.name);
        let options = ServerOptions {
            certificates: &compiled.iter().map(|c| Arc::clone(&c.certificate)).collect::<Vec<_>>(),
            only_tls13: tls.min_version == TlsVersion::Tls13,
            client_auth,
            tickets: Arc::new(Tickets::new(&keys.keys, demands.as_bytes())),
            alpn: protocols,
        };
        let config = server(&options).map_err(|error| unusable(error.to_string()))?;
        Ok(Arc::new(Self { config, certificates: compiled, ca, tickets }))
    }

    fn is_made_of(
        &self,
        certificates: &[Arc<Compiled>],
        ca: Option<&Secret>,
        tickets: Option<&Secret>,
    ) -> bool {
        self.certificates.len() == certificates.len()
            && self.certificates.iter().zip(certificates).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.ca.as_ref() == ca
            && self.tickets.as_ref() == tickets
    }
}

/// What of a PEM is elsewhere.
pub(super) fn content(pem: &Pem, materials: &Materials) -> Result<Option<Secret>, String> {
    pem.material().map(|id| get(materials, &id).cloned()).transpose()
}

/// The PEM, of which this is elsewhere.
pub(super) fn text<'a>(pem: &'a Pem, content: Option<&'a Secret>) -> &'a [u8] {
    match pem {
        Pem::Text(text) => text.as_bytes(),
        Pem::File(_) => content.map_or(&[], Secret::reveal),
    }
}

fn get<'a>(materials: &'a Materials, id: &MaterialId) -> Result<&'a Secret, String> {
    materials.get(id).ok_or_else(|| format!("{id} was not sent by the controller"))
}
