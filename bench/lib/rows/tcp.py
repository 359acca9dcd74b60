"""A listener that passes bytes on, whatever they are."""

from dataclasses import replace

from ..load import wrk
from . import Entry, Row


class Tcp(Row):
    name = "tcp"
    title = "TCP"
    about = "Two small packets, one each way, over connections that stay open; no HTTP in the proxy."
    unit = "exchange"

    def site(self, world):
        return replace(super().site(world), tcp=True)


class TcpSni(Tcp):
    name = "tcp-sni"
    title = "TLS passed through by server name"
    about = (
        "As TCP, with TLS between clients and backends: connections are routed by what their first "
        "packet asks for. The last line of ours is without a look at it."
    )
    # Everybody resolves it to this machine; an address would be no server name.
    server_name = "localhost"

    def site(self, world):
        return replace(
            super().site(world), backends=world.tls_backend.addresses, server_name=self.server_name
        )

    def entries(self, peers, world):
        found = []
        for peer in peers:
            routed = self.site(world)
            unseen = f"{peer.name}, not looked at"
            found.append(Entry(peer.name, peer, routed, beside=unseen if peer.ours else None))
            if peer.ours:
                found.append(Entry(unseen, peer, replace(routed, server_name=None)))
        return found

    def load(self, entry, running, seconds, world):
        address = running.address.replace("127.0.0.1", self.server_name)
        return wrk(address, self.path, self.mode, seconds, world.settings.connections, "https")
