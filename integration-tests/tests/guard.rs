//! What a request costs a proxy, counted and not timed: instructions and allocations by valgrind, system
//! calls by strace. The budgets are what was counted when they were set and a little more; who exceeds
//! one has made every request dearer, and finds out here.
//!
//! The proxy is built with the profile `optimized`, which is the release's without what takes long to build.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    process::Command,
};

use integration_tests::{
    backend::{Backend, Reply},
    binaries::optimized_proxy,
    client::{Client, Request},
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    process::Process,
    tools::tool,
};
use rustix::process::Signal;

const BODY: usize = 64 * 1024;
/// Before anything is counted: connections and memory are there.
const WARM_UP: usize = 100;
const REQUESTS: usize = 200;

/// Instructions of a request, small or with a body of 64 KiB: they were 20,400 to 22,100.
const INSTRUCTIONS: usize = 24_000;
/// The future of a request, and what is done at a backend; one more now and then for a longer list.
const ALLOCATIONS: f64 = 2.5;

/// One request after the other, over one connection.
struct Load {
    client: Client,
    request: Request,
}

impl Load {
    async fn warm(fleet: &Fleet, request: Request) -> Self {
        let client = Client::connect(fleet.proxies[0].web()).await;
        let mut load = Self { client, request };
        load.run(WARM_UP).await;
        load
    }

    async fn run(&mut self, requests: usize) {
        for _ in 0..requests {
            assert_eq!(self.client.request(&self.request).await.status(), 200);
        }
    }
}

fn small() -> Request {
    Request::get("/").header("User-Agent", "guard").header("Accept", "*/*")
}

/// One proxy with one worker, which `program` runs.
async fn fleet(program: &[&str]) -> (Fleet, Backend) {
    let large = vec![b'x'; BODY];
    let backend = Backend::start(move |seen| match seen.head.target() {
        "/64k" => Reply::ok(large.clone()),
        _ => Reply::ok("ok"),
    })
    .await;
    let mut fleet = Fleet::empty().await;
    // What a proxy logs for tests is no part of what a request costs.
    let mut first = vec!["LB_LOG=info".to_owned()];
    first.extend(program.iter().map(|part| (*part).to_owned()));
    first.push(optimized_proxy("optimized").display().to_string());
    fleet.add_proxy_as(tool("env"), first, "p1", &["--workers=1".into()]);
    fleet.apply(&app("", "", &[backend.address()])).await;
    (fleet, backend)
}

// === instructions and allocations ===

/// What one request costs, in the worker's thread.
#[derive(Debug)]
struct Cost {
    instructions: usize,
    allocations: f64,
}

async fn cost(request: Request) -> Cost {
    let dir = tempfile::tempdir().expect("the system has a place for temporary files");
    let out = format!("--callgrind-out-file={}", dir.path().join("counted").display());
    let valgrind = tool("valgrind").display().to_string();
    let callgrind = ["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"];
    let (mut fleet, _backend) =
        fleet(&[&[valgrind.as_str()], &callgrind[..], &[out.as_str()]].concat()).await;
    let mut load = Load::warm(&fleet, request).await;
    let process = fleet.proxies[0].process.id().to_string();
    let count = |state| {
        let mut control = Command::new(tool("callgrind_control"));
        let output = control.args(["-i", state, &process]).output().expect("it can be run");
        assert!(output.status.success(), "{output:?}");
    };
    count("on");
    load.run(REQUESTS).await;
    count("off");
    drop(load);
    fleet.proxies[0].process.signal(Signal::TERM);
    fleet.proxies[0].process.exit_code().await;
    let files = fs::read_dir(dir.path()).expect("it is there");
    let counted = files.map(|file| counted(&file.expect("it is there").path()));
    let (instructions, allocations) = counted.max().expect("there is a file for each thread");
    let cost = Cost {
        instructions: instructions / REQUESTS,
        allocations: allocations as f64 / REQUESTS as f64,
    };
    println!("{cost:?}");
    cost
}

