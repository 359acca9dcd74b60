"""Health checks of a whole fleet: how late they begin, and what they cost the controller.

Backends are one process on as many loopback addresses as are wanted: `probed.rs`.
"""

import re
import resource
import subprocess
import time
import urllib.request
from dataclasses import dataclass

from . import install, machine, process, sections

HOW = """\
## Health checks

A controller that asks each backend by HTTP, and nothing else. All backends are one process, which answers at once, and share
two cores with it. "Late" is how long after it was due a check began. A connection is kept for 5 to 10 checks, where there are
open files for it: {files:,} are allowed here. A backend whose connection has no place among them is connected to for every check,
which costs several times what the check itself does. The last column is as many checks of backends that all have one. "Bare" is
a loop of system calls that asks them one after the other, measured before on the idle machine: it says how fast the machine is.
`bench/probes --docs` made this table on {date}, each column in {seconds} s.
"""

LATENESS = "lb_control_probe_lateness_seconds"
PROBES = "lb_control_probes_total"
BARE_CHECKS = 20_000

ROWS = [
    ("probes_per_second", "checks a second", "{:,.0f}"),
    ("fail", "of them failed", "{:,}"),
    ("late_p50_ms", "late: ms, half of them", "{:.1f}"),
    ("late_p99_ms", "late: ms, 99 of 100", "{:.0f}"),
    ("control_cores", "cores of the controller", "{:.2f}"),
    ("control_us_per_probe", "µs of its CPU for a check", "{:.0f}"),
    ("control_system_share", "of that in the kernel", "{:.0%}"),
    ("bare_us", "µs of CPU to connect, ask and close, bare", "{:.0f}"),
    ("backends_cores", "cores of the backends", "{:.2f}"),
    ("control_mib", "MiB of the controller", "{:.0f}"),
]


@dataclass(frozen=True)
class Fleet:
    """So many sets of so many backends; some of them never answer."""

    sets: int
    backends: int
    interval: str
    holes_alone: int = 0  # in sets of their own, of the same size
    holes_among: int = 0  # among others: the first ones of the first sets, one each

    def config(self, port, hole):
        lines, number = [], 0
        alone = -(-self.holes_alone // self.backends)
        for index in range(self.sets + alone):
            check = f'health_check = {{ http = "/health", interval = "{self.interval}" }}'
            lines += ["[[backend_sets]]", f'name = "s{index}"', check, "backends = ["]
            for which in range(self.backends):
                number += 1
                is_hole = index >= self.sets or which == 0 and index < self.holes_among
                address = f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"
                lines.append(f'  {{ address = "{address}:{hole if is_hole else port}" }},')
            lines.append("]")
        return "\n".join(lines) + "\n"


def measure(program, fleet, warm_up, seconds):
    """Plain values. `program` is a lb-control; it may use all cores, as the backends may."""
    directory = process.directory_for("probes")
    port, hole, grpc, admin = (machine.free_port() for _ in range(4))
    backends = process.Process("probed", [install.tool("probed"), port, hole], None, directory)
    config = directory / "lb.toml"
    config.write_text(fleet.config(port, hole))
    process.wait_until(
        "the backends do not accept", backends, lambda: process.accepts(f"127.0.0.1:{port}")
    )
    bare = _bare_seconds(port) / BARE_CHECKS
    control = process.Process(
        "lb-control",
        [program, "--grpc", f"127.0.0.1:{grpc}", "--admin", f"127.0.0.1:{admin}", "--config", config],
        None, directory, environment={"LB_LOG": "warn"},
    )
    try:
        process.wait_until(
            "the controller does not get ready", control,
            lambda: process.accepts(f"127.0.0.1:{admin}"), seconds=60,
        )
        time.sleep(warm_up)
        before = _Seen.now(admin, control, backends)
        time.sleep(seconds)
        after = _Seen.now(admin, control, backends)
    finally:
        control.stop()
        backends.stop()
    return after.since(before) | {"bare_us": bare * 1e6}


def _bare_seconds(port):
    """Of CPU, for as many checks of the backends as `BARE_CHECKS`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([install.tool("probed"), "ask", str(port), str(BARE_CHECKS)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass
class _Seen:
    at: float
    control: process.Cpu
    backends: process.Cpu
    late: dict
    results: dict
    rss: int

    @classmethod
    def now(cls, admin, control, backends):
        # The page itself costs something, and comes first.
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=60) as answer:
            page = answer.read().decode()
        buckets = re.findall(rf'^{LATENESS}_bucket{{le="([^"]+)"}} (\d+)', page, re.MULTILINE)
        results = {}
        for result, count in re.findall(rf'^{PROBES}{{.*result="(\w+)"}} (\d+)', page, re.MULTILINE):
            results[result] = results.get(result, 0) + int(count)
        return cls(
            time.monotonic(), control.cpu(), backends.cpu(),
            {float(bound): int(count) for bound, count in buckets}, results, control.rss(),
        )

    def since(self, earlier):
        elapsed = self.at - earlier.at
        late = {bound: count - earlier.late[bound] for bound, count in self.late.items()}
        probes = sum(self.results.values()) - sum(earlier.results.values())
        used, served = self.control - earlier.control, self.backends - earlier.backends
        results = {name: count - earlier.results[name] for name, count in self.results.items()}
        return {
            "seconds": elapsed,
            "probes_per_second": probes / elapsed,
            **{result: count for result, count in sorted(results.items())},
            "late_p50_ms": _quantile(late, 0.5) * 1e3,
            "late_p99_ms": _quantile(late, 0.99) * 1e3,
            "late_p999_ms": _quantile(late, 0.999) * 1e3,
            "late_most_ms": _quantile(late, 1) * 1e3,
            "control_cores": used.total / elapsed,
            "control_us_per_probe": used.total / probes * 1e6,
            "control_system_share": used.system / (used.user + used.system),
            "backends_cores": served.total / elapsed,
            "control_mib": self.rss / 2**20,
        }


def write(columns, seconds):
    """`columns` are what they are called, and what was seen."""
    lines = ["| | " + " | ".join(name for name, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for key, name, form in ROWS:
        lines.append(f"| {name} | " + " | ".join(form.format(seen.get(key, 0)) for _, seen in columns) + " |")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    how = HOW.format(files=files, date=time.strftime("%Y-%m-%d"), seconds=seconds)
    sections.write("bench/probes", f"{how}\n" + "\n".join(lines))


def _quantile(cumulative, share):
    """Linear within a bucket, as Prometheus has it; the last one is taken for its lower bound."""
    bounds = sorted(cumulative)
    rank = share * cumulative[bounds[-1]]
    below, lower = 0, 0.0
    for bound in bounds[:-1]:
        if cumulative[bound] >= rank:
            return lower + (bound - lower) * (rank - below) / max(cumulative[bound] - below, 1)
        below, lower = cumulative[bound], bound
    return lower
