//! Real load: wrk as Debian has it.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{
    eventually::{PATIENCE, within},
    tools::tool,
};

/// What is requested, and how.
#[derive(Clone, Debug)]
pub struct Wrk<'a> {
    pub address: SocketAddr,
    pub path: &'a str,
    pub connections: usize,
    /// A new connection for each request.
    pub reconnect: bool,
    /// Between a response and the next request of a connection. Full speed on a small machine
    /// starves everything else, and that is not what most tests are about.
    pub pause: Duration,
}

/// Load that is being made.
#[derive(Debug)]
pub struct Load(Child);

/// Seconds after which load ends by itself, lest it outlive a test that is killed.
const LONGEST: &str = "900s";

/// What wrk counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub requests: u64,
    /// Connect, read, write, timeout.
    pub socket_errors: [u64; 4],
    pub non_2xx: u64,
    /// All of it.
    pub text: String,
}

// === impl Wrk ===

impl<'a> Wrk<'a> {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            path: "/",
            connections: 8,
            reconnect: false,
            pause: Duration::from_millis(2),
        }
    }

    /// Begins; `dir` takes wrk's script.
    ///
    /// # Panics
    /// If wrk cannot be run.
    pub fn start(&self, dir: &Path) -> Load {
        let script = dir.join(format!("wrk-{}.lua", self.pause.as_millis()));
        let pause = self.pause.as_millis();
        fs::write(&script, format!("function delay() return {pause} end\n"))
            .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let mut command = Command::new(tool("setpriv"));
        command.args(["--pdeathsig", "KILL"]).arg(tool("wrk"));
        command.args(["-t", "1", "--timeout", "10s", "-c", &self.connections.to_string()]);
        command.args(["-d", LONGEST]);
        if self.reconnect {
            command.args(["-H", "Connection: close"]);
        }
        if !self.pause.is_zero() {
            command.arg("-s").arg(&script);
        }
        command.arg(format!("http://{}{}", self.address, self.path));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Load(child)
    }
}

// === impl Load ===

impl Load {
    /// Ends it.
    ///
    /// # Panics
    /// If wrk fails, has ended before, or does not end.
    pub async fn stop(self) -> Report {
        let pid = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = pid.expect("wrk runs until it is stopped");
        // wrk ends in order and reports.
        kill_process(pid, Signal::INT).expect("wrk runs until it is stopped");
        let output = within(PATIENCE, "wrk ends", self.0.wait_with_output()).await;
        let output = output.expect("wrk ran");
        let text = String::from_utf8(output.stdout).expect("wrk prints text");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "wrk failed: {text}{error}");
        Report::parse(text)
    }
}

// === impl Report ===

impl Report {
    pub fn failures(&self) -> u64 {
        self.socket_errors.iter().sum::<u64>() + self.non_2xx
    }

    /// # Panics
    /// With wrk's words, if any request failed or none was made.
    #[track_caller]
    pub fn assert_flawless(&self) {
        assert!(self.requests > 0, "nothing was requested:\n{}", self.text);
        assert_eq!(self.failures(), 0, "requests failed:\n{}", self.text);
    }

    fn parse(text: String) -> Self {
        let mut report = Self::default();
        let number = |word: &str| -> u64 {
            word.trim().parse().unwrap_or_else(|_| panic!("{word:?} is no number in:\n{text}"))
        };
        for line in text.lines().map(str::trim) {
            if let Some((requests, _)) = line.split_once(" requests in ") {
                report.requests = number(requests);
            } else if let Some(errors) = line.strip_prefix("Socket errors: ") {
                let counts = errors
                    .split(',')
                    .map(|part| number(part.trim().split(' ').nth(1).unwrap_or_default()));
                for (slot, count) in report.socket_errors.iter_mut().zip(counts) {
                    *slot = count;
                }
            } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses: ") {
                report.non_2xx = number(count);
            }
        }
        Self { text, ..report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_is_counted() {
        let text = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 8 connections\n  \
                    1234 requests in 2.00s, 1.00MB read\n  \
                    Socket errors: connect 1, read 20, write 300, timeout 4000\n  \
                    Non-2xx or 3xx responses: 50000\nRequests/sec: 617.00\n";
        let report = Report::parse(text.into());
        assert_eq!((report.requests, report.failures()), (1234, 54_321));
    }
}
