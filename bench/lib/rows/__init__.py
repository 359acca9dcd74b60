"""The rows of the table, in its order: each says what is served, to whom, and what is sent."""

from dataclasses import dataclass

from ..load import wrk
from ..peers import Peer, Site


@dataclass
class Entry:
    """One line of a row's table: a program with a site to serve."""

    label: str
    peer: Peer
    site: Site
    # The label of the entry that this one is to cost hardly more than.
    beside: str | None = None


class Row:
    """What is compared. A subclass says what differs from small requests over connections that stay."""

    name: str
    title: str
    about: str
    # What one unit of the load is called.
    unit = "request"
    path = "/"
    mode = ("get",)
    # Whether the load's times mean anything.
    has_latency = True
    # Whether requests may fail, so that their number is a figure and no reason to stop.
    may_fail = False

    def entries(self, peers, world):
        return [Entry(peer.name, peer, self.site(world)) for peer in peers]

    def site(self, world):
        return Site(world.backend.addresses, connections=world.connections)

    def load(self, entry, running, seconds, world):
        scheme = "https" if entry.site.certificate else "http"
        count = world.settings.connections
        return wrk(running.address, self.path, self.mode, seconds, count, scheme)

    def how(self, settings):
        """What the figures are medians of."""
        return (
            f"{settings.rounds} rounds of {settings.seconds} s, {settings.connections} connections"
        )

    def before_round(self, entry, running, world):
        pass

    def notes(self, entry, running, world):
        """What else there is to say when all rounds are over, a list of sentences."""
        return []


def all_rows():
    from . import access_log, changes, http, idle, routes, tcp, tls, websocket

    rows = [
        http.Small(),
        http.PerConnection(),
        http.Body64k(),
        http.Body1m(),
        http.Post(),
        http.Pipelined(),
        websocket.WebSocket(),
        tcp.Tcp(),
        tcp.TcpSni(),
        routes.Routes(),
        access_log.AccessLog(),
        changes.Changes(),
        idle.Idle(),
        tls.Small(),
        tls.Body64k(),
        tls.Body1m(),
        tls.Handshakes(),
        tls.Resumed(),
        tls.Idle(),
    ]
    return {row.name: row for row in rows}
