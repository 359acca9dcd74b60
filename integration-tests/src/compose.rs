//! The fleet of docker-compose.yml, started as its users start it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command as Blocking, Output},
    time::Duration,
};

use lb_common::clock;
use lb_proto::v1::{
    BackendStatus, ListBackendsRequest, ListProxiesRequest, ListProxiesResponse,
    fleet_client::FleetClient,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::transport::Endpoint;

use crate::{
    client,
    eventually::{eventually_within, holds, within},
    fleet::Api,
    metrics::Metrics,
    ports::Port,
};

/// A project of docker-compose, at ports of its own. Gone when this is dropped.
#[derive(Debug)]
pub struct Compose {
    program: Vec<&'static str>,
    environment: Vec<(&'static str, String)>,
    grpc: Port,
    // What follows is only kept: the ranges of ports, the configuration, the machine's lock.
    _ports: Vec<Port>,
    _config: TempDir,
    _lock: File,
}

/// One of its containers.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub service: String,
    /// As `docker inspect` says it.
    pub inspected: Value,
}

/// One at a time on a machine (see [`lock`]), so that what a killed test left behind is known by
/// this name, and is removed by the next.
const PROJECT: &str = "lb-compose-test";
/// Another than the file's own, lest a fleet be running there.
const SUBNET: &str = "172.29.78";
const DEFAULT_SUBNET: &str = "172.29.77";
/// So many proxies may be published.
const RANGE: usize = 10;
/// The image is built in this time too.
const UP_WITHIN: Duration = Duration::from_secs(25 * 60);
/// Containers are slower than processes.
pub const PATIENCE: Duration = Duration::from_secs(90);

// === impl Compose ===

impl Compose {
    /// Makes what has to be there before the first `up`: base images, ports, configuration.
    ///
    /// # Panics
    /// If there is no Docker engine, or it does not do what it is told.
    pub fn new() -> Self {
        let program = installed();
        let lock = lock();
        run(Blocking::new(root().join("integration-tests/images")));
        let config = tempfile::tempdir().expect("the system has a place for temporary files");
        let file = root().join("deploy/compose/lb.toml");
        let text = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
            .replace(DEFAULT_SUBNET, SUBNET);
        fs::write(config.path().join("lb.toml"), text).expect("the directory was just made");
        // It is read by a user who is nobody here.
        fs::set_permissions(config.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("the directory was just made");

        let (grpc, admin) = (Port::reserve(), Port::reserve());
        let (http, proxy_admin) = (Port::reserve_range(RANGE), Port::reserve_range(RANGE));
        let range = |ports: &[Port]| {
            let of = |port: Option<&Port>| port.expect("it is not empty").address().port();
            format!("{}-{}", of(ports.first()), of(ports.last()))
        };
        let environment = vec![
            ("LB_HTTP_PORTS", range(&http)),
            ("LB_PROXY_ADMIN_PORTS", range(&proxy_admin)),
            ("LB_GRPC_PORT", grpc.address().port().to_string()),
            ("LB_ADMIN_PORT", admin.address().port().to_string()),
            ("LB_SUBNET", SUBNET.into()),
            ("LB_CONFIG_DIR", config.path().display().to_string()),
            ("LB_IMAGE", PROJECT.into()),
            ("LB_PROFILE", "plain".into()),
        ];
        let ports = http.into_iter().chain(proxy_admin).chain([admin]).collect();
        let compose =
            Self { program, environment, grpc, _ports: ports, _config: config, _lock: lock };
        compose.remove_all();
        compose
    }

    fn command(&self, args: &[&str]) -> Blocking {
        let mut command = Blocking::new(self.program[0]);
        command.args(&self.program[1..]).args(["-p", PROJECT]).args(args).current_dir(root());
        for (key, _) in
            std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("LB_"))
        {
            command.env_remove(key);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `docker-compose ARGS`.
    ///
    /// # Panics
    /// If that fails.
    pub async fn run(&self, args: &[&str]) -> String {
        let started = clock::now();
        let mut command = Command::from(self.command(args));
        let output = within(UP_WITHIN, &format!("{args:?}"), command.output()).await;
        println!("docker-compose {} took {:?}", args.join(" "), clock::now() - started);
        succeeded(&format!("{command:?}"), output)
    }

    /// Its containers, those that do not run too.
    ///
    /// # Panics
    /// If Docker does not say.
    pub async fn containers(&self) -> Vec<Container> {
        let label = format!("label=com.docker.compose.project={PROJECT}");
        let ids = docker(&["ps", "--all", "--quiet", "--filter", &label]).await;
        let mut args = vec!["inspect"];
        args.extend(ids.lines());
        if args.len() == 1 {
            return Vec::new();
        }
        let all: Vec<Value> = serde_json::from_str(&docker(&args).await).expect("it is JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.into_iter()
            .map(|inspected| Container {
                id: text(&inspected["Id"]),
                service: text(&inspected["Config"]["Labels"]["com.docker.compose.service"]),
                inspected,
            })
            .collect()
    }

    /// Those of one service.
    ///
    /// # Panics
    /// If Docker does not say.
    pub async fn service(&self, name: &str) -> Vec<Container> {
        let mut containers = self.containers().await;
        containers.retain(|container| container.service == name);
        containers
    }

    /// Waits until so many proxies follow the controller, and all containers are healthy.
    ///
    /// # Panics
    /// If they do not come to.
    pub async fn settled(&self, proxies: usize) {
        eventually_within(PATIENCE, "all containers are healthy", async || {
            let containers = self.containers().await;
            let states: Vec<_> =
                containers.iter().map(|one| format!("{} {}", one.service, one.health())).collect();
            holds(containers.iter().all(|one| one.health() == "healthy"), || states.join(", "))
        })
        .await;
        self.proxies_are(&format!("{proxies} proxies are in sync"), |list| {
            list.proxies.iter().filter(|proxy| proxy.connected && proxy.in_sync).count() == proxies
        })
        .await;
    }

    /// Waits until the controller says that of its proxies.
    ///
    /// # Panics
    /// If it does not come to.
    pub async fn proxies_are(&self, what: &str, is: impl Fn(&ListProxiesResponse) -> bool) {
        eventually_within(PATIENCE, what, async || {
            let list = self.api().await?.list_proxies(ListProxiesRequest {}).await;
            let list = list.map_err(|status| status.to_string())?.into_inner();
            holds(is(&list), || format!("{list:?}"))
        })
        .await;
    }

    /// Waits until the controller says that of its backends.
    ///
    /// # Panics
    /// If it does not come to.
    pub async fn backends_are(&self, what: &str, is: impl Fn(&[BackendStatus]) -> bool) {
        eventually_within(PATIENCE, what, async || {
            let list = self.api().await?.list_backends(ListBackendsRequest::default()).await;
            let list = list.map_err(|status| status.to_string())?.into_inner().backends;
            holds(is(&list), || format!("{list:?}"))
        })
        .await;
    }

    /// # Errors
    /// If the controller does not answer.
    pub async fn api(&self) -> Result<Api, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc.address()));
        let channel = endpoint.expect("an address makes a URL").connect().await;
        channel.map(FleetClient::new).map_err(|error| format!("{error:?}"))
    }

    fn remove_all(&self) {
        let output =
            self.command(&["down", "--volumes", "--remove-orphans", "--timeout=5"]).output();
        match output {
            Ok(output) if output.status.success() => {}
            other => eprintln!("what the test started may still be there: {other:?}"),
        }
    }
}

impl Default for Compose {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(output) = self.command(&["logs", "--no-color", "--tail=40"]).output()
        {
            eprintln!("=== its logs ===\n{}\n", String::from_utf8_lossy(&output.stdout));
        }
        self.remove_all();
    }
}

