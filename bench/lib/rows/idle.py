"""Connections that do nothing: what each of them costs in memory."""

import socket
import ssl
import time
from dataclasses import replace

from .. import measure
from ..machine import CannotRun
from . import Entry, Row

QUIET_SECONDS = 3
BATCH = 50
# Memory hardly differs between rounds.
MOST_ROUNDS = 3
REQUEST = b"GET / HTTP/1.1\r\nHost: bench.example.com\r\n\r\n"


class Idle(Row):
    name = "idle"
    title = "Idle connections"
    about = (
        "Connections that each had one small request answered and then stay silent: the process's "
        f"memory {QUIET_SECONDS} s later, over what it was before them. Programs are set up for as many "
        "connections, and each round is with a new process."
    )
    unit = "connection"

    def how(self, settings):
        return f"{rounds(settings)} rounds, {settings.idle_connections:,} connections"

    def measure(self, peers, world):
        """Programs are not side by side here: what counts is memory, not time."""
        count = world.settings.idle_connections
        site = replace(self.site(world), connections=count + 500)
        entries = [Entry(peer.name, peer, site) for peer in peers]
        results = [measure.result(entry) for entry in entries]
        all_rounds = rounds(world.settings)
        for number in range(all_rounds):
            for entry, result in zip(entries, results):
                if result["failed"]:
                    continue
                measure.progress(f"idle: round {number + 1} of {all_rounds}, {entry.label}")
                try:
                    result["rounds"].append(one(entry, count, world, self.connect))
                except (CannotRun, OSError) as why:
                    result["failed"] = str(why)
        measure.progress("")
        for result in results:
            if not result["failed"]:
                result["figures"] = measure.medians(result["rounds"])
        return results

    def connect(self, address, source):
        return socket.create_connection(address, 5, (source, 0))


def rounds(settings):
    return min(settings.rounds, MOST_ROUNDS)


def one(entry, count, world, connect):
    running = entry.peer.start(entry.site, world.core, world.other_core)
    clients = []
    try:
        # The first requests may need memory that later ones use again.
        for client in answered(running.address, 0, BATCH, connect):
            client.close()
        time.sleep(0.5)
        before = running.process.rss()
        while len(clients) < count:
            batch = min(BATCH, count - len(clients))
            clients += answered(running.address, len(clients), batch, connect)
        time.sleep(QUIET_SECONDS)
        after = running.process.rss()
        closed = sum(map(is_closed, clients))
        if closed:
            raise CannotRun(f"it closed {closed} of {count} connections")
    finally:
        for client in clients:
            client.close()
        running.stop()
    return {
        "base_rss": before,
        "base_mb": before / 1e6,
        "full_rss": after,
        "connection_bytes": (after - before) / count,
    }


def answered(address, first, count, connect):
    """Connections that have had their answer. Sources differ, so that ports do not run out."""
    host, port = address.split(":")
    clients = []
    for number in range(first, first + count):
        source = f"127.0.0.{2 + number % 4}"
        clients.append(connect((host, int(port)), source))
    for client in clients:
        client.sendall(REQUEST)
    for client in clients:
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            part = client.recv(4096)
            if not part:
                raise CannotRun(f"a connection was closed after {answer[:60]!r}")
            answer += part
    return clients


def is_closed(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
