//! Where the guides are walked through: a directory, and the processes that they start, at ports of
//! their own.

use std::{collections::BTreeMap, env, fs, path::Path, time::Duration};

use integration_tests::{
    eventually::{PATIENCE, eventually, holds},
    ports::Port,
    process::Process,
};
use lb_common::clock;
use lb_proto::v1::{Health, ListBackendsRequest, ListProxiesRequest, fleet_client::FleetClient};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{answer, ports::replace_ports};

pub struct World {
    /// Each by the file that its pid is in, or by its place.
    processes: BTreeMap<String, Process>,
    /// Ports in the guides, and those that stand for them here.
    ports: BTreeMap<u16, u16>,
    dir: TempDir,
    _reserved: Vec<Port>,
}

const PORTS: [u16; 10] = [3001, 3002, 3003, 3004, 7000, 7001, 7101, 7102, 8080, 8081];
const LB: &str = env!("CARGO_BIN_EXE_lb");

/// Commands that only look: what they are to show may take a moment to come.
const LOOKS: [&str; 5] = ["lb proxies", "lb backends", "lb explain", "curl ", "for i in "];

/// After so long, what a command shows is what the guide is to show.
const SETTLED: Duration = Duration::from_secs(4);

impl World {
    /// `as_written` takes the very ports that the guides name.
    pub fn new(as_written: bool) -> Self {
        let mut reserved = Vec::new();
        let mut ports = BTreeMap::new();
        for number in PORTS {
            if as_written {
                ports.insert(number, number);
            } else {
                let port = Port::reserve();
                ports.insert(number, port.address().port());
                reserved.push(port);
            }
        }
        let dir = tempfile::tempdir().expect("the system has a place for temporary files");
        Self { processes: BTreeMap::new(), ports, dir, _reserved: reserved }
    }

    pub fn write(&self, file: &str, text: &str) {
        assert!(!file.contains('/'), "{file} is beside the others");
        fs::write(self.dir.path().join(file), self.real(text)).expect("it is our directory");
    }

    /// A line like `lb proxy --id p2 & echo $! > p2.pid`; what it leaves to defaults is given. One
    /// that ran before, and was told to end, has ended when this returns.
    pub async fn start(&mut self, line: &str) {
        let (command, pid) = match line.split_once(" & echo $! > ") {
            Some((command, file)) => (command, Some(file)),
            None => (line.trim_end_matches('&').trim_end(), None),
        };
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("lb"), "{line}");
        let mut args: Vec<String> = words.map(|word| self.in_directory(&self.real(word))).collect();
        let defaults: &[(&str, &str)] = match args[0].as_str() {
            "control" => &[("--grpc", "127.0.0.1:7000"), ("--admin", "127.0.0.1:7001")],
            "proxy" => &[("--control", "http://127.0.0.1:7000"), ("--admin", "127.0.0.1:7101")],
            _ => &[],
        };
        for (flag, value) in defaults {
            if !args.iter().any(|arg| arg == flag) {
                args.extend([(*flag).to_owned(), self.real(value)]);
            }
        }
        let key = pid.map_or_else(|| self.processes.len().to_string(), Into::into);
        if let Some(mut former) = self.processes.remove(&key) {
            former.ended(PATIENCE).await;
        }
        let process = Process::start(self.dir.path(), &args[0], Path::new(LB), &args);
        if let Some(file) = pid {
            let file = self.dir.path().join(file);
            fs::write(file, process.id().to_string()).expect("it is our directory");
        }
        self.processes.insert(key, process);
    }

    /// Every proxy runs what it should, and every backend is healthy; if there is a controller to
    /// say so.
    pub async fn is_well(&mut self) {
        let mut controllers = self.processes.values_mut().filter(|p| p.name() == "control");
        if !controllers.any(Process::is_running) {
            return;
        }
        let grpc = self.real("http://127.0.0.1:7000");
        eventually("the fleet of the guide is well", async || {
            let mut api = FleetClient::connect(grpc.clone()).await.map_err(|e| e.to_string())?;
            let proxies =
                api.list_proxies(ListProxiesRequest {}).await.map_err(|e| e.to_string())?;
            let proxies = proxies.into_inner().proxies;
            let backends = api.list_backends(ListBackendsRequest::default()).await;
            let backends = backends.map_err(|e| e.to_string())?.into_inner().backends;
            let well = proxies.len() == 2
                && proxies.iter().all(|proxy| proxy.connected && proxy.in_sync)
                && backends.iter().all(|backend| backend.health() == Health::Healthy);
            holds(well, || format!("{proxies:?}\n{backends:?}"))
        })
        .await;
    }

    /// Runs a command until its answer is as expected, if it is one that only looks, and once if
    /// not. Returns the answer in the guide's terms.
    ///
    /// # Panics
    /// If the answer is another one.
    pub async fn answer(&mut self, command: &str, expected: &str, write: bool) -> String {
        let looks = LOOKS.iter().any(|look| command.starts_with(look));
        let deadline = clock::now() + if write { SETTLED } else { PATIENCE };
        loop {
            let seen = self.run(command).await;
            self.is_killed(command).await;
            let Err(difference) = answer::same(expected, &seen) else { return seen };
            let again = looks && clock::now() < deadline;
            if write && !again {
                return seen;
            }
            assert!(
                again,
                "$ {command}\n{difference}\n--- in the guide:\n{expected}--- in truth:\n{seen}"
            );
        }
    }

    /// What a command tells to end has ended when this returns.
    async fn is_killed(&mut self, command: &str) {
        let file = command.strip_prefix("kill ").and_then(|rest| rest.split_once("$(cat "));
        let file = file.and_then(|(_, rest)| rest.strip_suffix(')'));
        if let Some(mut process) = file.and_then(|file| self.processes.remove(file)) {
            process.ended(PATIENCE).await;
        }
    }

    async fn run(&self, command: &str) -> String {
        let bin = Path::new(LB).parent().expect("it is in a directory");
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([bin.to_owned()].into_iter().chain(env::split_paths(&path)));
        let done = Command::new("sh")
            .args(["-c", &format!("( {} ) 2>&1", self.real(command))])
            .current_dir(self.dir.path())
            .env("PATH", path.expect("it was one"))
            .env("LB_CONTROL", self.real("http://127.0.0.1:7000"))
            .env("LB_AUTHOR", "ann")
            .env("COLUMNS", "100")
            .output();
        let done = done.await.expect("there is a shell");
        let answer = String::from_utf8(done.stdout).expect("it prints text");
        let answer = answer.replace(&format!("{}/", self.dir.path().display()), "");
        self.ports.iter().fold(answer, |answer, (port, real)| {
            // Ports stand alone where `lb explain` names them.
            let answer = answer.replace(&format!("127.0.0.1:{real}"), &format!("127.0.0.1:{port}"));
            answer.replace(&format!("URL's, {real}\n"), &format!("URL's, {port}\n"))
        })
    }

    fn in_directory(&self, arg: &str) -> String {
        let ours = arg == "lb.toml" || arg.starts_with("data/");
        if ours { self.dir.path().join(arg).display().to_string() } else { arg.into() }
    }

    fn real(&self, text: &str) -> String {
        replace_ports(text, |port| {
            let real = self.ports.get(&port);
            *real.unwrap_or_else(|| panic!("port {port} is not one of {PORTS:?}"))
        })
    }
}
