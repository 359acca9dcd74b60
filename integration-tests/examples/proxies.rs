//! Many proxies before one controller, for `bench/fleet`: only what of them the controller sees. Each has a
//! connection of its own, takes what it is sent without a look into it, says that it runs it, and reports
//! traffic if it is asked to.
//!
//! Reads commands from its input, a line each, and answers each with a line of JSON: see [`Command`].

use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use lb_common::clock;
use lb_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        self, discovery_client::DiscoveryClient, fleet_client::FleetClient, proxy_message::Message,
        update::Content,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

enum Command {
    /// `start N`: so many proxies come, and have applied what there is.
    Start(usize),
    /// `weight I W`: one backend of set `I` gets another weight.
    Weight(u64, u32),
    /// `flip`: the one backend that is checked becomes another one than it was.
    Flip,
    /// `reconnect`: all go and come again, with what they run.
    Reconnect,
    /// `restarted`: waits until all have found the controller again.
    Restarted,
    /// `report K`: each tells once a second of `K` backends.
    Report(u64),
}

/// What all proxies share.
struct Shared {
    control: Endpoint,
    seen: mpsc::UnboundedSender<Seen>,
    report: AtomicU64,
    leave: watch::Sender<u64>,
}

/// A proxy applied something, or came back and has it.
struct Seen {
    proxy: usize,
    id: v1::SnapshotId,
    at: std::time::Instant,
    bytes: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let usage = "usage: proxies CONTROLLER_ADDRESS BACKEND_ADDRESS";
    let control = args.next().expect(usage);
    let backend: SocketAddr = args.next().expect(usage).parse().expect(usage);
    let is_well = Arc::new(AtomicBool::new(true));
    tokio::spawn(serve(backend, Arc::clone(&is_well)));
    let control = Endpoint::from_shared(format!("http://{control}")).expect(usage);
    let (sender, seen) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        control,
        seen: sender,
        report: AtomicU64::new(0),
        leave: watch::Sender::new(0),
    });
    let api = FleetClient::new(shared.control.connect_lazy());
    let (running, tasks) = Default::default();
    let mut bench = Bench { shared, api, seen, running, tasks, is_well };
    let (lines, mut commands) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = commands.recv().await {
        let answer = bench.run(parse(&line)).await;
        println!("{answer}");
        io::stdout().flush().expect("somebody reads");
    }
}

fn parse(line: &str) -> Command {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().expect("a number");
    match words[..] {
        ["start", proxies] => Command::Start(number(proxies) as usize),
        ["weight", set, weight] => Command::Weight(number(set), number(weight) as u32),
        ["flip"] => Command::Flip,
        ["reconnect"] => Command::Reconnect,
        ["restarted"] => Command::Restarted,
        ["report", backends] => Command::Report(number(backends)),
        _ => panic!("what is {line:?}?"),
    }
}

