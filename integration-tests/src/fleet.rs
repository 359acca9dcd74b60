//! A fleet of real processes.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use lb_proto::{
    file,
    v1::{
        self, ApplyRequest, BackendSetStatus, BackendStatus, ListBackendsRequest,
        ListProxiesRequest, ListProxiesResponse, fleet_client::FleetClient,
    },
};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{
    backend::is_listening,
    binaries::binary,
    client,
    eventually::{eventually, holds},
    grpcurl::Grpcurl,
    metrics::Metrics,
    ports::Port,
    process::Process,
    tools::tool,
};

/// One controller and its proxies.
#[derive(Debug)]
pub struct Fleet {
    // Processes go before their files do.
    pub proxies: Vec<Proxy>,
    pub controller: Controller,
    dir: TempDir,
}

#[derive(Debug)]
pub struct Controller {
    pub process: Process,
    grpc: Port,
    admin: Port,
}

#[derive(Debug)]
pub struct Proxy {
    pub id: String,
    pub process: Process,
    admin: Port,
    /// Of the listener `web`, on this proxy.
    web: Option<Port>,
}

pub type Api = FleetClient<Channel>;

/// One http listener `web`, one route `app`, one backend set `app`. `route` and `set` are more
/// lines of TOML for these two.
pub fn app(route: &str, set: &str, backends: &[SocketAddr]) -> String {
    let backends: Vec<_> =
        backends.iter().map(|address| format!("{{ address = '{address}' }}")).collect();
    app_with(route, set, &backends.join(", "))
}

/// As [`app`], with the backends as TOML.
pub fn app_with(route: &str, set: &str, backends: &str) -> String {
    format!(
        "{WEB}
         [[routes]]
         name = 'app'
         backend_set = 'app'
         {route}
         [[backend_sets]]
         name = 'app'
         backends = [{backends}]
         {set}
         "
    )
}

/// With more lines of TOML for the listener `web` of a spec.
pub fn listening(spec: &str, lines: &str) -> String {
    spec.replacen("name = 'web'", &format!("name = 'web'\n{lines}"), 1)
}

/// One tcp listener at this address, before one backend. `listener` is more lines of TOML for it.
pub fn tcp(address: SocketAddr, listener: &str, backend: SocketAddr) -> String {
    format!(
        "[[listeners]]
         name = 'tcp'
         protocol = 'tcp'
         address = '{address}'
         backend_set = 'app'
         {listener}
         [[backend_sets]]
         name = 'app'
         backends = [{{ address = '{backend}' }}]"
    )
}

/// The listener `web`. Each proxy has it at an address of its own: [`Proxy::web`].
pub const WEB: &str = "
[[listeners]]
name = 'web'
address = '127.0.0.1:1'
";

/// What runs a program with so many descriptors, and its first arguments.
fn limited(program: &Path, soft: u64, hard: u64) -> (PathBuf, Vec<String>) {
    (tool("prlimit"), vec![format!("--nofile={soft}:{hard}"), program.display().to_string()])
}

// === impl Fleet ===

impl Fleet {
    /// So many proxies, that all run `spec`.
    ///
    /// # Panics
    /// If they do not.
    pub async fn start(proxies: usize, spec: &str) -> Self {
        let mut fleet = Self::empty().await;
        for i in 1..=proxies {
            fleet.add_proxy(&format!("p{i}"), &[]);
        }
        fleet.apply(spec).await;
        fleet
    }

