//! TLS with clients: certificates, names, versions, resumption; and that nobody sees a key.

mod audit;
mod clients;
mod flood;
mod listeners;
mod renewal;
mod secrets;
mod terms;

use integration_tests::{
    certs::Ca,
    fleet::{Fleet, app, listening},
};
use std::net::SocketAddr;

/// A certificate for `a.test`, and a listener `web` that shows it. `tls` is more of its TLS.
fn site(fleet: &Fleet, ca: &Ca, tls: &str, backend: SocketAddr) -> String {
    let certificate = ca.sign(&["a.test"]).entry(fleet.dir(), "a");
    let tls = format!("tls = {{ certificates = ['a'] {tls} }}");
    format!("{certificate}{}", listening(&app("", "", &[backend]), &tls))
}

/// So many proxies, and nothing to do yet.
async fn fleet(proxies: usize) -> Fleet {
    let mut fleet = Fleet::empty().await;
    for i in 1..=proxies {
        fleet.add_proxy(&format!("p{i}"), &[]);
    }
    fleet
}