/// The one backend that is checked.
async fn serve(address: SocketAddr, is_well: Arc<AtomicBool>) {
    let listener = TcpListener::bind(address).await.expect("the port is free");
    while let Ok((mut stream, _)) = listener.accept().await {
        let is_well = Arc::clone(&is_well);
        tokio::spawn(async move {
            let mut request = [0; 1024];
            while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                let status = if is_well.load(Relaxed) { "200 OK" } else { "503 Sick" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

struct Bench {
    shared: Arc<Shared>,
    api: FleetClient<Channel>,
    seen: mpsc::UnboundedReceiver<Seen>,
    /// What each runs.
    running: Vec<Option<v1::SnapshotId>>,
    tasks: JoinSet<()>,
    is_well: Arc<AtomicBool>,
}

impl Bench {
    async fn run(&mut self, command: Command) -> Value {
        // What came after the last one was answered is of that; but those that came again did so before
        // they are asked for.
        while !matches!(command, Command::Restarted)
            && let Ok(seen) = self.seen.try_recv()
        {
            self.running[seen.proxy] = Some(seen.id);
        }
        match command {
            Command::Start(proxies) => {
                self.running = vec![None; proxies];
                let began = clock::now();
                for proxy in 0..proxies {
                    self.tasks.spawn(run_proxy(proxy, Arc::clone(&self.shared)));
                }
                self.until_all(began, |_| true).await
            }
            Command::Weight(set, weight) => {
                let mut api = self.api.clone();
                let began = clock::now();
                let request = v1::SetBackendRequest {
                    backend_set: format!("s{set}"),
                    backend: format!("b{set}-0"),
                    weight: Some(weight),
                    ..v1::SetBackendRequest::default()
                };
                let before = self.newest();
                api.set_backend(request).await.expect("it is there");
                let committed = clock::now() - began;
                let mut seen = self.until_all(began, |id| version(id) > before).await;
                seen["committed_ms"] = json!(committed.as_secs_f64() * 1e3);
                seen
            }
            Command::Flip => {
                let before = self.newest();
                let began = clock::now();
                self.is_well.fetch_xor(true, Relaxed);
                self.until_all(began, |id| version(id) > before).await
            }
            Command::Reconnect => {
                let (began, wall) = (clock::now(), clock::wall());
                self.shared.leave.send_modify(|times| *times += 1);
                self.until_back(wall).await;
                // Who has what is current is sent nothing.
                let mut bytes = 0;
                while let Ok(seen) = self.seen.try_recv() {
                    bytes += seen.bytes;
                }
                let bytes_each = bytes as f64 / self.running.len() as f64;
                json!({ "most_ms": began.elapsed().as_secs_f64() * 1e3, "bytes_each": bytes_each })
            }
            Command::Restarted => {
                let before = self.newest().0;
                self.until_all(clock::now(), |id| id.epoch > before).await
            }
            Command::Report(backends) => {
                self.shared.report.store(backends, Relaxed);
                json!({})
            }
        }
    }

    /// Waits until all are in sync on connections that came since then.
    async fn until_back(&self, since: Duration) {
        let mut api = self.api.clone();
        loop {
            let listed = api.list_proxies(v1::ListProxiesRequest {}).await.expect("it lists");
            let is_back = |proxy: &&v1::Proxy| {
                let came = proxy.connected_since.unwrap_or_default();
                let came = Duration::new(came.seconds as u64, came.nanos as u32);
                proxy.in_sync && came >= since
            };
            if listed.get_ref().proxies.iter().filter(is_back).count() >= self.running.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn newest(&self) -> (u64, u64) {
        self.running.iter().flatten().map(version).max().unwrap_or_default()
    }

    /// Waits until each proxy has said something that is looked for.
    async fn until_all(
        &mut self,
        began: std::time::Instant,
        is: impl Fn(&v1::SnapshotId) -> bool,
    ) -> Value {
        let mut times = vec![None; self.running.len()];
        let (mut missing, mut bytes, mut messages) = (times.len(), 0, 0);
        while missing > 0 {
            let seen = tokio::time::timeout(PATIENCE, self.seen.recv()).await;
            let Ok(Some(seen)) = seen else { panic!("{missing} proxies say nothing") };
            self.running[seen.proxy] = Some(seen.id);
            bytes += seen.bytes;
            messages += 1;
            if is(&seen.id) && times[seen.proxy].is_none() {
                times[seen.proxy] = Some(seen.at.saturating_duration_since(began));
                missing -= 1;
            }
        }
        let mut times: Vec<_> = times.into_iter().flatten().collect();
        times.sort();
        let at = |share: f64| {
            let index = (times.len() - 1) as f64 * share;
            json!(times[index.ceil() as usize].as_secs_f64() * 1e3)
        };
        json!({
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "most_ms": at(1.0),
            "bytes_each": bytes as f64 / times.len() as f64,
            "messages_each": messages as f64 / times.len() as f64,
        })
    }
}

fn version(id: &v1::SnapshotId) -> (u64, u64) {
    (id.epoch, id.version)
}

/// Comes again whenever its stream ends, as a proxy does.
async fn run_proxy(proxy: usize, shared: Arc<Shared>) {
    let mut running = None;
    let mut rng = fastrand::Rng::with_seed(proxy as u64);
    loop {
        if run_stream(proxy, &shared, &mut running).await.is_none() {
            let wait = Duration::from_millis(rng.u64(10..500));
            tokio::time::sleep(wait).await;
        }
    }
}

/// Until it ends; `None` if nothing could be heard.
async fn run_stream(
    proxy: usize,
    shared: &Shared,
    running: &mut Option<(v1::SnapshotId, u64)>,
) -> Option<()> {
    let channel = shared.control.connect().await.ok()?;
    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (say, messages) = mpsc::channel(4);
    let hello = v1::Hello {
        proxy_id: format!("p{proxy}"),
        zone: String::new(),
        build: String::new(),
        running: running.map(|(id, _)| id),
        revision: running.map_or(0, |(_, revision)| revision),
    };
    let send = |message| say.send(v1::ProxyMessage { message: Some(message) });
    send(Message::Hello(hello)).await.ok()?;
    let mut updates = client.subscribe(ReceiverStream::new(messages)).await.ok()?.into_inner();
    let mut leave = shared.leave.subscribe();
    leave.mark_unchanged();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let (mut round, mut bytes) = (0, 0);
    loop {
        tokio::select! {
            update = updates.message() => {
                let update = update.ok()??;
                bytes += match &update.content {
                    Some(Content::Full(bytes) | Content::Delta(bytes)) => bytes.len(),
                    Some(Content::Part(part)) => {
                        bytes += part.len();
                        continue;
                    }
                    None => 0,
                };
                let id = update.snapshot?;
                let bytes = std::mem::take(&mut bytes);
                let revision = update.revision;
                *running = Some((id, revision));
                let applied = v1::Applied { snapshot: Some(id), revision };
                send(Message::Applied(applied)).await.ok()?;
                let seen = Seen { proxy, id, at: clock::now(), bytes };
                shared.seen.send(seen).ok()?;
            }
            _ = tick.tick() => {
                let backends = shared.report.load(Relaxed);
                if backends > 0 {
                    round += 1;
                    let snapshot = running.map(|(id, _)| id);
                    send(Message::Report(report(round, backends, snapshot))).await.ok()?;
                }
            }
            Ok(()) = leave.changed() => return Some(()),
        }
    }
}

/// Of other backends each time.
fn report(round: u64, backends: u64, snapshot: Option<v1::SnapshotId>) -> v1::Report {
    let more = |requests| v1::Totals { requests, errors: 0, latency: vec![0, requests] };
    let backend = |i: u64| {
        let set = (round * backends + i) % 1_000;
        v1::BackendReport {
            backend_set: format!("s{set}"),
            backend: format!("b{set}-0"),
            in_flight: round % 2,
            ejection: None,
            more: Some(more(10)),
        }
    };
    v1::Report {
        backends: (0..backends).map(backend).collect(),
        snapshot,
        more: Some(more(10 * backends)),
        connections: 7,
        partial: false,
    }
}
