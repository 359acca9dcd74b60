//! A CA of a test's own, and what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::clock;
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};

#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, as PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// What a certificate is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub names: &'a [&'a str],
    pub kind: Kind,
    /// The years in which it is good.
    pub years: (i32, i32),
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

impl Ca {
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        let mut params = params(&[], (2020, 2090));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("it is made");
        let pem = params.self_signed(&key).expect("it signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes its certificate into a file.
    ///
    /// # Panics
    /// If it cannot.
    pub fn write(&self, dir: &Path) -> PathBuf {
        write(dir, "ca.pem", &self.pem)
    }

    /// # Panics
    /// If it cannot be made.
    pub fn sign(&self, names: &[&str]) -> Pair {
        self.sign_as(Wanted { names, kind: Kind::Ecdsa, years: (2020, 2090) })
    }

    /// One that expires so soon.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn sign_for(&self, names: &[&str], time: Duration) -> Pair {
        let mut params = params(names, (2020, 2090));
        let end = std::time::UNIX_EPOCH + clock::wall() + time;
        params.not_after = end.into();
        self.sign_with(names, Kind::Ecdsa, params)
    }

    /// One as public CAs sign them: for 90 days, and with a place where revocations would be.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn sign_as_public(&self, names: &[&str]) -> Pair {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let mut params = params(names, (2020, 2090));
        let now = std::time::UNIX_EPOCH + clock::wall();
        (params.not_before, params.not_after) = ((now - DAY).into(), (now + 89 * DAY).into());
        let uris = vec!["http://127.0.0.1/none.crl".into()];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        self.sign_with(names, Kind::Ecdsa, params)
    }

    /// # Panics
    /// If it cannot be made.
    pub fn sign_as(&self, Wanted { names, kind, years }: Wanted<'_>) -> Pair {
        self.sign_with(names, kind, params(names, years))
    }

    fn sign_with(&self, names: &[&str], kind: Kind, mut params: CertificateParams) -> Pair {
        let algorithm: &SignatureAlgorithm = match kind {
            Kind::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            Kind::Rsa => &PKCS_RSA_SHA256,
        };
        let key = KeyPair::generate_for(algorithm).expect("it is made");
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).expect("it signs").pem();
        Pair { cert, key: key.serialize_pem() }
    }
}

impl Pair {
    /// Writes it into two files.
    ///
    /// # Panics
    /// If it cannot.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let cert = write(dir, &format!("{name}.pem"), &self.cert);
        (cert, write(dir, &format!("{name}.key"), &self.key))
    }

    /// The certificate of a spec, with its two files.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn entry(&self, dir: &Path, name: &str) -> String {
        let (cert, key) = self.write(dir, name);
        let (cert, key) = (cert.display(), key.display());
        format!("[[certificates]]\nname = '{name}'\ncert = '{cert}'\nkey = '{key}'\n")
    }
}

fn params(names: &[&str], years: (i32, i32)) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("they are names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params
}

/// As renewals do it: nobody sees half of it.
fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("it can be written");
    path
}
