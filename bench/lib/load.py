"""What is sent, from the core that this program itself is on: wrk for everything that is HTTP."""

import json
import subprocess
from dataclasses import dataclass

from . import install
from .machine import ROOT, CannotRun


@dataclass(frozen=True)
class Load:
    """What came of it. `broken` and `refused` are requests that did not get their answer."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    broken: int
    refused: int


def wrk(address, path, mode, seconds, connections):
    """`mode`: the arguments of wrk.lua."""
    command = [
        install.debian("wrk", "wrk"), "-t", "1", "-c", str(connections), "-d", f"{seconds}s",
        "-s", str(ROOT / "bench" / "wrk.lua"), f"http://{address}{path}", "--", *map(str, mode),
    ]
    return run(command, seconds)


def run(command, seconds):
    """Runs a generator of load that prints a line `RESULT {..}`."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds + 30,
        )
    except subprocess.TimeoutExpired:
        raise CannotRun("the load did not end") from None
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise CannotRun(f"no load: {(done.stderr or done.stdout).strip()[-300:]}")
