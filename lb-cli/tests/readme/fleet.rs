//! The fleet of the README, started as it says, at other ports.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use integration_tests::{
    backend::{Backend, Reply},
    binaries::binary,
    eventually::{eventually, holds},
    grpcurl::Grpcurl,
    ports::Port,
    process::Process,
    tools::tool,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports::replace_ports;

pub struct Fleet {
    processes: Vec<Process>,
    /// Ports in the README, and those that stand for them here.
    ports: BTreeMap<u16, u16>,
    dir: TempDir,
    _reserved: Vec<Port>,
    _backends: Vec<Backend>,
}

const PROCESSES: [u16; 6] = [7000, 7001, 7101, 7102, 8080, 8081];
const BACKENDS: [u16; 3] = [3001, 3002, 3003];

impl Fleet {
    /// Runs the commands that start `lb-control` and `lb-proxy`, with `toml` as `lb.toml`, and
    /// returns when all is well.
    pub async fn start(toml: &str, commands: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ports = BTreeMap::new();
        let mut reserved = Vec::new();
        for number in PROCESSES {
            let port = Port::reserve();
            ports.insert(number, port.address().port());
            reserved.push(port);
        }
        let mut backends = Vec::new();
        for number in BACKENDS {
            let backend = Backend::start(|_| Reply::ok("hello\n")).await;
            ports.insert(number, backend.address().port());
            backends.push(backend);
        }
        let mut fleet =
            Self { processes: vec![], ports, dir, _reserved: reserved, _backends: backends };
        let file = fleet.dir.path().join("lb.toml");
        fs::write(file, fleet.real(toml)).expect("it is our directory");
        for command in commands.lines().filter_map(|line| line.strip_prefix("target/release/")) {
            fleet.run(command);
        }
        fleet.is_well().await;
        fleet
    }

    fn run(&mut self, command: &str) {
        let command = self.real(command);
        let (name, args) = command.split_once(' ').expect("a command with flags");
        let dir = self.dir.path();
        let args: Vec<String> = args.split(' ').map(|arg| in_directory(arg, dir)).collect();
        let log = format!("{name}-{}", self.processes.len());
        self.processes.push(Process::start(dir, &log, &binary(name), &args));
    }

    /// Both proxies run what they should, and all backends have passed their checks.
    async fn is_well(&self) {
        let grpc = self.real("127.0.0.1:7000").parse().expect("it is an address");
        eventually("the controller listens", async || tokio::net::TcpStream::connect(grpc).await)
            .await;
        let api = Grpcurl(grpc);
        eventually("the fleet is well", async || {
            let proxies = api.ok("ListProxies", &json!({})).await;
            let backends = api.ok("ListBackends", &json!({})).await;
            let all = |list: &Value, count: usize, key: &str, value: Value| {
                let list = list.as_array().expect("it is a list");
                list.len() == count && list.iter().all(|item| item[key] == value)
            };
            let well = all(&proxies["proxies"], 2, "inSync", json!(true))
                && all(&backends["backends"], 2, "health", json!("HEALTHY"));
            holds(well, || format!("{proxies}\n{backends}"))
        })
        .await;
    }

    /// What a command of the README prints here, in the README's terms.
    pub fn answer(&self, command: &str) -> String {
        let command = self.real(command);
        let grpcurl = tool("grpcurl");
        let command = command.replacen("grpcurl", grpcurl.to_str().expect("its path is text"), 1);
        let done = Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .output()
            .expect("there is a shell");
        let answer = String::from_utf8(done.stdout).expect("grpcurl prints text");
        let answer = answer.replace(&format!("{}/", self.dir.path().display()), "");
        replace_ports(&answer, |real| {
            let found = self.ports.iter().find(|(_, port)| **port == real);
            found.map_or(real, |(port, _)| *port)
        })
    }

    fn real(&self, text: &str) -> String {
        replace_ports(text, |port| {
            let real = self.ports.get(&port);
            *real.unwrap_or_else(|| panic!("the README has port {port}, which is not known here"))
        })
    }
}

/// `lb.toml` and `data/...` are in the directory of this test.
fn in_directory(arg: &str, dir: &Path) -> String {
    let ours = arg == "lb.toml" || arg.starts_with("data/");
    if ours { dir.join(arg).display().to_string() } else { arg.into() }
}
