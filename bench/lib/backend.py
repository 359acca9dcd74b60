"""What is balanced over: one nginx on the other core, on three ports.

It answers by the path: `/64k` and `/1m` are files that the kernel has in memory, everything else is
two bytes. What is sent to `/post` is read first.
"""

from . import install, process
from .machine import free_port

SERVER = """\
    server {{
        listen 127.0.0.1:{port} backlog=4096{ssl};
        location / {{ return 200 'ok'; }}
        location = /64k {{ }}
        location = /1m {{ }}
        # `return` alone would answer before the body is there. To be mirrored, a request has to be
        # whole; after that, there is no such file.
        location = /post {{ mirror /mirror; log_not_found off; error_page 404 =200 @ok; }}
        location @ok {{ return 200 'ok'; }}
        location = /mirror {{ internal; return 204; }}
    }}
"""


class Backend:
    def __init__(self, core, connections, certificate=None):
        directory = process.directory_for("backend")
        for name, size in {"64k": 64 << 10, "1m": 1 << 20}.items():
            (directory / name).write_bytes(b"x" * size)
        ports = [free_port() for _ in range(3)]
        self.addresses = [f"127.0.0.1:{port}" for port in ports]
        ssl, tls = "", ""
        if certificate:
            ssl = " ssl"
            tls = (
                f"    ssl_certificate {certificate.cert}; ssl_certificate_key {certificate.key};\n"
                # Clients here demand it, and older versions of nginx do not offer it by themselves.
                "    ssl_protocols TLSv1.3;\n"
            )
        temporary = "\n".join(
            f"    {kind}_temp_path {directory}/tmp-{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = directory / "nginx.conf"
        config.write_text(
            f"""\
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
{temporary}
    root {directory}; default_type text/plain; access_log off;
    keepalive_requests 1000000000; keepalive_timeout 1h; client_body_buffer_size 128k;
    sendfile on; tcp_nopush on; open_file_cache max=16 inactive=1h; open_file_cache_valid 1h;
{tls}{"".join(SERVER.format(port=port, ssl=ssl) for port in ports)}}}
"""
        )
        nginx = install.debian("nginx", "nginx")
        self.process = process.Process("backend", [nginx, "-p", directory, "-c", config], core, directory)
        process.wait_until(
            "the backend does not accept", self.process,
            lambda: all(process.accepts(address) for address in self.addresses),
        )
