//! A program that runs for as long as its owner wants.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use lb_common::clock;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::{
    backend::is_listening,
    eventually::{PATIENCE, eventually, eventually_within, holds},
    tools::tool,
};

/// Killed when dropped. What it logs goes to a file, whose end is printed if the test fails; and the test
/// fails if it has panicked.
///
/// The kernel kills it too when the thread that started it ends, which covers tests that are
/// killed themselves. So start processes from a test's own thread and from no other.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// Lines of a log that are printed when a test fails.
const TAIL: usize = 80;

// === impl Process ===

impl Process {
    /// Runs the program; its output goes to `NAME.log` in `dir`, after that of earlier runs.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn start<A: AsRef<OsStr>>(dir: &Path, name: &str, program: &Path, args: &[A]) -> Self {
        let mut process = Self {
            name: name.into(),
            program: program.into(),
            args: args.iter().map(|arg| arg.as_ref().to_string_lossy().into()).collect(),
            log: dir.join(format!("{name}.log")),
            child: None,
        };
        process.run();
        process
    }

    fn run(&mut self) {
        let log = || -> std::io::Result<(File, File)> {
            let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
            log.seek(SeekFrom::End(0))?;
            writeln!(log, "--- {} {}", self.program.display(), self.args.join(" "))?;
            Ok((log.try_clone()?, log))
        };
        let (out, err) = log().unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
        let mut command = Command::new(tool("setpriv"));
        command.args(["--pdeathsig", "KILL"]).arg(&self.program).args(&self.args);
        // What the caller's environment says is not for the programs under test.
        for (key, _) in
            std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("LB_"))
        {
            command.env_remove(key);
        }
        command.env("LB_LOG", "debug,h2=info,tower=info,hyper_util=info");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // Signals of the terminal are not for it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Runs it again as it ran before.
    ///
    /// # Panics
    /// If it is running still.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.name);
        self.run();
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it is not running.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).id()
    }

    /// How many bytes of its memory are in RAM.
    ///
    /// # Panics
    /// If it is not running.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// How many were at most.
    ///
    /// # Panics
    /// If it is not running.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or_else(|| panic!("{path} has no {key}")) * 1024
    }

    /// # Panics
    /// If it is not running.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name));
        let pid = Pid::from_child(child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// As `kill -9`; returns when it is dead.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it is dead already.
            let _ = child.kill();
            child.wait().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within `patience`.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let started = clock::now();
        let Self { name, child: running, .. } = self;
        let child = running.as_mut().unwrap_or_else(|| panic!("{name} is not running"));
        let what = format!("{name} ends");
        let status = eventually_within(patience, &what, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it is running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await;
        *running = None;
        println!("{name} ended after {:?}: {status}", clock::now() - started);
        status
    }

    /// As [`Process::ended`], for an exit code. What a signal ended counts as 128 and its number.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn exit_code(&mut self) -> i32 {
        let status = self.ended(PATIENCE).await;
        status.code().or(status.signal().map(|signal| 128 + signal)).expect("one of them")
    }

    /// Returns when somebody listens at its address.
    ///
    /// # Panics
    /// If nobody does.
    pub async fn listens(&self, address: SocketAddr) {
        eventually(&format!("{} listens at {address}", self.name), async || {
            let up = is_listening(address).await;
            holds(up, || format!("nobody does; its log:\n{}", self.log()))
        })
        .await;
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// All that it has logged in all of its runs.
    pub fn log(&self) -> String {
        // It may be cut in the middle of a character while it is written.
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        if !std::thread::panicking() {
            // One costs a connection at most, and so a test may pass all the same.
            assert!(!log.contains("panicked at"), "{} panicked:\n{log}", self.name);
        } else {
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("=== log of {} ===\n{}\n", self.name, tail.join("\n"));
        }
    }
}
