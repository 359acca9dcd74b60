//! Real backends: nginx as Debian has it, one process each.

use std::{fs, net::SocketAddr, path::Path};

use crate::{ports::Port, process::Process, tools::tool};

/// Answers `/health` with 200 and everything else with its name, also in `X-Backend`.
#[derive(Debug)]
pub struct Nginx {
    pub name: String,
    port: Port,
    process: Process,
}

// === impl Nginx ===

impl Nginx {
    /// Returns when it listens. `dir` takes its files.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(dir: &Path, name: &str) -> Self {
        Self::start_as(dir, name, "", "").await
    }

    /// As [`Nginx::start`], with TLS. `lines` are more of its server's configuration. `X-Reused` says
    /// "r" where a session was resumed.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_tls(dir: &Path, name: &str, lines: &str) -> Self {
        Self::start_as(dir, name, "ssl", lines).await
    }

    /// As [`Nginx::start`]; `how` follows its address, and `lines` are more of its server's
    /// configuration.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_as(dir: &Path, name: &str, how: &str, lines: &str) -> Self {
        let port = Port::reserve();
        let prefix = dir.join(name);
        fs::create_dir(&prefix).unwrap_or_else(|error| panic!("{}: {error}", prefix.display()));
        let file = prefix.join("nginx.conf");
        fs::write(&file, config(name, port.address(), how, lines)).expect("its directory is there");
        let args = ["-p".as_ref(), prefix.as_path(), "-c".as_ref(), file.as_path()];
        let process = Process::start(dir, name, &tool("nginx"), &args);
        let nginx = Self { name: name.into(), port, process };
        nginx.process.listens(nginx.address()).await;
        nginx
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// As `kill -9`: whatever it was doing, its connections are reset.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// After [`Nginx::kill`], at the same port.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        self.process.restart();
        self.process.listens(self.address()).await;
    }
}

/// One process without a master, so that killing it kills all of it.
fn config(name: &str, address: SocketAddr, how: &str, lines: &str) -> String {
    format!(
        "daemon off;
         master_process off;
         pid nginx.pid;
         error_log stderr notice;
         events {{ worker_connections 4096; }}
         http {{
           access_log off;
           client_body_temp_path client_body;
           proxy_temp_path proxy;
           fastcgi_temp_path fastcgi;
           uwsgi_temp_path uwsgi;
           scgi_temp_path scgi;
           server {{
             listen {address} {how};
             {lines}
             location = /health {{ return 200 'ok\\n'; }}
             location / {{
               add_header X-Backend {name};
               add_header X-Reused $ssl_session_reused;
               return 200 '{name}\\n';
             }}
           }}
         }}"
    )
}
