"""What was asked for, by flags or in the environment."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from .machine import TARGET

PEERS = ("haproxy", "haproxy-pypi", "nginx", "nginx-pypi", "envoy")

EPILOG = """\
One core runs the program that is measured, another one the load and the backends. Programs take
turns, in short rounds, and who begins changes; what is printed are medians over the rounds.

CPU is what the scheduler says that a request cost; `busy` is the share of its core that a program
used. Where that is far below 100%, the load was the limit and not the program: requests a second
then say little, CPU a request still does.

  bench/compare small                      one row, within two minutes
  bench/compare                            all of them
  bench/compare --docs                     all of them, into docs/benchmarks.md
  bench/compare --lb old=/tmp/old --lb new=target/release small post
                                           two versions of lb, side by side
  bench/compare --peers nginx,envoy tcp    not with all of the others

What was measured is kept in target/bench/results.json, the last run of each row; --docs makes the
page from that.
"""


@dataclass(frozen=True)
class Settings:
    rows: tuple[str, ...]
    rounds: int
    seconds: int
    connections: int
    idle_connections: int
    ours: dict[str, Path]  # directories with lb-proxy and lb-control, by the name to show
    peers: tuple[str, ...]
    docs: bool
    render: bool
    syscalls: bool


def parse(rows, arguments=None):
    """`rows`: what each is called, with a line about it."""
    names = "\n".join(f"  {name:<12} {title}" for name, title in rows.items())
    parser = argparse.ArgumentParser(
        prog="bench/compare",
        description="Compares lb-proxy with HAProxy, nginx and Envoy: speed, CPU, latency, memory.",
        epilog=f"rows:\n{names}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="which to run (default: all)")
    add("--rounds", type=int, default=_number("ROUNDS", 5), help="ROUNDS; default: 5")
    add("--seconds", type=int, default=_number("SECONDS_EACH", 2),
        help="of one program in one round; SECONDS_EACH; default: 2")
    add("--connections", type=int, default=_number("CONNECTIONS", 64),
        help="CONNECTIONS; default: 64")
    add("--idle-connections", type=int, default=_number("IDLE_CONNECTIONS", 10000),
        help="for the row idle; IDLE_CONNECTIONS; default: 10000")
    add("--bin", type=Path, default=Path(os.environ.get("BIN", TARGET / "release")), metavar="DIR",
        help="with lb-proxy and lb-control; BIN; default: target/release")
    add("--lb", action="append", default=[], metavar="NAME=DIR", type=_named,
        help="instead of --bin: another lb, called NAME; may be repeated")
    add("--peers", default=",".join(PEERS), metavar="LIST",
        help=f"which to compare with, '' for none; default: {','.join(PEERS)}")
    add("--syscalls", action="store_true", help="count system calls a request, too (strace)")
    add("--docs", action="store_true", help="write docs/benchmarks.md and its charts")
    add("--render", action="store_true", help="write them from the last results, and run nothing")
    asked = parser.parse_args(arguments)

    for row in asked.rows:
        if row not in rows:
            parser.error(f"there is no row {row!r}; there are {', '.join(rows)}")
    peers = tuple(peer for peer in asked.peers.split(",") if peer)
    for peer in peers:
        if peer not in PEERS:
            parser.error(f"there is no peer {peer!r}; there are {', '.join(PEERS)}")
    if min(asked.rounds, asked.seconds, asked.connections, asked.idle_connections) < 1:
        parser.error("rounds, seconds and connections are at least 1")
    ours = {name: path.resolve() for name, path in asked.lb or [("lb-proxy", asked.bin)]}
    if not asked.render:
        for path in ours.values():
            for program in ("lb-proxy", "lb-control"):
                if not os.access(path / program, os.X_OK):
                    parser.error(
                        f"{path / program} is missing; build it first: "
                        "cargo build --release -p lb-proxy -p lb-control"
                    )
    return Settings(
        rows=tuple(asked.rows or rows),
        rounds=asked.rounds,
        seconds=asked.seconds,
        connections=asked.connections,
        idle_connections=asked.idle_connections,
        ours=ours,
        peers=peers,
        docs=asked.docs or asked.render,
        render=asked.render,
        syscalls=asked.syscalls,
    )


def _number(name, default):
    return int(os.environ.get(name, default))


def _named(pair):
    name, _, directory = pair.partition("=")
    if not name or not directory:
        raise argparse.ArgumentTypeError(f"{pair!r} is not NAME=DIR")
    return name, Path(directory)