/// Instructions and allocations in one of callgrind's files. Names are written once, and have a number
/// from then on (valgrind's manual, "Callgrind Format Specification").
fn counted(file: &Path) -> (usize, usize) {
    let text = fs::read_to_string(file).expect("callgrind wrote it");
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut instructions, mut allocations) = (0, 0);
    let (mut caller, mut callee) = ("", "");
    for line in text.lines() {
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        if let "fn" | "cfn" = key {
            let (number, name) = value.split_once(' ').unwrap_or((value, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            let name = names.get(number).expect("it has a name");
            if key == "fn" { caller = name } else { callee = name }
        } else if key == "calls" {
            if is_allocation(callee) && !caller.trim_start_matches('_').starts_with("mi_") {
                let calls = value.split(' ').next().expect("a number");
                allocations += calls.parse::<usize>().expect("a number");
            }
        } else if key == "totals" {
            instructions = value.trim().parse().expect("a number");
        }
    }
    (instructions, allocations)
}

fn is_allocation(function: &str) -> bool {
    let kinds = ["mi_malloc", "mi_zalloc", "mi_calloc", "mi_realloc"];
    kinds.iter().any(|kind| function.starts_with(kind))
}

#[tokio::test]
async fn a_small_request_costs_few_instructions_and_hardly_allocates() {
    let cost = cost(small()).await;
    assert!(cost.allocations <= ALLOCATIONS, "{cost:?}");
    assert!((1..=INSTRUCTIONS).contains(&cost.instructions), "{cost:?}");
}

#[tokio::test]
async fn an_answer_of_64_kib_costs_hardly_more_than_a_small_one() {
    let cost = cost(Request::get("/64k")).await;
    assert!(cost.allocations <= ALLOCATIONS, "{cost:?}");
    assert!((1..=INSTRUCTIONS).contains(&cost.instructions), "{cost:?}");
}

#[tokio::test]
async fn an_upload_of_64_kib_costs_hardly_more_than_a_small_request() {
    let cost = cost(Request::post("/", vec![b'x'; BODY])).await;
    assert!(cost.allocations <= ALLOCATIONS, "{cost:?}");
    assert!((1..=INSTRUCTIONS).contains(&cost.instructions), "{cost:?}");
}

// === system calls ===

/// How often the worker's thread made each system call while `request` was served so often, but for the
/// waiting in between.
async fn system_calls(request: Request) -> BTreeMap<String, usize> {
    let (mut fleet, _backend) = fleet(&[]).await;
    let mut load = Load::warm(&fleet, request).await;
    let process = fleet.proxies[0].process.id();
    let worker = worker_of(process);
    let out = fleet.dir().join("calls");
    let args = ["-f", "-o", &out.display().to_string(), "-p", &process.to_string()];
    let mut strace = Process::start(fleet.dir(), "strace", &tool("strace"), &args);
    eventually("strace is attached", async || {
        let log = strace.log();
        holds(log.contains(" attached"), || log)
    })
    .await;
    load.run(REQUESTS).await;
    strace.signal(Signal::INT);
    strace.exit_code().await;
    fleet.proxies[0].process.kill();
    let mut calls = BTreeMap::new();
    for line in fs::read_to_string(&out).expect("strace wrote it").lines() {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        // `<... name resumed>` is a second line about one that is counted already.
        let name = call.trim_start().split('(').next().unwrap_or_default();
        let is_name = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if thread == worker && is_name && !name.starts_with("epoll_") && name != "restart_syscall" {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    println!("{calls:?}");
    calls
}

fn worker_of(process: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let mut threads = threads.map(|thread| thread.expect("it runs").path());
    let is_worker = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("lb-worker"))
    };
    let worker = threads.find(is_worker).expect("it has a worker");
    worker.file_name().expect("a number").to_string_lossy().into()
}

#[tokio::test]
async fn a_small_request_is_four_system_calls_and_wakes_no_other_thread() {
    let expected = [("recvfrom", 2 * REQUESTS), ("sendto", 2 * REQUESTS)];
    let expected = expected.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(system_calls(small()).await, BTreeMap::from(expected));
}

#[tokio::test]
async fn a_body_of_64_kib_takes_few_system_calls() {
    for request in [Request::get("/64k"), Request::post("/", vec![b'x'; BODY])] {
        let calls: usize = system_calls(request).await.values().sum();
        // The other end may read while it is still written, and then it takes some more.
        assert!((4 * REQUESTS..=8 * REQUESTS).contains(&calls), "{calls}");
    }
}
