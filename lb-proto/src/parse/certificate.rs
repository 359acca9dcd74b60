//! Certificates: where they are. What is in them is looked at by who has it.

use lb_common::{id::CertificateName, spec::Certificate};

use super::At;
use crate::{error::Problems, pem, v1};

pub fn certificate(
    wire: &v1::Certificate,
    path: &str,
    problems: &mut Problems,
) -> Option<Certificate> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, CertificateName::new);
    let chain = at.pem("cert", &wire.cert);
    let key = match wire.key.as_str() {
        "" => {
            at.problem("key", "is empty; give the key as PEM, or the path of a file with it");
            None
        }
        // It is not repeated: it may be a secret.
        key if !pem::is_text(key) && key.contains('\n') => {
            at.problem("key", "is neither PEM nor a path: it has line breaks");
            None
        }
        key => Some(pem::key(key)),
    };
    Some(Certificate { name: name?, chain: chain?, key: key? })
}
