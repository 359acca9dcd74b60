//! The dashboard in a real browser: `dashboard/test_dashboard.py` looks at it and operates it with
//! Chromium, and asks this side, line by line, for what is to happen to the fleet.

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use integration_tests::{
    certs::{Ca, Pair},
    eventually::{PATIENCE, within},
    fleet::{Fleet, app_with},
    nginx::Nginx,
    ports::Port,
    tools::{python_of, tool},
    wrk::Wrk,
};
use lb_proto::v1::{ApplyRequest, Backend, BackendChange, BackendStatus, Health};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, Command},
};

/// For all that the script does.
const LONGEST: Duration = Duration::from_secs(180);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard/test_dashboard.py");

/// What the script may have operated.
struct Operated {
    fleet: Fleet,
    nginx: Vec<Nginx>,
    /// The certificate `site`, as it was.
    site: Pair,
}

// === impl Operated ===

impl Operated {
    fn write_key(&self, key: &str) {
        fs::write(self.fleet.dir().join("site.key"), key).expect("it can be written");
    }

    /// Does what one line of the script asks for.
    async fn operate(&mut self, line: &str) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("kill", "backend") => self.nginx[0].kill(),
            ("start", "backend") => self.nginx[0].start_again().await,
            ("kill", "proxy") => self.fleet.proxies[1].kill(),
            ("start", "proxy") => self.fleet.proxies[1].process.restart(),
            ("break", "certificate") => {
                self.write_key(&Ca::new("another").sign(&["site.test"]).key)
            }
            ("mend", "certificate") => self.write_key(&self.site.key),
            ("kill", "controller") => self.fleet.controller.kill(),
            ("start", "controller") => self.fleet.controller.start_again().await,
            ("apply", comment) => {
                let nginx = &self.nginx[1];
                let backend = Some(Backend {
                    name: nginx.name.clone(),
                    address: nginx.address().to_string(),
                    weight: Some(7),
                    ..Backend::default()
                });
                let change = BackendChange { backend_set: "app".into(), backend };
                let comment = comment.into();
                let request =
                    ApplyRequest { backends: vec![change], comment, ..ApplyRequest::default() };
                let applied = self.fleet.api().await.apply(request).await;
                applied.expect("the controller accepts it");
            }
            _ => panic!("the script asks for {line:?}"),
        }
    }
}

async fn say(stdin: &mut ChildStdin, line: &str) {
    stdin.write_all(format!("{line}\n").as_bytes()).await.expect("the script listens");
}

/// `certificate` is the entry of one that is called `site`.
fn spec(nginx: &[Nginx], certificate: &str, edge: SocketAddr) -> String {
    let backend =
        |nginx: &Nginx| format!("{{ name = '{}', address = '{}' }}", nginx.name, nginx.address());
    let backends: Vec<_> = nginx.iter().map(backend).collect();
    let route = "retry = { attempts = 3, on = ['connect-failure', 'reset', '5xx'] }";
    let set = "health_check = { interval = '200ms', unhealthy_after = 2 }";
    let spec = app_with(route, set, &backends.join(", "));
    format!(
        "{certificate}
         {spec}
         [[listeners]]
         name = 'edge'
         address = '{edge}'
         protocol = 'tcp'
         [[routes]]
         name = 'shop'
         listeners = ['edge']
         match = {{ sni = 'shop.test' }}
         backend_set = 'app'
         [[routes]]
         name = 'moved'
         match = {{ path_prefix = '/old' }}
         redirect = {{ path = '/new', status = 308 }}
         [[backend_sets]]
         name = 'a-set-of-which-the-name-is-long-and-has-no-place-to-break_it_anywhere'
         balance = 'least_connections'
         backends = [
           {{ address = '127.0.0.1:1' }},
           {{ name = 'spare', address = '127.0.0.1:2', state = 'disabled' }},
         ]
         "
    )
}

#[tokio::test]
async fn an_operator_sees_in_a_browser_what_happens_to_the_fleet() {
    let mut fleet = Fleet::empty().await;
    fleet.add_proxy("p1", &["--zone=north".into()]);
    fleet.add_proxy("p2", &[]);
    let mut nginx = Vec::new();
    for i in 1..=3 {
        nginx.push(Nginx::start(fleet.dir(), &format!("nginx-{i}")).await);
    }
    let (site, edge) = (Ca::new("a test's").sign(&["site.test", "www.site.test"]), Port::reserve());
    let certificate = site.entry(fleet.dir(), "site");
    fleet.apply(&spec(&nginx, &certificate, edge.address())).await;
    for nginx in &nginx {
        let healthy = |status: &BackendStatus| status.health() == Health::Healthy;
        fleet.backend_is(nginx.address(), "healthy", healthy).await;
    }
    let load = Wrk {
        connections: 4,
        pause: Duration::from_millis(10),
        ..Wrk::new(fleet.proxies[0].web())
    };
    let load = load.start(fleet.dir());

    let mut script = Command::new(tool("setpriv"));
    script.args(["--pdeathsig", "KILL"]).arg(python_of("playwright")).arg("-u").arg(SCRIPT);
    script.arg(format!("http://{}", fleet.controller.admin())).arg(tool("chromium"));
    script.env("PYTHONDONTWRITEBYTECODE", "1").env("HOME", fleet.dir());
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut script = script.spawn().expect("Python runs");
    let mut stdin = script.stdin.take().expect("it is a pipe");
    let mut lines = BufReader::new(script.stdout.take().expect("it is a pipe")).lines();
    let mut operated = Operated { fleet, nginx, site };
    let talk = async {
        while let Some(line) = lines.next_line().await.expect("the script writes text") {
            // What begins so is for the reader.
            if let Some(asked) = line.strip_prefix("> ") {
                operated.operate(asked).await;
                say(&mut stdin, "done").await;
            } else {
                println!("{line}");
            }
        }
    };
    within(LONGEST, "the script ends", talk).await;
    let status = within(PATIENCE, "the script ends", script.wait()).await.expect("it ran");
    assert!(status.success(), "what the browser saw is not right; see above");
    load.stop().await.assert_flawless();
}
