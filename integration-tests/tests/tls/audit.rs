//! What others make of a listener with TLS, who look at all of it: openssl, a browser, testssl.sh.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use integration_tests::{
    certs::Ca,
    fleet::{Fleet, WEB, listening},
    tools::tool,
};
use serde_json::Value;
use tokio::{process::Command, task::JoinSet};

use super::fleet;

/// The names of three certificates; the first is the default.
const NAMES: [&str; 3] = ["a.test", "b.test", "c.test"];

/// Three certificates, and a listener that answers each host with its name.
async fn three_sites(ca: &Ca) -> Fleet {
    let fleet = fleet(1).await;
    let of_name = |name: &&str| {
        // The header is an application's to send; an auditor misses it.
        let answer = format!("body = '{name}', headers = {{ x-content-type-options = 'nosniff' }}");
        let route = format!(
            "[[routes]]\nname = '{name}'\nmatch = {{ host = '{name}' }}\n\
             answer = {{ status = 200, {answer} }}\n"
        );
        ca.sign_as_public(&[name]).entry(fleet.dir(), name) + &route
    };
    let sites: String = NAMES.iter().map(of_name).collect();
    let web = listening(WEB, "tls = { certificates = ['a.test', 'b.test', 'c.test'] }");
    fleet.apply(&format!("{sites}{web}")).await;
    fleet
}

#[tokio::test]
async fn openssl_gets_the_certificate_for_each_name_by_both_versions() {
    let ca = Ca::new("a test's");
    let fleet = three_sites(&ca).await;
    let pem = ca.write(fleet.dir());
    let names = NAMES.map(|name| (name, name)).into_iter().chain([("other.test", "a.test")]);
    for (asked, expected) in names {
        for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let mut openssl = Command::new(tool("openssl"));
            openssl.args(["s_client", flag, "-servername", asked, "-verify_return_error"]);
            openssl.arg("-CAfile").arg(&pem).arg("-connect");
            openssl.arg(fleet.proxies[0].web().to_string()).stdin(Stdio::null());
            let said = openssl.output().await.expect("openssl runs").stdout;
            let said = String::from_utf8_lossy(&said);
            for part in [&*format!("subject=CN = {expected}\n"), version, "return code: 0 (ok)"] {
                assert!(said.contains(part), "{asked} {flag}: no {part} in\n{said}");
            }
        }
    }
    let mut openssl = Command::new(tool("openssl"));
    openssl.args(["s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect"]);
    openssl.arg(fleet.proxies[0].web().to_string()).stdin(Stdio::null());
    let refused = openssl.output().await.expect("openssl runs");
    assert!(!refused.status.success(), "TLS 1.1 is refused");
}

/// What the browser shows of a page, which does not know the CA unless `home` says so.
async fn browsed(home: &Path, at: SocketAddr, name: &str) -> String {
    let mut chromium = Command::new(tool("chromium"));
    // Everything stays on this machine. Without the sandbox, because tests may run as root.
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    chromium.arg("--host-resolver-rules=MAP *.test 127.0.0.1, MAP * ~NOTFOUND");
    chromium.arg(format!("--user-data-dir={}", home.join("profile").display()));
    chromium.arg(format!("https://{name}:{}/", at.port()));
    chromium.env("HOME", home).stdin(Stdio::null()).stderr(Stdio::null());
    let shown = chromium.output().await.expect("Chromium runs").stdout;
    String::from_utf8_lossy(&shown).into_owned()
}

