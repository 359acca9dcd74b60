"""The configuration changes while requests flow."""

import threading
from dataclasses import replace

from ..machine import CannotRun
from . import Entry, Row

A_SECOND = 10


class Changes(Row):
    name = "changes"
    title = "Ten changes a second"
    about = (
        f"Small requests while a backend's weight changes {A_SECOND} times a second: for lb by the "
        "controller's file, for HAProxy by its runtime socket, for nginx by a reload, for Envoy by a "
        "file of endpoints."
    )
    may_fail = True

    def entries(self, peers, world):
        still = self.site(world)
        moving = replace(still, changes=True)
        self.made = {}
        found = []
        for peer in peers:
            quiet = f"{peer.name}, no change"
            found.append(Entry(peer.name, peer, moving, beside=quiet if peer.ours else None))
            if peer.ours:
                found.append(Entry(quiet, peer, still))
        return found

    def load(self, entry, running, seconds, world):
        if not entry.site.changes:
            return super().load(entry, running, seconds, world)
        done, failed = threading.Event(), []

        def change():
            while not done.wait(1 / A_SECOND):
                number = self.made[entry.label] = self.made.get(entry.label, 0) + 1
                try:
                    running.change(number)
                except OSError as why:
                    failed.append(why)

        changing = threading.Thread(target=change)
        changing.start()
        try:
            return super().load(entry, running, seconds, world)
        finally:
            done.set()
            changing.join()
            if failed:
                raise CannotRun(f"{len(failed)} changes failed: {failed[0]}")

    def notes(self, entry, running, world):
        if not (entry.peer.ours and entry.site.changes):
            return []
        arrived = running.metric("lb_proxy_table_version") - running.first_version
        return [f"{arrived:.0f} of {self.made[entry.label]} changes arrived at the proxy"]
