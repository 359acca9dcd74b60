"""What the access log costs, and whether it loses lines."""

import os
import time
from dataclasses import replace
from pathlib import Path

from .. import process
from . import Entry, Row

# Longer than lines are on their way to the file.
FLUSH_SECONDS = 0.5


class AccessLog(Row):
    name = "log"
    title = "Access log"
    about = (
        "Small requests, each with a line in a file: JSON from lb-proxy, everybody else's usual format. "
        "The last line of ours is with a pipe as the log that nobody reads."
    )

    def entries(self, peers, world):
        # In memory: how fast a disk is, is no question here.
        shared = Path("/dev/shm")
        directory = process.directory_for("log", shared if os.access(shared, os.W_OK) else None)
        self.lines, self.requests = {}, {}
        off = self.site(world)
        found = []
        for number, peer in enumerate(peers):
            full = replace(off, access_log=directory / f"{number}.log")
            if peer.ours:
                without = f"{peer.name}, no log"
                os.mkfifo(directory / f"{number}.pipe")
                blocked = replace(off, access_log=directory / f"{number}.pipe")
                found += [
                    Entry(peer.name, peer, full, beside=without),
                    Entry(without, peer, off),
                    Entry(f"{peer.name}, blocked pipe", peer, blocked, beside=without),
                ]
            else:
                found.append(Entry(peer.name, peer, full))
        return found

    def load(self, entry, running, seconds, world):
        load = super().load(entry, running, seconds, world)
        self.requests[entry.label] = self.requests.get(entry.label, 0) + load.requests
        return load

    def before_round(self, entry, running, world):
        self._count(entry)

    def notes(self, entry, running, world):
        if not entry.site.access_log:
            return []
        time.sleep(FLUSH_SECONDS)
        self._count(entry)
        lines = self.lines.get(entry.label, 0)
        # A few more were under way when the load ended.
        requests = self.requests[entry.label]
        said = [f"{lines:,} lines in the file of at least {requests:,} requests"]
        if entry.peer.ours:
            written = running.metric("lb_proxy_access_log_lines_total")
            dropped = running.metric("lb_proxy_access_log_dropped_total")
            said.append(f"{written:,.0f} counted as written, {dropped:,.0f} as dropped")
        return ["; ".join(said)]

    def _count(self, entry):
        """Counts the lines so far and begins with an empty file again, which everybody appends to."""
        path = entry.site.access_log
        if not path or not path.is_file():
            return
        with open(path, "rb") as log:
            lines = sum(part.count(b"\n") for part in iter(lambda: log.read(1 << 20), b""))
        self.lines[entry.label] = self.lines.get(entry.label, 0) + lines
        os.truncate(path, 0)
