//! How a backend is asked: what its monitor decides, and a probe goes by.

use std::sync::Arc;

use lb_common::spec::{HealthCheck, ProxyVersion};

use super::tls::ProbeTls;

/// How a backend is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    pub check: Arc<HealthCheck>,
    pub tls: Option<Arc<ProbeTls>>,
    pub proxy_protocol: Option<ProxyVersion>,
}

// === impl Asking ===

impl Asking {
    /// Whether it asks the same, in the same way.
    pub fn is(&self, other: &Self) -> bool {
        let tls = |asking: &Self| asking.tls.as_ref().map(Arc::as_ptr);
        self.check == other.check
            && tls(self) == tls(other)
            && self.proxy_protocol == other.proxy_protocol
    }
}
