//! Messages with secrets in them, printed without these.

use std::fmt;

use crate::{
    pem::{has_key, is_text},
    v1,
};

impl fmt::Debug for v1::Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, cert, key, acme } = self;
        let shown =
            |text: &str, is_secret| if is_secret { "(secret)".into() } else { text.to_owned() };
        f.debug_struct("Certificate")
            .field("name", name)
            .field("cert", &shown(cert, has_key(cert)))
            .field("key", &shown(key, is_text(key)))
            .field("acme", acme)
            .finish()
    }
}

impl fmt::Debug for v1::Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kid, key: _ } = self;
        f.debug_struct("Eab").field("kid", kid).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, content: _ } = self;
        f.debug_struct("Material").field("id", id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_printed() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let eab = v1::Eab { kid: "kid-1".into(), key: "c2VjcmV0".into() };
        let acme = v1::Acme { eab: Some(eab), ..<_>::default() };
        let certificate = v1::Certificate { key: key.into(), acme: Some(acme), ..<_>::default() };
        let spec = v1::Spec { certificates: vec![certificate], ..<_>::default() };
        let material = v1::Material { id: "key:x".into(), content: key.into() };
        let printed = format!("{spec:?} {material:?} {spec:#?} {material:#?}");
        assert!(
            printed.contains("key:x") && printed.contains("kid-1") && !printed.contains("PRIVATE"),
            "{printed}"
        );
        assert!(!printed.contains("c2VjcmV0"), "{printed}");
    }
}
