//! Prometheus' text format, and the figures that every process has.
//!
//! A page is written from what is counted elsewhere when somebody asks for it: there is no registry
//! that could disagree with the state.

use std::{
    fmt::{Display, Write as _},
    fs, io,
    time::Duration,
};

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page(String);

/// One metric of a page; its samples follow one another.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut String,
    name: &'a str,
}

/// Names and values; any value will do.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

// === impl Page ===

impl Page {
    /// Something that only grows; its name ends with `_total`.
    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "counter", help)
    }

    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "gauge", help)
    }

    pub fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "histogram", help)
    }

    fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: &mut self.0, name }
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

// === impl Family ===

impl Family<'_> {
    /// The only sample of a metric without labels.
    pub fn value(mut self, value: impl Display) {
        self.sample(&[], value);
    }

    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// The samples of one histogram: `counts` by bucket, the last of which has no bound.
    pub fn buckets(
        &mut self,
        labels: Labels<'_>,
        bounds: impl IntoIterator<Item = f64>,
        counts: &[u64],
        sum: Duration,
    ) {
        let bounds = bounds.into_iter().map(|bound| bound.to_string());
        let mut below = 0;
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            below += count;
            self.line("_bucket", labels, Some(&bound), below);
        }
        self.line("_sum", labels, None, sum.as_secs_f64());
        self.line("_count", labels, None, below);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: impl Display) {
        let Self { page, name } = self;
        let _ = write!(page, "{name}{suffix}");
        let bound = bound.map(|bound| ("le", bound));
        let mut before = '{';
        for (label, text) in labels.iter().copied().chain(bound) {
            let _ = write!(page, "{before}{label}=\"");
            escape(text, page);
            page.push('"');
            before = ',';
        }
        let after = if before == ',' { "}" } else { "" };
        let _ = writeln!(page, "{after} {value}");
    }
}

fn escape(value: &str, page: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            c => page.push(c),
        }
    }
}

/// The version, and the figures of this process that Prometheus' own libraries have too. Those that
/// the system does not tell are left out.
pub fn process(page: &mut Page) {
    let version = env!("CARGO_PKG_VERSION");
    page.gauge("lb_build_info", "What was built, in its labels; always 1.")
        .sample(&[("version", version)], 1);
    if let Ok(stat) = Stat::read() {
        page.counter("process_cpu_seconds_total", "Processor time used, user and system.")
            .value(stat.cpu);
        if let Some(start) = stat.start {
            page.gauge("process_start_time_seconds", "When the process started, as Unix time.")
                .value(start);
        }
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        if let Some(bytes) = kilobytes(&status, "VmRSS:") {
            page.gauge("process_resident_memory_bytes", "Memory that is in RAM.").value(bytes);
        }
        if let Some(bytes) = kilobytes(&status, "VmSize:") {
            page.gauge("process_virtual_memory_bytes", "Memory that is addressed.").value(bytes);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is this look.
        let open = open.count().saturating_sub(1);
        page.gauge("process_open_fds", "File descriptors in use.").value(open);
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits")
        && let Some(most) = most_files(&limits)
    {
        page.gauge("process_max_fds", "File descriptors that there may be.").value(most);
    }
}

/// In seconds.
struct Stat {
    cpu: f64,
    start: Option<f64>,
}

/// Of the times that Linux tells user space: its `USER_HZ`, whatever its own clock ticks.
const TICKS_PER_SECOND: f64 = 100.0;

impl Stat {
    fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_time(&stat));
        Self::parse(&stat, boot).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Fields by proc(5), which counts from 1. The second one, the command, may hold anything.
    fn parse(stat: &str, boot: Option<f64>) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let ticks = |field: usize| rest.split_whitespace().nth(field - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            start: boot.and_then(|boot| Some(boot + ticks(22)? / TICKS_PER_SECOND)),
        })
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit; `None` if there is none.
fn most_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_their_metric_with_labels_escaped() {
        let mut page = Page::default();
        page.gauge("a", "About\na \\.").value(1.5);
        let mut family = page.counter("b_total", "B.");
        family.sample(&[("x", "plain"), ("y", "\"\\\n'ü")], 7);
        let expected = "# HELP a About\\na \\\\.\n# TYPE a gauge\na 1.5\n\
            # HELP b_total B.\n# TYPE b_total counter\n\
            b_total{x=\"plain\",y=\"\\\"\\\\\\n'ü\"} 7\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut page = Page::default();
        let mut family = page.histogram("h_seconds", "H.");
        family.buckets(&[("r", "x")], [0.0001, 0.5, 30.0], &[1, 2, 0, 3], Duration::from_millis(9));
        family.buckets(&[], [1.0], &[0, 1], Duration::ZERO);
        let expected = "# HELP h_seconds H.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{r=\"x\",le=\"0.0001\"} 1\n\
            h_seconds_bucket{r=\"x\",le=\"0.5\"} 3\n\
            h_seconds_bucket{r=\"x\",le=\"30\"} 3\n\
            h_seconds_bucket{r=\"x\",le=\"+Inf\"} 6\n\
            h_seconds_sum{r=\"x\"} 0.009\n\
            h_seconds_count{r=\"x\"} 6\n\
            h_seconds_bucket{le=\"1\"} 0\n\
            h_seconds_bucket{le=\"+Inf\"} 1\n\
            h_seconds_sum 0\n\
            h_seconds_count 1\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_process_is_described_by_its_files() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 1250 20";
        let stat = Stat::parse(&format!("7 (odd) name) {fields}"), Some(1_000.0));
        let stat = stat.expect("has all fields");
        assert_eq!((stat.cpu, stat.start), (2.0, Some(1_012.5)));
        assert!(Stat::parse("7 (cut off", None).is_none());
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
        assert_eq!(kilobytes("VmPeak: 9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12 * 1024));
        let limits = "Limit Soft Hard Units\nMax open files            1024  4096  files\n";
        assert_eq!(most_files(limits), Some(1024));
    }

    #[test]
    fn this_process_has_all_figures() {
        let mut page = Page::default();
        process(&mut page);
        let text = page.into_text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
        };
        let now = crate::clock::wall().as_secs_f64();
        assert!((now - 86_400.0..=now + 1.0).contains(&value("process_start_time_seconds")));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
    }
}