    /// Only a controller, and nothing to do.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn empty() -> Self {
        Self::empty_with(&[]).await
    }

    /// As [`Fleet::empty`], with more flags for the controller.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn empty_with(flags: &[String]) -> Self {
        Self::empty_as(binary("lb-control"), Vec::new(), flags).await
    }

    /// As [`Fleet::empty`], with a controller that may have so many descriptors.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn limited(descriptors: u64) -> Self {
        let (program, first) = limited(&binary("lb-control"), descriptors, descriptors);
        Self::empty_as(program, first, &[]).await
    }

    /// As [`Fleet::empty`], with a controller that another program runs: `program`, and what comes
    /// before the controller's own arguments.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn empty_as(program: PathBuf, first: Vec<String>, flags: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("the system has a place for temporary files");
        let (grpc, admin) = (Port::reserve(), Port::reserve());
        let mut args = first;
        args.extend([
            format!("--grpc={}", grpc.address()),
            format!("--admin={}", admin.address()),
            format!("--data-dir={}", dir.path().join("control-data").display()),
        ]);
        args.extend(flags.iter().cloned());
        let process = Process::start(dir.path(), "control", &program, &args);
        let controller = Controller { process, grpc, admin };
        controller.serves().await;
        Self { proxies: Vec::new(), controller, dir }
    }

    /// For files of tests that are to go with the fleet.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a proxy, and does not wait for it. Unless `args` say where, it has `web` at a port of
    /// its own.
    pub fn add_proxy(&mut self, id: &str, args: &[String]) -> &mut Proxy {
        self.add_proxy_as(binary("lb-proxy"), Vec::new(), id, args)
    }

    /// As [`Fleet::add_proxy`], one that may have `soft` descriptors, and `hard` if it asks.
    pub fn add_limited_proxy(&mut self, id: &str, soft: u64, hard: u64, args: &[String]) {
        let (program, first) = limited(&binary("lb-proxy"), soft, hard);
        self.add_proxy_as(program, first, id, args);
    }

    /// As [`Fleet::add_proxy`], one that another program runs: `program`, and what comes before the
    /// proxy's own arguments.
    pub fn add_proxy_as(
        &mut self,
        program: PathBuf,
        first: Vec<String>,
        id: &str,
        args: &[String],
    ) -> &mut Proxy {
        let admin = Port::reserve();
        let has_own = !args.iter().any(|arg| arg.starts_with("--listen"));
        let web = has_own.then(Port::reserve);
        let mut all = first;
        all.extend([
            format!("--id={id}"),
            format!("--control=http://{}", self.controller.grpc()),
            format!("--admin={}", admin.address()),
            format!("--data-dir={}", self.dir.path().join(format!("{id}-data")).display()),
        ]);
        all.extend(web.iter().map(|web| format!("--listen=web={}", web.address())));
        all.extend(args.iter().cloned());
        let process = Process::start(self.dir.path(), id, &program, &all);
        self.proxies.push(Proxy { id: id.into(), process, admin, web });
        self.proxies.last_mut().expect("it was pushed")
    }

    /// # Panics
    /// If the controller does not answer.
    pub async fn api(&self) -> Api {
        self.controller.api().await
    }

    pub fn grpcurl(&self) -> Grpcurl {
        Grpcurl(self.controller.grpc())
    }

    /// Makes `spec` (TOML) the whole desired state, waits until every proxy runs it, and returns
    /// its revision.
    ///
    /// # Panics
    /// If the controller refuses it, or a proxy does not come to run it.
    pub async fn apply(&self, spec: &str) -> u64 {
        let spec = file::parse(spec).unwrap_or_else(|errors| panic!("{errors}\nin\n{spec}"));
        let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
        let request = ApplyRequest {
            listeners,
            routes,
            backend_sets,
            certificates,
            replace_all: true,
            allow_empty: true,
            ..ApplyRequest::default()
        };
        self.change(request).await
    }

    /// Applies a change, waits until every proxy runs it, and returns its revision.
    ///
    /// # Panics
    /// If the controller refuses it, or a proxy does not come to run it.
    pub async fn change(&self, request: ApplyRequest) -> u64 {
        let response = self.api().await.apply(request).await;
        let revision = response.expect("the controller accepts it").into_inner().revision;
        self.settled(revision).await;
        revision
    }

    /// Waits until every proxy runs what the controller has, which is at least this revision.
    ///
    /// # Panics
    /// If one does not come to run it.
    pub async fn settled(&self, revision: u64) -> ListProxiesResponse {
        let ids: BTreeSet<_> = self.proxies.iter().map(|proxy| proxy.id.as_str()).collect();
        eventually(&format!("{ids:?} run revision {revision}"), async || {
            let list = self.list_proxies().await?;
            let synced: BTreeSet<_> = list
                .proxies
                .iter()
                .filter(|proxy| proxy.connected && proxy.in_sync)
                .map(|proxy| proxy.id.as_str())
                .collect();
            let all = ids.is_subset(&synced) && list.revision >= revision;
            holds(all, || format!("{list:?}"))?;
            Ok::<_, String>(list)
        })
        .await
    }

    /// What a proxy starts from while no controller answers.
    pub fn last_good(&self, proxy: &str) -> PathBuf {
        self.dir().join(format!("{proxy}-data/last-known-good"))
    }

    /// Waits until a proxy would start with this backend: what it runs is on its disk a moment later.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn on_disk(&self, proxy: &str, backend: SocketAddr) {
        let (file, address) = (self.last_good(proxy), backend.to_string());
        eventually(&format!("{} has {address}", file.display()), async || {
            let bytes = std::fs::read(&file).map_err(|error| error.to_string())?;
            let has = bytes.windows(address.len()).any(|window| window == address.as_bytes());
            holds(has, || String::from_utf8_lossy(&bytes).into())
        })
        .await;
    }

    /// # Errors
    /// If the controller does not answer.
    pub async fn list_proxies(&self) -> Result<ListProxiesResponse, String> {
        let mut api = self.controller.try_api().await?;
        let response = api.list_proxies(ListProxiesRequest {}).await;
        Ok(response.map_err(|status| status.to_string())?.into_inner())
    }

    /// What the controller says of each backend set.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn backend_sets(&self) -> Vec<BackendSetStatus> {
        let request = ListBackendsRequest::default();
        let listed = self.api().await.list_backends(request).await.expect("it lists");
        listed.into_inner().backend_sets
    }

    /// # Errors
    /// If the controller does not answer.
    pub async fn list_backends(&self) -> Result<Vec<BackendStatus>, String> {
        let mut api = self.controller.try_api().await?;
        let response = api.list_backends(ListBackendsRequest::default()).await;
        Ok(response.map_err(|status| status.to_string())?.into_inner().backends)
    }

    /// Waits until the controller says that of a backend.
    ///
    /// # Panics
    /// If it does not come to.
    pub async fn backend_is(
        &self,
        backend: SocketAddr,
        what: &str,
        is: impl Fn(&BackendStatus) -> bool,
    ) -> BackendStatus {
        eventually(&format!("backend {backend} is {what}"), async || {
            let list = self.list_backends().await?;
            let found = list.iter().find(|status| status.address == backend.to_string());
            let found = found.ok_or_else(|| format!("it is not there: {list:?}"))?;
            holds(is(found), || format!("{found:?}"))?;
            Ok::<_, String>(found.clone())
        })
        .await
    }

    /// Waits until no proxy has a request in flight, as the controller knows it.
    ///
    /// # Panics
    /// If one has for good.
    pub async fn idle(&self) {
        eventually("nothing is in flight", async || {
            let list = self.list_backends().await?;
            holds(list.iter().all(|backend| backend.in_flight == 0), || format!("{list:?}"))
        })
        .await;
    }

    /// Waits until no proxy has a request in flight or a client's connection open.
    ///
    /// # Panics
    /// If one has for good.
    pub async fn nothing_is_left(&self) {
        self.idle().await;
        for proxy in &self.proxies {
            eventually("all clients are gone", async || {
                let open = proxy.open_connections().await;
                holds(open == 0, || format!("{open} are connected to {}", proxy.id))
            })
            .await;
        }
    }
}

