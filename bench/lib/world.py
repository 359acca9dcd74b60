"""What all rows share: the cores, the backend, the settings."""

import subprocess
from functools import cached_property

from . import install, process
from .backend import Backend
from .machine import cores, free_address
from .peers import Certificate


class World:
    def __init__(self, settings):
        self.settings = settings
        self.core, self.other_core = cores()
        # What every program is to take, with some to spare.
        self.connections = settings.connections + 500
        self.backend = Backend(self.other_core, 2 * self.connections)

    @cached_property
    def certificate(self):
        """One for itself, with a key on P-256, which is the same for everybody."""
        directory = process.directory_for("certificate")
        names = ("cert.pem", "key.pem", "both.pem")
        cert, key, both = (directory / name for name in names)
        command = [
            install.debian("openssl", "openssl"), "req", "-x509", "-newkey", "ec",
            "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "30",
            "-subj", "/CN=bench.example.com", "-addext", "subjectAltName=DNS:bench.example.com",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", key, "-out", cert,
        ]
        subprocess.run(command, check=True, capture_output=True)
        both.write_text(cert.read_text() + key.read_text())
        return Certificate(cert, key, both)

    @cached_property
    def tls_backend(self):
        """As the backend, with TLS."""
        return Backend(self.other_core, 2 * self.connections, self.certificate)

    @cached_property
    def echo(self):
        """The address of a server of WebSockets that sends every message back."""
        address = free_address()
        directory = process.directory_for("echo")
        program = install.tool("websocket")
        server = process.Process("echo", [program, "serve", address], self.other_core, directory)
        process.wait_until("the echo server does not accept", server, lambda: process.accepts(address))
        return address
