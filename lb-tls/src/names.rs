//! Which certificate a client gets, by the name that it asks for.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::certificate::Certificate;

/// Certificates of one listener. Its hashes are keyed, because clients choose the names.
#[derive(Debug)]
pub(crate) struct Names {
    exact: HashMap<String, Candidates>,
    /// Of `*.example.com`, by `example.com`.
    wildcards: HashMap<String, Candidates>,
    /// For names that nobody has, and for no name.
    default: Candidates,
}

/// Certificates for the same name, with keys of several kinds; the cheapest first.
type Candidates = Vec<Arc<CertifiedKey>>;

impl Names {
    /// The first certificate is the default, together with those that have the same names.
    pub(crate) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut cheapest_first: Vec<_> = certificates.iter().collect();
        cheapest_first.sort_by_key(|certificate| certificate.facts.kind == "rsa");
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        let mut default = Candidates::new();
        for certificate in cheapest_first {
            for name in &certificate.facts.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut wildcards, domain),
                    None => (&mut exact, name.as_str()),
                };
                let candidates: &mut Candidates = names.entry(name.to_owned()).or_default();
                candidates.push(Arc::clone(&certificate.key));
            }
            let first = certificates.first();
            if first.is_some_and(|first| first.facts.names == certificate.facts.names) {
                default.push(Arc::clone(&certificate.key));
            }
        }
        Self { exact, wildcards, default }
    }

    fn of(&self, name: &str) -> Option<&Candidates> {
        let name = name.to_ascii_lowercase();
        self.exact.get(&name).or_else(|| {
            // RFC 6125, section 6.4.3: a star is one label.
            let (_, domain) = name.split_once('.')?;
            self.wildcards.get(domain)
        })
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of(name));
        let offered = hello.signature_schemes();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(offered).is_some();
        named.unwrap_or(&self.default).iter().find(fits).cloned()
    }
}
