//! Flags that several commands have, and how values are read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where controller and proxies are managed. Not given means the default, or a free port if that
/// one is taken.
#[derive(Debug, Default, clap::Args)]
pub struct Management {
    /// Where the controller serves its API [default: 127.0.0.1:7000, or a free port]
    #[arg(long, env = "LB_GRPC", value_name = "ADDR", value_parser = address)]
    pub grpc: Option<SocketAddr>,

    /// Where the controller serves /metrics, /healthz and /readyz [default: 127.0.0.1:7001, or a
    /// free port]
    #[arg(long, env = "LB_ADMIN", value_name = "ADDR", value_parser = address)]
    pub admin: Option<SocketAddr>,
}

pub const GRPC: SocketAddr = loopback(7000);
pub const ADMIN: SocketAddr = loopback(7001);
/// Of the first proxy; the second one's is the port after it.
pub const PROXY_ADMIN: SocketAddr = loopback(7101);

pub const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// # Errors
/// What would be valid.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let hint = "give an IP address and a port like 127.0.0.1:7000; port 0 is any free one";
    text.trim().parse().map_err(|_| hint.to_owned())
}
