//! As systemd starts it: sockets are handed over, states are told, and nothing is lost between one
//! process and the next.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use integration_tests::{
    backend::{Backend, Reply, is_listening},
    binaries::binary,
    client,
    eventually::{PATIENCE, eventually, holds, within},
    fleet::{Fleet, app},
    metrics::Metrics,
    ports::Port,
    process::{Process, Signal},
    tools::tool,
    wrk::Wrk,
};
use lb_proto::v1::{ListProxiesRequest, fleet_client::FleetClient};
use rustix::process::{Pid, kill_process};
use tokio::net::UnixDatagram;

/// What units call the program.
const PROGRAM: &str = "/usr/local/bin/lb";

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

/// Tenths, of ten. A service that nobody thought about has 96 of them.
const MOST_EXPOSURE: &str = "15";

#[test]
fn the_units_are_valid_and_confine_what_they_run() {
    let dir = tempfile::tempdir().expect("the system has a place for temporary files");
    let mut services = Vec::new();
    let mut all = Vec::new();
    for entry in fs::read_dir(units()).expect("the units are there") {
        let from = entry.expect("they can be listed").path();
        let to = dir.path().join(from.file_name().expect("it is a file"));
        let text = fs::read_to_string(&from).expect("it is text");
        // What is to be run has to be there.
        fs::write(&to, text.replace(PROGRAM, "/bin/true")).expect("there is room");
        if to.extension().is_some_and(|extension| extension == "service") {
            assert!(text.contains(&format!("\nExecStart={PROGRAM} ")), "{}", from.display());
            services.push(to.clone());
        }
        all.push(to);
    }
    assert_eq!(services.len(), 2, "{all:?}");
    analyze(&["verify", "--man=no"], &all);
    analyze(&["security", "--offline=true", "--no-pager", "--threshold", MOST_EXPOSURE], &services);
}

/// It has to find nothing.
fn analyze(args: &[&str], units: &[PathBuf]) {
    let output = Command::new(tool("systemd-analyze")).args(args).args(units).output();
    let output = output.expect("systemd-analyze runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{args:?}:\n{text}\n{error}");
}

/// Where a process tells how it does.
struct Manager(UnixDatagram);

const TOLD: &str = "told";

impl Manager {
    fn new(dir: &Path) -> Self {
        Self(UnixDatagram::bind(dir.join(TOLD)).expect("the directory is new"))
    }

    async fn is_told(&self, expected: &str) {
        let mut buffer = [0; 256];
        let length = within(PATIENCE, expected, self.0.recv(&mut buffer)).await;
        let length = length.expect("the socket is open");
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected);
    }
}

/// Starts a program at the first connection to one of these addresses.
fn activated(
    dir: &Path,
    name: &str,
    sockets: &[(&str, &Port)],
    program: &Path,
    args: &[String],
) -> Process {
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let mut all: Vec<String> =
        sockets.iter().map(|(_, port)| format!("--listen={}", port.address())).collect();
    all.push(format!("--fdname={}", names.join(":")));
    all.push(format!("--setenv=NOTIFY_SOCKET={}", dir.join(TOLD).display()));
    all.push(program.display().to_string());
    all.extend(args.iter().cloned());
    Process::start(dir, name, &tool("systemd-socket-activate"), &all)
}

/// An address that nobody can listen on, so that what works was not bound by the process itself.
const NOWHERE: &str = "192.0.2.1:1";

