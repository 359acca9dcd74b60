//! Pebble, Let's Encrypt's own ACME server for tests, as Debian has it; and a DNS server of its kind, which
//! says where names lead. It forgets everything when it ends, its accounts and its root among it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    certs::Ca,
    curl,
    eventually::{eventually, holds},
    ports::Port,
    process::Process,
    tools::tool,
};

#[derive(Debug)]
pub struct Pebble {
    pub process: Process,
    _dns: Process,
    _dns_port: Port,
    dns_management: Port,
    acme: Port,
    management: Port,
    http: Port,
    tls: Port,
    dir: PathBuf,
    /// Who signed the certificate of the directory's server.
    ca: PathBuf,
}

/// How it is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// For how many seconds certificates are good.
    pub validity: Option<u32>,
    /// What the key is called by which an account must be tied to another one, and the key.
    pub eab: Option<(&'a str, &'a str)>,
    /// So many seconds it waits at most before it looks whether a domain is ours.
    pub sleep: u32,
}

impl Pebble {
    /// # Panics
    /// If it does not start.
    pub async fn start(dir: &Path, options: Options<'_>) -> Self {
        let dir = dir.join("pebble");
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let [dns_port, dns_management, acme, management, http, tls] =
            [(); 6].map(|()| Port::reserve());
        let dns = Process::start(
            &dir,
            "dns",
            &tool("pebble-challtestsrv"),
            &[
                format!("-dns01={}", dns_port.address()),
                format!("-management={}", dns_management.address()),
                "-http01=".into(),
                "-https01=".into(),
                "-tlsalpn01=".into(),
                "-defaultIPv6=".into(),
            ],
        );
        let authority = Ca::new("the directory's");
        let (cert, key) = authority.sign(&["127.0.0.1"]).write(&dir, "directory");
        let keys: BTreeMap<_, _> = options.eab.into_iter().collect();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": acme.address().to_string(),
            "managementListenAddress": management.address().to_string(),
            "certificate": cert,
            "privateKey": key,
            "httpPort": http.address().port(),
            "tlsPort": tls.address().port(),
            "externalAccountBindingRequired": options.eab.is_some(),
            "externalAccountMACKeys": keys,
            "certificateValidityPeriod": options.validity.unwrap_or(0),
        }});
        let file = dir.join("config.json");
        fs::write(&file, config.to_string()).expect("it can be written");
        let args = [
            match options.sleep {
                0 => "PEBBLE_VA_NOSLEEP=1".to_owned(),
                sleep => format!("PEBBLE_VA_SLEEPTIME={sleep}"),
            },
            tool("pebble").display().to_string(),
            format!("-config={}", file.display()),
            format!("-dnsserver={}", dns_port.address()),
        ];
        let process = Process::start(&dir, "pebble", &tool("env"), &args);
        let ca = authority.write(&dir);
        let (_dns, _dns_port) = (dns, dns_port);
        let pebble =
            Self { process, _dns, _dns_port, dns_management, acme, management, http, tls, dir, ca };
        pebble.serves().await;
        pebble
    }

    /// After its process was killed, as if it had never been.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        self.process.restart();
        self.serves().await;
    }

    async fn serves(&self) {
        eventually("pebble serves", async || {
            let answer = curl::https(self.acme.address(), "127.0.0.1", "/dir", &self.ca, &[]).await;
            holds(answer.status == 200, || answer.log)
        })
        .await;
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.acme.address())
    }

    /// Where it asks by HTTP, at this address.
    pub fn http(&self, ip: IpAddr) -> SocketAddr {
        (ip, self.http.address().port()).into()
    }

    /// Where it makes handshakes, at this address.
    pub fn tls(&self, ip: IpAddr) -> SocketAddr {
        (ip, self.tls.address().port()).into()
    }

    /// The certificate of a spec that is ordered from it, with more lines of TOML for `acme`.
    pub fn entry(&self, name: &str, domains: &[&str], lines: &str) -> String {
        let (directory, ca) = (self.directory(), self.ca.display());
        format!(
            "[[certificates]]\nname = '{name}'\n[certificates.acme]\ndomains = {domains:?}\n\
             directory = '{directory}'\nca = '{ca}'\n{lines}\n"
        )
    }

    /// The certificate of the root that all of its certificates lead to, in a file.
    ///
    /// # Panics
    /// If it does not tell.
    pub async fn root(&self) -> PathBuf {
        let at = self.management.address();
        let answer = curl::https(at, "127.0.0.1", "/roots/0", &self.ca, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.log);
        let file = self.dir.join("root.pem");
        fs::write(&file, answer.body).expect("it can be written");
        file
    }

    /// Says where a name leads, and nowhere else.
    ///
    /// # Panics
    /// If the DNS server does not take it.
    pub async fn leads(&self, host: &str, to: IpAddr) {
        self.tell_dns("clear-a", serde_json::json!({ "host": host })).await;
        self.tell_dns("add-a", serde_json::json!({ "host": host, "addresses": [to] })).await;
    }

    async fn tell_dns(&self, what: &str, body: Value) {
        let url = format!("http://{}/{what}", self.dns_management.address());
        let body = body.to_string();
        eventually("the DNS server takes a name", async || {
            let mut command = Command::new(tool("curl"));
            command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--data", &body]);
            let output = command.arg(&url).stdin(Stdio::null()).output().await.expect("curl runs");
            let error = || String::from_utf8_lossy(&output.stderr).into_owned();
            holds(output.status.success(), error)
        })
        .await;
    }
}
