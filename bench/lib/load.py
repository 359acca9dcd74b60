"""What is sent, from the core that this program itself is on: wrk for everything that is HTTP."""

import json
import os
import subprocess
from dataclasses import dataclass

from . import install, process
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


def wrk(address, path, mode, seconds, connections, scheme="http"):
    """`mode`: the arguments of wrk.lua."""
    command = [
        install.debian("wrk", "wrk"), "-t", "1", "-c", str(connections), "-d", f"{seconds}s",
        "-s", str(ROOT / "bench" / "wrk.lua"), f"{scheme}://{address}{path}", "--", *map(str, mode),
    ]
    return run(command, seconds, openssl_settings() if scheme == "https" else None)


def openssl_settings():
    """What makes every client that uses OpenSSL agree on the same with every server."""
    file = process.directory_for("openssl") / "openssl.cnf"
    file.write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n[default]\n"
        "MinProtocol = TLSv1.3\nCiphersuites = TLS_AES_128_GCM_SHA256\nGroups = X25519\n"
    )
    return {**os.environ, "OPENSSL_CONF": str(file)}


def run(command, seconds, environment=None):
    """Runs a generator of load that prints a line `RESULT {..}`."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds + 30, env=environment,
        )
    except subprocess.TimeoutExpired:
        raise CannotRun("the load did not end") from None
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise CannotRun(f"no load: {(done.stderr or done.stdout).strip()[-300:]}")