#[tokio::test]
async fn the_controller_takes_its_sockets_and_says_when_it_is_ready() {
    let dir = tempfile::tempdir().expect("the system has a place for temporary files");
    let manager = Manager::new(dir.path());
    let (grpc, admin) = (Port::reserve(), Port::reserve());
    let args = [format!("--grpc={NOWHERE}"), format!("--admin={NOWHERE}")];
    let mut controller = activated(
        dir.path(),
        "control",
        &[("grpc", &grpc), ("admin", &admin)],
        &binary("lb-control"),
        &args,
    );
    eventually("the controller serves", async || {
        let api = FleetClient::connect(format!("http://{}", grpc.address())).await;
        let mut api = api.map_err(|error| format!("{error:?}"))?;
        let list = api.list_proxies(ListProxiesRequest {}).await;
        list.map(drop).map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(client::get(admin.address(), "/readyz").await.status(), 200);
    manager.is_told("READY=1").await;
    controller.signal(Signal::TERM);
    manager.is_told("STOPPING=1").await;
    assert_eq!(controller.exit_code().await, 0);
}

#[tokio::test]
async fn a_proxy_takes_its_sockets_and_is_ready_with_its_first_table() {
    let backend = Backend::start(|_| Reply::ok("hello")).await;
    let fleet = Fleet::empty().await;
    fleet
        .apply(&app("", "", &[backend.address()]).replace("127.0.0.1:1'", &format!("{NOWHERE}'")))
        .await;
    let manager = Manager::new(fleet.dir());
    let (web, admin) = (Port::reserve(), Port::reserve());
    let args = [
        "--id=p1".into(),
        format!("--control=http://{}", fleet.controller.grpc()),
        format!("--admin={NOWHERE}"),
        format!("--data-dir={}", fleet.dir().join("p1-data").display()),
        "--workers=2".into(),
    ];
    let mut proxy = activated(
        fleet.dir(),
        "p1",
        &[("admin", &admin), ("web", &web)],
        &binary("lb-proxy"),
        &args,
    );
    // It is what the proxy is started for.
    eventually("somebody listens", async || {
        holds(is_listening(web.address()).await, || proxy.log())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client::get(web.address(), "/").await.text(), "hello");
    }
    manager.is_told("READY=1").await;
    let table = client::get(admin.address(), "/table").await.text();
    let place = format!("\"listening_on\": \"{}\"", web.address());
    assert!(table.contains(&place), "{place} is not in {table}");
    proxy.signal(Signal::TERM);
    manager.is_told("STOPPING=1").await;
    assert_eq!(proxy.exit_code().await, 0);
}

/// A process that was handed the listener `web`. Killed when dropped.
struct Served(Child);

impl Served {
    /// `listener` stays open here, as it does in a service manager.
    fn start(listener: &TcpListener, program: &Path, args: &[String]) -> Self {
        // It comes as standard input, because this needs nothing unsafe here.
        let script = "exec 3<&0 </dev/null
            export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web
            exec \"$@\"";
        let listener = listener.try_clone().expect("there are descriptors left");
        let mut command = Command::new(tool("setpriv"));
        command.args(["--pdeathsig", "KILL", "sh", "-c", script, "sh"]).arg(program).args(args);
        command.env("LB_LOG", "warn").stdin(Stdio::from(OwnedFd::from(listener))).process_group(0);
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// As systemd ends it.
    async fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("it runs");
        let status = eventually("it ends", async || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(status.code(), Some(0), "it drained");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the process that is there has answered some requests.
async fn has_answered(admin: SocketAddr) {
    eventually("it answers requests", async || {
        if !is_listening(admin).await {
            return Err("it does not run".to_owned());
        }
        let ready = client::get(admin, "/readyz").await;
        holds(ready.status() == 200, || format!("{ready:?}"))?;
        let metrics = Metrics::parse(&client::get(admin, "/metrics").await.text());
        let answered = metrics.sum("lb_proxy_responses_total", &[]);
        holds(answered > 500.0, || format!("{answered} requests"))
    })
    .await;
}

#[tokio::test]
async fn restarts_of_a_proxy_with_a_socket_that_outlives_it_fail_no_request() {
    let backend = Backend::start(|_| Reply::ok("hello")).await;
    let fleet = Fleet::empty().await;
    fleet.apply(&app("", "", &[backend.address()])).await;
    let web = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = web.local_addr().expect("it is bound");
    let admin = Port::reserve();
    let args = [
        "--id=p1".into(),
        format!("--control=http://{}", fleet.controller.grpc()),
        format!("--admin={}", admin.address()),
        format!("--data-dir={}", fleet.dir().join("p1-data").display()),
        "--workers=2".into(),
    ];
    let start = || Served::start(&web, &binary("lb-proxy"), &args);

    let mut proxy = start();
    let stays = Wrk::new(address).start(fleet.dir());
    let reconnects = Wrk { reconnect: true, ..Wrk::new(address) }.start(fleet.dir());
    for _ in 0..3 {
        has_answered(admin.address()).await;
        proxy.stop().await;
        proxy = start();
    }
    has_answered(admin.address()).await;
    stays.stop().await.assert_flawless();
    reconnects.stop().await.assert_flawless();
}
