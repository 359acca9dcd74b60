"""Messages over WebSockets, which to a proxy are two streams of bytes after one request."""

from dataclasses import replace

from .. import install
from ..load import run
from . import Row

BYTES = 64


class WebSocket(Row):
    name = "websocket"
    title = "WebSocket echo"
    about = f"Messages of {BYTES} bytes that a server sends back, one at a time on each connection."
    unit = "message"

    def site(self, world):
        return replace(super().site(world), backends=[world.echo], websocket=True)

    def load(self, entry, running, seconds, world):
        command = [install.tool("websocket"), "load", running.address]
        return run([*command, str(seconds), str(world.settings.connections), str(BYTES)], seconds)
