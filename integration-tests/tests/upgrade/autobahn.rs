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

/// By case: what was made of it, of its end, and with which code.
type Verdicts = BTreeMap<String, (Value, Value, Value)>;

async fn run(server: SocketAddr, reports: &Path) -> Verdicts {
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

    let direct = run(port.address(), &fleet.dir().join("direct")).await;
    let proxied = run(fleet.proxies[0].web(), &fleet.dir().join("proxied")).await;
    println!("{} cases", direct.len());
    assert!(direct.len() > 200, "only {} cases", direct.len());
    let differing: Vec<_> =
        direct.iter().filter(|(id, verdict)| proxied.get(*id) != Some(verdict)).collect();
    let count = (differing.len(), proxied.len());
    assert!(differing.is_empty() && direct.len() == proxied.len(), "{count:?}: {differing:?}");
    fleet.idle().await;
}