// === impl Container ===

impl Container {
    /// `healthy`, `starting`, `unhealthy`, or what else it is if it does not run.
    pub fn health(&self) -> &str {
        let state = &self.inspected["State"];
        match state["Status"].as_str() {
            Some("running") => state["Health"]["Status"].as_str().unwrap_or("running"),
            other => other.unwrap_or("unknown"),
        }
    }

    /// The fleet's name for it, if it is a proxy.
    ///
    /// # Panics
    /// If Docker does not say.
    pub fn host_name(&self) -> &str {
        self.inspected["Config"]["Hostname"].as_str().expect("it has one")
    }

    /// Where one of its ports is published.
    ///
    /// # Panics
    /// If it is not.
    pub fn published(&self, port: u16) -> SocketAddr {
        let places = &self.inspected["NetworkSettings"]["Ports"][format!("{port}/tcp")];
        let number = places[0]["HostPort"].as_str().and_then(|number| number.parse().ok());
        let number: u16 = number.unwrap_or_else(|| panic!("{port} is published at {places}"));
        (Ipv4Addr::LOCALHOST, number).into()
    }

    /// Where clients reach it, if it is a proxy.
    ///
    /// # Panics
    /// If it is not.
    pub fn web(&self) -> SocketAddr {
        self.published(8080)
    }

    /// # Panics
    /// If it is not a proxy, or does not answer.
    pub async fn metrics(&self) -> Metrics {
        let answer = client::get(self.published(7101), "/metrics").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        Metrics::parse(&answer.text())
    }
}

/// `docker ARGS`.
///
/// # Panics
/// If that fails.
pub async fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output();
    succeeded(&format!("docker {args:?}"), within(PATIENCE, "docker answers", output).await)
}

/// Name of the network of that name in the file.
pub fn network(name: &str) -> String {
    format!("{PROJECT}_{name}")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How docker-compose is run here.
fn installed() -> Vec<&'static str> {
    let works = |program: &[&str]| {
        let output = Blocking::new(program[0]).args(&program[1..]).arg("version").output();
        output.is_ok_and(|output| output.status.success())
    };
    assert!(
        works(&["docker"]),
        "no Docker engine answers to `docker version`; apt-get install docker.io, start it, and \
         have the right to use it"
    );
    let known: [&[&str]; 2] = [&["docker-compose"], &["docker", "compose"]];
    let found = known.into_iter().find(|program| works(program));
    found
        .expect("docker-compose is not installed; apt-get install docker-compose, or run ./test")
        .to_vec()
}

/// Waits for other tests of the machine.
fn lock() -> File {
    let path = std::env::temp_dir().join(format!("{PROJECT}.lock"));
    let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file
}

fn run(mut command: Blocking) {
    let output = command.output();
    succeeded(&format!("{command:?}"), output);
}

fn succeeded(what: &str, output: std::io::Result<Output>) -> String {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed:\n{text}\n{error}");
    text
}
