"""This machine: which core does what, free ports, and what to say of it."""

import os
import random
import resource
import socket
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "bench"

# Where Debian keeps servers, which is not on everybody's PATH.
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"


class CannotRun(Exception):
    """Why something cannot be measured here."""


def cores():
    """(what is measured, everything else): one core each."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("this needs two cores: one for the proxy, one for load and backends")
    return usable[0], usable[1]


def raise_descriptor_limit(wanted=65536):
    """As many open files as are allowed. Programs started from here inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        except (ValueError, PermissionError):
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_port():
    """A port that nobody listens on, below those that outgoing connections take."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10000, first)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def free_address():
    return f"127.0.0.1:{free_port()}"


def describe():
    """What a reader has to know of the machine."""
    info = Path("/proc/cpuinfo").read_text()
    models = {line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")}
    kernel = os.uname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    virtual = ", a virtual machine" if " hypervisor " in info else ""
    release = {}
    if Path("/etc/os-release").exists():
        pairs = Path("/etc/os-release").read_text().splitlines()
        release = dict(line.split("=", 1) for line in pairs if "=" in line)
    return {
        "processor": f"{' / '.join(sorted(models))}, {os.cpu_count()} cores{virtual}",
        "memory": f"{memory / 2**30:.0f} GiB",
        # Without what a vendor or a cloud put behind the version.
        "kernel": f"{kernel.sysname} {kernel.release.split('-')[0]} ({kernel.machine})",
        "system": release.get("PRETTY_NAME", "unknown").strip('"'),
    }