// === impl Controller ===

impl Controller {
    pub fn grpc(&self) -> SocketAddr {
        self.grpc.address()
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// After [`Controller::kill`], with the same data and at the same ports.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        self.process.restart();
        self.serves().await;
    }

    /// # Panics
    /// If it does not answer.
    pub async fn api(&self) -> Api {
        self.try_api().await.unwrap_or_else(|error| panic!("the controller answers: {error}"))
    }

    /// # Errors
    /// If it does not answer.
    pub async fn try_api(&self) -> Result<Api, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc()));
        let channel = endpoint.expect("an address makes a URL").connect().await;
        channel.map(FleetClient::new).map_err(|error| format!("{error:?}"))
    }

    async fn serves(&self) {
        eventually("the controller serves", async || {
            let mut api = self.try_api().await?;
            let answer = api.list_proxies(ListProxiesRequest {}).await;
            answer.map(drop).map_err(|status| status.to_string())
        })
        .await;
    }
}

// === impl Proxy ===

impl Proxy {
    /// How often it held something against a backend.
    ///
    /// # Panics
    /// If it does not say.
    pub async fn blamed(&self) -> f64 {
        let metrics = self.metrics().await;
        let sum = |name| metrics.sum(name, &[]);
        sum("lb_proxy_attempt_timeouts_total")
            + sum("lb_proxy_resets_total")
            + sum("lb_proxy_connect_failures_total")
            + sum("lb_proxy_ejections_total")
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Where it has the listener `web`.
    ///
    /// # Panics
    /// If its arguments say where.
    pub fn web(&self) -> SocketAddr {
        self.web.as_ref().expect("it has a port of its own").address()
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for its admin port.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn runs(&self) {
        eventually(&format!("{} runs", self.id), async || {
            let up = is_listening(self.admin()).await;
            holds(up, || format!("its log:\n{}", self.process.log()))
        })
        .await;
    }

    /// Waits until it has a table.
    ///
    /// # Panics
    /// If it does not get one.
    pub async fn ready(&self) {
        self.runs().await;
        eventually(&format!("{} is ready", self.id), async || {
            let answer = client::get(self.admin(), "/readyz").await;
            holds(answer.status() == 200, || format!("{answer:?}"))
        })
        .await;
    }

    /// What it runs, as it says itself.
    ///
    /// # Panics
    /// If it does not.
    pub async fn table(&self) -> Value {
        let answer = client::get(self.admin(), "/table").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        serde_json::from_slice(&answer.body.bytes).expect("it is JSON")
    }

    /// How often it closed a connection because of this limit.
    ///
    /// # Panics
    /// If it knows no such limit.
    pub async fn limit_hits(&self, limit: &str) -> u64 {
        self.metrics().await.sum("lb_proxy_limits_hit_total", &[("limit", limit)]) as u64
    }

    /// How many connections of clients it has.
    ///
    /// # Panics
    /// If it does not say.
    pub async fn open_connections(&self) -> u64 {
        self.metrics().await.sum("lb_proxy_connections_open", &[]) as u64
    }

    /// # Panics
    /// If they are not what Prometheus reads.
    pub async fn metrics(&self) -> Metrics {
        let answer = client::get(self.admin(), "/metrics").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        Metrics::parse(&answer.text())
    }
}
