//! `lb top` on a real terminal (tmux), over a real fleet with traffic.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use integration_tests::{
    backend::Backend,
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    process::Process,
    tools::tool,
    wrk::Wrk,
};

/// A shell in a terminal of its own. Dropped, it takes all that runs in it along.
struct Terminal {
    socket: PathBuf,
    _server: Process,
}

const CHECKED: &str =
    "health_check = { http = '/', interval = '100ms', timeout = '5s', unhealthy_after = 2 }";

// === impl Terminal ===

impl Terminal {
    async fn open(dir: &Path, columns: u16, lines: u16) -> Self {
        let socket = dir.join("tmux");
        let at = format!("-S{}", socket.display());
        let server = Process::start(dir, "tmux", &tool("tmux"), &["-D", "-f/dev/null", &at]);
        let terminal = Self { socket, _server: server };
        eventually("tmux runs", async || {
            let (x, y) = (columns.to_string(), lines.to_string());
            let new = ["new-session", "-d", "-x", &x, "-y", &y, "env PS1='$ ' TERM=screen sh"];
            let done = terminal.run(&new).await;
            holds(done.status.success(), || format!("{done:?}"))
        })
        .await;
        terminal
    }

    /// Beside the test, whose thread the scripted backends need. Never starts another server.
    async fn run(&self, args: &[&str]) -> Output {
        let mut tmux = Command::new(tool("tmux"));
        tmux.args(["-u", "-N", "-S"]).arg(&self.socket).args(args).env_remove("TMUX");
        let output = tokio::task::spawn_blocking(move || tmux.output()).await;
        output.expect("it does not panic").expect("there is tmux")
    }

    async fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args).await;
        assert!(done.status.success(), "{args:?}: {done:?}");
        String::from_utf8(done.stdout).expect("tmux prints text")
    }

    async fn write(&self, line: &str) {
        self.ok(&["send-keys", "-l", line]).await;
        self.ok(&["send-keys", "Enter"]).await;
    }

    async fn press(&self, key: &str) {
        self.ok(&["send-keys", key]).await;
    }

    async fn screen(&self) -> String {
        self.ok(&["capture-pane", "-p"]).await
    }

    async fn shows(&self, what: &str) {
        self.eventually(what, |screen| screen.contains(what)).await;
    }

    async fn eventually(&self, what: &str, is: impl Fn(&str) -> bool) {
        eventually(&format!("the screen shows {what}"), async || {
            let screen = self.screen().await;
            holds(is(&screen), || format!("\n{screen}"))
        })
        .await;
    }

    /// The shell is back with what was on the screen before, and the terminal does what it did.
    async fn is_restored(&self, code: i32) {
        self.shows(&format!("code={code}")).await;
        self.eventually("what was there before", |screen| screen.lines().any(|l| l == "before"))
            .await;
        let flags = self.ok(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).await;
        assert_eq!(flags.trim(), "0 1", "no alternate screen, and a cursor");
        self.write("stty -a").await;
        self.eventually("the usual modes", |screen| {
            let has = |word: &str| screen.split_whitespace().any(|w| w.trim_matches(';') == word);
            ["icanon", "echo", "isig", "icrnl", "opost"].into_iter().all(has)
        })
        .await;
    }
}

/// Begins `lb top`, that writes its process id and, when it has ended, its exit code.
async fn top(terminal: &Terminal, fleet: &Fleet, environment: &str) {
    let lb = env!("CARGO_BIN_EXE_lb");
    let control = fleet.controller.grpc();
    terminal.shows("$").await;
    terminal.write("clear; echo before").await;
    // What is typed before the shell asks for it shows up anywhere.
    terminal.eventually("the shell, ready", |screen| screen.starts_with("before\n$")).await;
    let command = format!("{lb} top --control {control} --interval 200ms");
    // In quotes, so that the line itself is not what it writes.
    terminal
        .write(&format!(
            "{environment} sh -c 'echo $$ >{0}/pid; exec {command}'; echo code''=$?",
            fleet.dir().display()
        ))
        .await;
    terminal.shows("lb top  http://").await;
}

/// The words of the line that begins with this one.
fn row(screen: &str, first: &str) -> Vec<String> {
    let rows = screen.lines().map(|line| line.split_whitespace().map(str::to_owned).collect());
    let found = rows.into_iter().find(|row: &Vec<_>| row.first().is_some_and(|word| word == first));
    found.unwrap_or_default()
}

/// In sync, and with requests.
fn carries_traffic(screen: &str, proxy: &str) -> bool {
    let row = row(screen, proxy);
    // PROXY VERSION SYNC REQ/S; there is no zone.
    matches!(&row[..], [_, _, sync, rate, ..] if sync == "yes" && rate != "0" && rate != "-")
}

