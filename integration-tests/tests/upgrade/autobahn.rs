//! Autobahn's cases, as kosoku runs them, have the same verdicts through a proxy as without one.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use integration_tests::{
    backend::is_listening,
    eventually::{eventually, holds, within},
    fleet::{Fleet, app},
    ports::Port,
    process::Process,
    tools::{python_of, tool},
};
use serde_json::Value;
use tokio::process::Command;

/// They take minutes each way, and are about what a message says, which a proxy does not read.
const HEAVY: [&str; 3] = ["9.*", "12.*", "13.*"];
/// It gives its peer a second, and its own authors take either verdict.
const RACY: &str = "7.1.5";
const LONGEST: Duration = Duration::from_secs(1_800);

/// What was made of a case, of its end, and with which code.
type Verdict = (Value, Value, Value);
/// By case, what was made of it in each round. Where a server may answer before or after it has found a
/// fault, either verdict is right, with a proxy and without.
type Verdicts = BTreeMap<String, Vec<Verdict>>;

/// So often until each case has had the same verdict both ways.
const ROUNDS: usize = 4;

fn add(verdicts: &mut Verdicts, round: Vec<(String, Verdict)>) {
    for (case, verdict) in round {
        verdicts.entry(case).or_default().push(verdict);
    }
}

async fn run(server: SocketAddr, reports: &Path) -> Vec<(String, Verdict)> {
    let mut command = Command::new(tool("kosoku"));
    command.arg(format!("ws://{server}")).arg("-o").arg(reports).args(["-p", "4", "-x", RACY]);
    if std::env::var_os("LB_TEST_AUTOBAHN").is_none() {
        command.args(HEAVY.iter().flat_map(|cases| ["-x", cases]));
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(LONGEST, "the cases", command.output()).await;
    let output = output.expect("kosoku runs");
    // Its code says whether all is well, which is the server's affair.
    let index = fs::read(reports.join("index.json")).unwrap_or_else(|error| {
        panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stderr))
    });
    let index: Value = serde_json::from_slice(&index).expect("it is JSON");
    let agents = index.as_object().expect("agents");
    assert_eq!(agents.len(), 1, "one server: {:?}", agents.keys());
    let cases = agents.values().next().and_then(Value::as_object).expect("cases");
    let verdict = |case: &Value| {
        let of = |key: &str| case[key].clone();
        (of("behavior"), of("behaviorClose"), of("remoteCloseCode"))
    };
    cases.iter().map(|(id, case)| (id.clone(), verdict(case))).collect()
}

/// All of them, those with megabytes too, with `LB_TEST_AUTOBAHN` set.
#[tokio::test]
async fn autobahns_cases_have_the_same_verdicts_through_a_proxy() {
    let port = Port::reserve();
    let fleet = Fleet::start(1, &app("", "", &[port.address()])).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("websocket/echo.py");
    let args = [script.display().to_string(), port.address().port().to_string()];
    let _server = Process::start(fleet.dir(), "echo", &python_of("kosoku"), &args);
    eventually("the server listens", async || {
        holds(is_listening(port.address()).await, || "it does not".into())
    })
    .await;

    let (mut direct, mut proxied) = (Verdicts::new(), Verdicts::new());
    for round in 1.. {
        add(&mut direct, run(port.address(), &fleet.dir().join(format!("direct{round}"))).await);
        let web = fleet.proxies[0].web();
        add(&mut proxied, run(web, &fleet.dir().join(format!("proxied{round}"))).await);
        println!("{} cases", direct.len());
        assert!(direct.len() > 200, "only {} cases", direct.len());
        assert!(direct.keys().eq(proxied.keys()), "the same cases");
        let differs = |(id, verdicts): &(&String, &Vec<_>)| {
            !verdicts.iter().any(|verdict| proxied[*id].contains(verdict))
        };
        let differing: Vec<_> = direct.iter().filter(differs).collect();
        if differing.is_empty() {
            break;
        }
        assert!(round < ROUNDS, "{differing:?}, and through a proxy {proxied:?}");
    }
    fleet.idle().await;
}
