//! Certificates that are ordered from a real ACME server, for a fleet of two proxies.

mod issue;
mod renewal;
mod restart;
mod secrets;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use integration_tests::{
    binaries::binary,
    eventually::{eventually_within, holds},
    fleet::Fleet,
    metrics::Metrics,
    pebble::{Options, Pebble},
};
use lb_proto::v1::{CertificateStatus, ListCertificatesRequest};

/// Where the proxies are: at the same ports of different addresses, as proxies of a real fleet are.
const PLACES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3))];
/// A CA takes its time, and an order that has just failed waits before it is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// `one.test` leads to the first proxy and `two.test` to the second one.
async fn fleet(options: Options<'_>) -> (Fleet, Pebble) {
    with(Fleet::empty().await, (binary("lb-proxy"), Vec::new()), options).await
}

/// As [`fleet`], with proxies that are run like this.
async fn with(
    mut fleet: Fleet,
    proxy: (PathBuf, Vec<String>),
    options: Options<'_>,
) -> (Fleet, Pebble) {
    let pebble = Pebble::start(fleet.dir(), options).await;
    for ((id, host), place) in [("p1", "one.test"), ("p2", "two.test")].into_iter().zip(PLACES) {
        let listen = |name, at: SocketAddr| format!("--listen={name}={at}");
        let flags = [listen("plain", pebble.http(place)), listen("secure", pebble.tls(place))];
        fleet.add_proxy_as(proxy.0.clone(), proxy.1.clone(), id, &flags);
        pebble.leads(host, place).await;
    }
    (fleet, pebble)
}

/// A listener that leads everybody to https, and one with TLS that shows these certificates, before a
/// backend.
fn site(certificates: &[&str], backend: SocketAddr) -> String {
    format!(
        "[[listeners]]
         name = 'plain'
         address = '127.0.0.1:1'
         [[listeners]]
         name = 'secure'
         address = '127.0.0.1:2'
         tls = {{ certificates = {certificates:?} }}
         [[routes]]
         name = 'to-https'
         listeners = ['plain']
         redirect = {{ status = 308, scheme = 'https' }}
         [[routes]]
         name = 'app'
         listeners = ['secure']
         backend_set = 'app'
         [[backend_sets]]
         name = 'app'
         backends = [{{ address = '{backend}' }}]
         "
    )
}

async fn listed(fleet: &Fleet) -> Result<Vec<CertificateStatus>, String> {
    let mut api = fleet.controller.try_api().await?;
    let listed = api.list_certificates(ListCertificatesRequest {}).await;
    Ok(listed.map_err(|status| status.to_string())?.into_inner().certificates)
}

/// Waits until the controller says that of a certificate.
async fn certificate_is(
    fleet: &Fleet,
    name: &str,
    what: &str,
    is: impl Fn(&CertificateStatus) -> bool,
) -> CertificateStatus {
    eventually_within(PATIENCE, &format!("{name} is {what}"), async || {
        let all = listed(fleet).await?;
        let found = all.into_iter().find(|status| status.name == name);
        let found = found.ok_or_else(|| format!("there is no {name}"))?;
        holds(is(&found), || format!("{found:?}"))?;
        Ok::<_, String>(found)
    })
    .await
}

fn state(status: &CertificateStatus) -> &str {
    status.acme.as_ref().map_or("", |acme| &acme.state)
}

/// Waits until a certificate is in force and nothing is wrong with it, everywhere.
async fn issued(fleet: &Fleet, name: &str) -> CertificateStatus {
    let status = certificate_is(fleet, name, "issued", |status| {
        state(status) == "issued" && !status.fingerprint.is_empty() && status.problem.is_empty()
    })
    .await;
    fleet.settled(0).await;
    status
}

/// How many orders have ended so.
async fn orders(fleet: &Fleet, result: &str) -> u64 {
    let page = integration_tests::client::get(fleet.controller.admin(), "/metrics").await.text();
    Metrics::parse(&page).sum("lb_control_acme_orders_total", &[("result", result)]) as u64
}
