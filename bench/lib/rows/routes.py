"""Many routes: what finding one among them costs."""

from dataclasses import replace

from . import Entry, Row

HOSTS, PREFIXES = 100, 10


class Routes(Row):
    name = "routes"
    title = "1,000 routes"
    about = (
        f"Small requests over {HOSTS * PREFIXES:,} routes in turn: {HOSTS} hosts with {PREFIXES} "
        "prefixes of the path each. HAProxy has them in a map, nginx as servers and locations."
    )
    mode = ("routes", HOSTS, PREFIXES)

    def entries(self, peers, world):
        routes = tuple(
            (f"h{host}.example.com", f"/p{prefix}") for host in range(HOSTS) for prefix in range(PREFIXES)
        )
        one = self.site(world)
        many = replace(one, routes=routes)
        found = []
        for peer in peers:
            alone = f"{peer.name}, one route"
            found.append(Entry(peer.name, peer, many, beside=alone if peer.ours else None))
            if peer.ours:
                found.append(Entry(alone, peer, one))
        return found
