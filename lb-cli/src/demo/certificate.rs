//! A certificate for the demo, from a CA that is made for it and forgotten.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Where it is.
pub struct Files {
    /// Whom clients are to believe.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Of this host only, as the demo is.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// # Errors
/// If it cannot be made, or written.
pub fn make(directory: &Path) -> anyhow::Result<Files> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "lb demo");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    let key = KeyPair::generate()?;
    let mut own = CertificateParams::new(NAMES.map(str::to_owned))?;
    own.distinguished_name.push(DnType::CommonName, "localhost");
    let own = own.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let files = Files {
        ca: directory.join("ca.pem"),
        cert: directory.join("site.pem"),
        key: directory.join("site.key"),
    };
    write(&files.ca, &ca_cert.pem())?;
    write(&files.cert, &own.pem())?;
    write(&files.key, &key.serialize_pem())?;
    Ok(files)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
