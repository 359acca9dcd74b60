//! Messages with secrets in them, printed without these.

use std::fmt;

use crate::{
    pem::{has_key, is_text, names_it},
    v1,
};

impl fmt::Debug for v1::BackupMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, content: _, needed } = self;
        f.debug_struct("BackupMaterial")
            .field("id", id)
            .field("needed", needed)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, cert, key, acme } = self;
        let shown =
            |text: &str, is_shown| if is_shown { text.to_owned() } else { "(secret)".into() };
        // Whatever is neither PEM nor a path may be a key that lacks its first line.
        let is_public = is_text(cert) && !has_key(cert);
        f.debug_struct("Certificate")
            .field("name", name)
            .field("cert", &shown(cert, is_public || names_it(cert)))
            .field("key", &shown(key, names_it(key)))
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

impl fmt::Debug for v1::Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind: _, name, content: _ } = self;
        let kind = self.kind();
        f.debug_struct("Resource").field("kind", &kind).field("name", name).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { snapshot, revision, content: _ } = self;
        f.debug_struct("Update")
            .field("snapshot", snapshot)
            .field("revision", revision)
            .finish_non_exhaustive()
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
        let of_key = v1::Certificate { key: key.into(), acme: Some(acme), ..<_>::default() };
        let bare = || "c2VjcmV0".to_owned();
        let of_bare = v1::Certificate { cert: bare(), key: bare(), ..<_>::default() };
        let spec = v1::Spec { certificates: vec![of_key, of_bare], ..<_>::default() };
        let kind = v1::Kind::Material.into();
        let material = v1::Resource { kind, name: "key:x".into(), content: key.into() };
        let content = Some(v1::update::Content::Full(key.into()));
        let update = v1::Update { content, ..v1::Update::default() };
        let printed =
            format!("{spec:?} {material:?} {update:?} {spec:#?} {material:#?} {update:#?}");
        assert!(
            printed.contains("key:x") && printed.contains("kid-1") && !printed.contains("PRIVATE"),
            "{printed}"
        );
        assert!(!printed.contains("c2VjcmV0"), "{printed}");
        let named = v1::Certificate {
            cert: "/a.pem".into(),
            key: "sha256:00".into(),
            ..v1::Certificate::default()
        };
        let printed = format!("{named:?}");
        assert!(printed.contains("/a.pem") && printed.contains("sha256:00"), "{printed}");
    }
}