#[tokio::test]
async fn it_shows_the_traffic_of_each_proxy_and_a_backend_that_dies_and_ends_with_q() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let fleet = Fleet::start(2, &app("", CHECKED, &[one.address(), two.address()])).await;
    let loads: Vec<_> =
        fleet.proxies.iter().map(|proxy| Wrk::new(proxy.web()).start(fleet.dir())).collect();
    let terminal = Terminal::open(fleet.dir(), 80, 24).await;
    top(&terminal, &fleet, "").await;

    terminal.shows(" 2/2 proxies in sync ").await;
    for proxy in ["p1", "p2"] {
        terminal.eventually("its traffic", |screen| carries_traffic(screen, proxy)).await;
    }
    terminal
        .eventually("the rate of both together", |screen| {
            let rate =
                screen.split_once(" req/s").and_then(|(before, _)| before.split(' ').next_back());
            rate.is_some_and(|rate| rate != "0" && rate != "-")
        })
        .await;
    let backend = |address| format!("app/{address}");
    let healthy =
        |screen: &str, name: String| row(screen, &name).get(2).is_some_and(|h| h == "healthy");
    terminal
        .eventually("both backends", |screen| {
            healthy(screen, backend(one.address())) && healthy(screen, backend(two.address()))
        })
        .await;

    let dead = backend(one.address());
    one.stop().await;
    terminal
        .eventually("what is dead", |screen| {
            row(screen, &dead).get(2).is_some_and(|health| health == "unhealthy")
                && healthy(screen, backend(two.address()))
                && screen.contains(&format!("! {dead} is unhealthy: "))
        })
        .await;

    for load in loads {
        load.stop().await;
    }
    terminal.press("q").await;
    terminal.is_restored(0).await;
}

#[tokio::test]
async fn it_keeps_the_last_figures_while_the_controller_is_away_and_goes_on_after() {
    let backend = Backend::named("it").await;
    let mut fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let terminal = Terminal::open(fleet.dir(), 80, 24).await;
    top(&terminal, &fleet, "NO_COLOR=1").await;
    terminal.shows(" 1/1 proxies in sync ").await;

    fleet.controller.kill();
    terminal.shows("CONTROLLER AWAY for ").await;
    let screen = terminal.screen().await;
    assert_eq!(row(&screen, "p1").get(2).map(String::as_str), Some("yes"), "{screen}");
    let coloured = terminal.ok(&["capture-pane", "-p", "-e"]).await;
    let codes: Vec<_> = coloured.split('\u{1b}').filter_map(|part| part.split_once('m')).collect();
    let colours: Vec<_> = codes
        .iter()
        .flat_map(|(codes, _)| codes.trim_start_matches('[').split(';'))
        .filter(|code| matches!(code.as_bytes(), [b'3' | b'4' | b'9', b'0'..=b'8']))
        .collect();
    assert!(!codes.is_empty() && colours.is_empty(), "NO_COLOR is set: {colours:?}");

    fleet.controller.start_again().await;
    terminal.eventually("that it is back", |screen| !screen.contains("AWAY")).await;
    terminal.shows(" 1/1 proxies in sync ").await;

    let pid = std::fs::read_to_string(fleet.dir().join("pid")).expect("it wrote that");
    let kill = Command::new("kill").args(["-TERM", pid.trim()]).status();
    assert!(kill.expect("there is kill").success());
    terminal.is_restored(143).await;
}

#[tokio::test]
async fn it_uses_the_room_that_the_terminal_comes_to_have() {
    let backend = Backend::named("it").await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let terminal = Terminal::open(fleet.dir(), 80, 24).await;
    top(&terminal, &fleet, "").await;
    terminal.shows(" 1/1 proxies in sync ").await;
    assert!(!terminal.screen().await.contains(" BUILD"), "there is no room for it");
    terminal.ok(&["resize-window", "-x", "140", "-y", "40"]).await;
    terminal.shows(" BUILD").await;
    terminal.ok(&["resize-window", "-x", "60", "-y", "12"]).await;
    terminal.eventually("less", |screen| !screen.contains(" BUILD")).await;
    terminal.shows("1 PROXIES 1").await;
}

#[tokio::test]
async fn without_a_terminal_it_prints_the_same_once_or_says_so() {
    let backend = Backend::named("it").await;
    let mut fleet = Fleet::start(2, &app("", "", &[backend.address()])).await;
    let control = format!("--control={}", fleet.controller.grpc());
    let lb = |args: &[&str]| {
        let mut lb = Command::new(env!("CARGO_BIN_EXE_lb"));
        let done = lb.arg("top").arg(&control).args(args).output().expect("there is an lb");
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        (done.status.code(), text(done.stdout), text(done.stderr))
    };

    let (code, out, error) = lb(&["--once"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    for part in [" 2/2 proxies in sync ", "\n PROXIES 2 ", "\n SETS 1 ", "\n BACKENDS 1 "] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    assert_eq!(row(&out, "p2").get(2).map(String::as_str), Some("yes"), "{out}");
    let name = format!("app/{}", backend.address());
    assert_eq!(row(&out, &name).get(1).map(String::as_str), Some("active"), "{out}");
    assert!(!out.contains('\u{1b}') && out.ends_with(" changes\n"), "{out:?}");

    let (code, out, error) = lb(&[]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let expected = "lb: standard output is no terminal; lb top --once prints the same as text\n";
    assert_eq!(error, expected);

    fleet.controller.kill();
    let (code, out, error) = lb(&["--once"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains(&fleet.controller.grpc().to_string()), "{error}");

    assert_eq!(lb(&["--interval=10ms"]).0, Some(2), "too short");
}
