"""A listener that passes bytes on, whatever they are."""

from dataclasses import replace

from . import Row


class Tcp(Row):
    name = "tcp"
    title = "TCP"
    about = "Two small packets, one each way, over connections that stay open; no HTTP in the proxy."
    unit = "exchange"

    def site(self, world):
        return replace(super().site(world), tcp=True)
