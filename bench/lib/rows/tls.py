"""TLS with clients: 1.3, AES-128-GCM, X25519 and a certificate on P-256 for everybody."""

import socket
import ssl
from dataclasses import replace
from functools import cached_property

from .. import install
from ..load import run
from . import Row, http, idle


class Tls(Row):
    def site(self, world):
        return replace(super().site(world), certificate=world.certificate)


class Small(Tls, http.Small):
    name = "tls"
    title = "Small requests over TLS"


class Body64k(Tls, http.Body64k):
    name = "tls-64k"
    title = "64 KiB answers over TLS"


class Body1m(Tls, http.Body1m):
    name = "tls-1m"
    title = "1 MiB answers over TLS"


class Handshakes(Tls):
    name = "handshakes"
    title = "Full TLS handshakes"
    about = "A connection, a full handshake, a small request, and the end."
    unit = "connection"
    kind = "full"
    has_latency = False

    def load(self, entry, running, seconds, world):
        command = [install.example("lb-tls", "handshakes"), running.address, self.kind]
        return run([*command, str(seconds), str(entry.site.certificate.cert)], seconds)


class Resumed(Handshakes):
    name = "resumed"
    title = "Resumed TLS handshakes"
    about = "The same, with a session that was had before."
    kind = "resumed"


class Idle(Tls, idle.Idle):
    name = "tls-idle"
    title = "Idle TLS connections"

    @cached_property
    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def connect(self, address, source):
        plain = socket.create_connection(address, 5, (source, 0))
        return self.context.wrap_socket(plain, server_hostname="bench.example.com")
