//! HAProxy as Debian has it: a balancer in front of ours, or behind it.

use std::{fs, net::SocketAddr, path::Path};

use crate::{ports::Port, process::Process, tools::tool};

/// Passes on what comes to where it is told to.
#[derive(Debug)]
pub struct HaProxy {
    port: Port,
    process: Process,
}

/// What it is.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// `http` or `tcp`.
    pub mode: &'a str,
    /// What follows the address where it listens, `accept-proxy` for instance.
    pub bind: &'a str,
    pub to: SocketAddr,
    /// What follows the address where it connects, `send-proxy-v2` for instance.
    pub server: &'a str,
}

// === impl HaProxy ===

impl HaProxy {
    /// Returns when it listens. `dir` takes its files.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(dir: &Path, name: &str, setup: Setup<'_>) -> Self {
        let port = Port::reserve();
        let file = dir.join(format!("{name}.cfg"));
        fs::write(&file, config(port.address(), setup)).expect("its directory is there");
        let args = ["-db".as_ref(), "-f".as_ref(), file.as_path()];
        let process = Process::start(dir, name, &tool("haproxy"), &args);
        let haproxy = Self { port, process };
        haproxy.process.listens(haproxy.address()).await;
        haproxy
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

fn config(address: SocketAddr, Setup { mode, bind, to, server }: Setup<'_>) -> String {
    format!(
        "global
           maxconn 1000
         defaults
           mode {mode}
           timeout connect 20s
           timeout client 20s
           timeout server 20s
         listen front
           bind {address} {bind}
           unique-id-format %{{+X}}o\\ id-%ci:%cp
           server one {to} {server}\n"
    )
}
