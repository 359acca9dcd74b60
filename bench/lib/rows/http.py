"""Rows with plain HTTP requests."""

from dataclasses import replace

from . import Row


class Small(Row):
    name = "small"
    title = "Small requests"
    about = "A GET without a body and two bytes of answer, over connections that stay open."


class PerConnection(Row):
    name = "connect"
    title = "A connection per request"
    about = "The same, but each request comes on a new connection and asks for that to be closed."
    mode = ("close",)


class Body64k(Row):
    name = "64k"
    title = "64 KiB answers"
    about = "A GET that is answered with 64 KiB."
    path = "/64k"


class Body1m(Row):
    name = "1m"
    title = "1 MiB answers"
    about = "A GET that is answered with 1 MiB."
    path = "/1m"

    def site(self, world):
        return replace(super().site(world), large_bodies=True)


class Post(Row):
    name = "post"
    title = "64 KiB uploads"
    about = "A POST with a body of 64 KiB, which the backend has read when it answers with two bytes."
    path = "/post"
    mode = ("post", 64 << 10)


class Pipelined(Row):
    name = "pipelined"
    title = "Pipelined requests"
    about = "Small requests, 16 of them sent before the first answer is read."
    mode = ("pipeline", 16)
    # wrk corrects its times by how often it expects a single answer.
    has_latency = False