#[tokio::test]
async fn a_browser_shows_the_page_of_each_name_and_no_other() {
    let ca = Ca::new("a test's");
    let fleet = three_sites(&ca).await;
    let home = fleet.dir().join("home");
    let store = home.join(".pki/nssdb");
    std::fs::create_dir_all(&store).expect("it can be made");
    let store = format!("sql:{}", store.display());
    let pem = ca.write(fleet.dir()).display().to_string();
    for args in [
        &["-N", "-d", &*store, "--empty-password"][..],
        &["-A", "-d", &store, "-t", "C,,", "-n", "test", "-i", &pem],
    ] {
        let done = Command::new(tool("certutil")).args(args).status().await.expect("it runs");
        assert!(done.success(), "{args:?}");
    }
    let web = fleet.proxies[0].web();
    for name in NAMES {
        let shown = browsed(&home, web, name).await;
        assert!(shown.contains(&format!("{name}</pre>")), "{name}: {shown}");
    }
    // Whatever page it shows of its own, it is none of ours, not even a refusal.
    let shown = browsed(&home, web, "other.test").await;
    assert!(!shown.contains("</pre>"), "{shown}");
}

const OPTIONS: &[&str] = &[
    "--quiet",
    "--warnings",
    "off",
    "--color",
    "0",
    "--ip",
    "127.0.0.1",
    "--openssl-timeout",
    "20",
];

fn text(finding: &Value, key: &str) -> String {
    finding[key].as_str().unwrap_or_default().to_owned()
}

/// Whether it says that it could not look, and not what it saw.
fn is_undecided(finding: &Value) -> bool {
    text(finding, "severity") == "WARN" && !is_own(finding)
}

/// What this machine's openssl cannot do is no finding of the site's.
fn is_own(finding: &Value) -> bool {
    text(finding, "id") == "engine_problem"
}

/// What testssl.sh finds, called so. Where it was too slow itself for a busy machine, it looks again.
async fn audited(args: Vec<OsString>, file: PathBuf) -> Vec<Value> {
    let mut found = Vec::new();
    for _ in 0..3 {
        // It appends to no file that is there.
        let _ = std::fs::remove_file(&file);
        let mut testssl = Command::new(tool("testssl"));
        testssl.args(&args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        testssl.status().await.expect("testssl.sh runs");
        let said = std::fs::read(&file).expect("it has written what it found");
        let said: Value = serde_json::from_slice(&said).expect("it is JSON");
        found = said.as_array().expect("it is a list").clone();
        if !found.iter().any(is_undecided) {
            break;
        }
    }
    found
}

#[tokio::test]
async fn an_auditor_finds_nothing_that_matters() {
    let ca = Ca::new("a test's");
    let fleet = three_sites(&ca).await;
    let pem = ca.write(fleet.dir());
    // All that it looks at, in parts that run at once: it waits a lot.
    let parts = [
        &["--protocols", "--std", "--fs"][..],
        &["--server-preference", "--server-defaults", "--headers"],
        &["--vulnerable"],
    ];
    let mut running = JoinSet::new();
    for (i, part) in parts.into_iter().enumerate() {
        let file = fleet.dir().join(format!("findings-{i}.json"));
        let site = format!("https://a.test:{}", fleet.proxies[0].web().port());
        let mut args: Vec<OsString> = OPTIONS.iter().chain(part).map(OsString::from).collect();
        args.extend(["--add-ca".into(), pem.clone().into(), "--jsonfile".into()]);
        args.extend([file.clone().into(), site.into()]);
        running.spawn(audited(args, file));
    }
    let mut found: Vec<Value> = Vec::new();
    while let Some(part) = running.join_next().await {
        found.extend(part.expect("it ends"));
    }
    for (id, expected) in [("TLS1", "not offered"), ("TLS1_2", "offered"), ("TLS1_3", "offered")] {
        let finding = found.iter().find(|finding| finding["id"] == id);
        let said = finding.map(|finding| text(finding, "finding")).unwrap_or_default();
        assert!(said.starts_with(expected), "{id}: {said}");
    }
    for id in ["heartbleed", "ROBOT", "cert_chain_of_trust", "cipher_order", "PFS"] {
        assert!(found.iter().any(|f| text(f, "id").starts_with(id)), "it looked at {id}");
    }
    let matters = |finding: &&Value| {
        !(is_own(finding) || ["OK", "INFO", "LOW"].contains(&&*text(finding, "severity")))
    };
    let matters: Vec<_> = found.iter().filter(matters).collect();
    assert!(matters.is_empty(), "{matters:#?}");
}
