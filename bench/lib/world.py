"""What all rows share: the cores, the backend, the settings."""

from functools import cached_property

from . import install, process
from .backend import Backend
from .machine import cores, free_address


class World:
    def __init__(self, settings):
        self.settings = settings
        self.core, self.other_core = cores()
        # What every program is to take, with some to spare.
        self.connections = settings.connections + 500
        self.backend = Backend(self.other_core, 2 * self.connections)

    @cached_property
    def echo(self):
        """The address of a server of WebSockets that sends every message back."""
        address = free_address()
        directory = process.directory_for("echo")
        program = install.tool("websocket")
        server = process.Process("echo", [program, "serve", address], self.other_core, directory)
        process.wait_until("the echo server does not accept", server, lambda: process.accepts(address))
        return address
