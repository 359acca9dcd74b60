//! Who a request is from: what balancers in front say of their clients, whom of them is believed, and
//! what goes by it.

mod passed_on;
mod places;
mod tls;

use std::net::Ipv4Addr;

use integration_tests::{
    client::{Client, Request, Response},
    fleet::Proxy,
    wire::Fields,
};

/// A balancer in front that is trusted, another one, and somebody who is not.
const TRUSTED: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 8, 0, 1);
const TRUSTS: &str = "trusted_proxies = ['127.9.0.0/16', '10.0.0.0/8']";

async fn ask(proxy: &Proxy, from: Ipv4Addr, request: &Request) -> Response {
    Client::connect_from(from, proxy.web()).await.request(request).await
}

fn get(lines: &[(&str, &str)]) -> Request {
    let get = Request::get("/").host("app.test:8080");
    lines.iter().fold(get, |request, (name, value)| request.header(name, value))
}

/// All that says for whom a request was passed on, whatever it is called.
fn said(fields: &Fields) -> Vec<String> {
    let names = ["forwarded", "x-real-ip", "client-cert"];
    let is_about_it = |name: &str| {
        let name = name.to_ascii_lowercase().replace('_', "-");
        names.contains(&&*name)
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-client-cert")
            || name.starts_with("client-cert")
    };
    let of_them = fields.0.iter().filter(|(name, _)| is_about_it(name));
    of_them.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect()
}
