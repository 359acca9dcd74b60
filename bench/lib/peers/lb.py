"""lb-proxy, one worker, with a lb-control of its own on the other core."""

import re
import signal
import subprocess
import urllib.request

from .. import process
from ..machine import free_address
from . import Peer, Running, weight


class Lb(Peer):
    ours = True
    source = "this repository, `cargo build --release`"

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        said = subprocess.run([directory / "lb-proxy", "--version"], capture_output=True, text=True)
        self.version = said.stdout.split()[-1] if said.stdout else "unknown"

    def start(self, site, core, other_core):
        directory = process.directory_for(self.name)
        web, grpc, admin, control_admin = (free_address() for _ in range(4))
        config = directory / "lb.toml"
        config.write_text(toml(site, 0))
        control = process.Process(
            "lb-control",
            [self.directory / "lb-control", "--grpc", grpc, "--admin", control_admin, "--config", config],
            other_core, directory,
        )
        command = [
            self.directory / "lb-proxy", "--id", "bench", "--control", f"http://{grpc}",
            "--admin", admin, "--data-dir", directory / "data", "--listen", f"web={web}",
            "--workers", "1",
        ]
        if site.access_log:
            command += ["--access-log", "full", "--access-log-to", site.access_log]
        proxy = process.Process("lb-proxy", command, core, directory)
        running = RunningLb(proxy, web, [control], site, config, admin)
        process.wait_until(f"{self.name} does not get ready", proxy, running.ready)
        running.first_version = running.metric("lb_proxy_table_version")
        return running


class RunningLb(Running):
    def __init__(self, proxy, address, helpers, site, config, admin):
        super().__init__(proxy, address, helpers)
        self.site = site
        self.config = config
        self.admin = admin

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=1) as answer:
                return answer.status == 200 and process.accepts(self.address)
        except OSError:
            return False

    def change(self, number):
        # Renamed into place, so that nobody reads half of it.
        new = self.config.with_suffix(".new")
        new.write_text(toml(self.site, number))
        new.rename(self.config)
        self.helpers[0].signal(signal.SIGHUP)

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else None


def toml(site, change):
    first = weight(change) if site.changes else 100
    lines = ["[[listeners]]", 'name = "web"', 'address = "127.0.0.1:1"']
    if site.certificate:
        lines += ['tls = { certificates = ["bench"] }']
    if not site.tcp:
        lines += ['idle_timeout = "1h"']
    if site.tcp:
        lines += ['protocol = "tcp"']
        if site.server_name:
            lines += ["[[routes]]", 'name = "r"', 'listeners = ["web"]']
            lines += [f'match = {{ sni = "{site.server_name}" }}']
        lines += ['backend_set = "app"']
    else:
        for number, (host, prefix) in enumerate(site.routes or [(None, None)]):
            lines += ["[[routes]]", f'name = "r{number}"', 'backend_set = "app"']
            if host:
                lines += [f'match = {{ host = "{host}", path_prefix = "{prefix}" }}']
    if site.certificate:
        lines += ["[[certificates]]", 'name = "bench"']
        lines += [f'cert = "{site.certificate.cert}"', f'key = "{site.certificate.key}"']
    lines += ["[[backend_sets]]", 'name = "app"', 'balance = "round_robin"', "backends = ["]
    for number, address in enumerate(site.backends):
        lines += [f'  {{ address = "{address}", weight = {100 if number else first} }},']
    return "\n".join([*lines, "]", ""])
