"""The load balancers, one file each, all of them given the same site to serve."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """Files. `both` has the certificate and then the key."""

    cert: Path
    key: Path
    both: Path


@dataclass(frozen=True)
class Site:
    """What to serve. The same for everybody; each writes it down in its own words."""

    backends: list[str]
    # For each of the routes, a host and the prefix of a path. Empty: one route takes everything.
    routes: tuple[tuple[str, str], ...] = ()
    tcp: bool = False
    # What TLS clients of TCP ask for: their connections are routed by it, and passed on as they are.
    server_name: str | None = None
    websocket: bool = False
    # The certificate to show clients, if they speak TLS.
    certificate: Certificate | None = None
    # Whether bodies are so long that bigger buffers pay.
    large_bodies: bool = False
    # Where each request is to be logged, in the program's usual format and as cheaply as it can.
    access_log: Path | None = None
    # Whether the configuration will change while it runs.
    changes: bool = False
    connections: int = 1024


class Peer:
    """A load balancer that can be started. What it is called and where it is from, for the reader."""

    name: str
    version: str
    source: str
    ours = False

    def start(self, site, core, other_core):
        """Returns a Running that answers."""
        raise NotImplementedError


class Running:
    """A load balancer at work: `process` is what is measured, `address` is where it serves."""

    def __init__(self, process, address, helpers=()):
        self.process = process
        self.address = address
        self.helpers = helpers

    def change(self, number):
        """Changes the weight of a backend, to something that depends on `number`."""
        raise NotImplementedError

    def stop(self):
        for process in (self.process, *self.helpers):
            process.stop()


def weight(number):
    """The first backend's weight after change `number`; that of the others is 100."""
    return 50 + number % 50


def chosen(settings):
    """All that this run compares, ours first, and why some cannot be had."""
    from ..machine import CannotRun
    from . import envoy, haproxy, lb, nginx

    peers, missing = [], {}
    for name, directory in settings.ours.items():
        peers.append(lb.Lb(name, directory))
    makers = {
        "haproxy": haproxy.debian,
        "haproxy-pypi": haproxy.pypi,
        "nginx": nginx.debian,
        "nginx-pypi": nginx.pypi,
        "envoy": envoy.pypi,
    }
    for key in settings.peers:
        try:
            peers.append(makers[key]())
        except CannotRun as why:
            missing[key] = str(why)
    return peers, missing
