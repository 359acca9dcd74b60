"""Rounds: every program in turn, each for a short time, and the medians over all of them."""

import datetime
import statistics
import sys
import time

from . import machine, syscalls
from .machine import CannotRun

WARM_UP_SECONDS = 1
# What programs are compared by, and what is best.
COMPARED = {"cpu_us": min, "rate": max, "connection_bytes": min, "base_rss": min}


def measure(row, peers, world):
    """Returns what is kept of a row: plain values, as they go into the JSON."""
    if hasattr(row, "measure"):
        entries = row.measure(peers, world)
    else:
        entries = _in_turns(row, peers, world)
    _compare(entries, [peer.name for peer in peers if peer.ours])
    return {
        "name": row.name,
        "title": row.title,
        "about": row.about,
        "unit": row.unit,
        "date": datetime.date.today().isoformat(),
        "how": row.how(world.settings),
        "machine": machine.describe(),
        "programs": [
            {"name": peer.name, "version": peer.version, "source": peer.source} for peer in peers
        ],
        "entries": entries,
    }


def result(entry):
    return {
        "label": entry.label,
        "ours": entry.peer.ours,
        "beside": entry.beside,
        "compared": [],
        "failed": None,
        "notes": [],
        "rounds": [],
        "figures": {},
    }


def progress(text):
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _in_turns(row, peers, world):
    entries = row.entries(peers, world)
    results = [result(entry) for entry in entries]
    running = [None] * len(entries)

    def attempt(index, action):
        """Whatever goes wrong with one program is no reason not to measure the others."""
        if results[index]["failed"] is None:
            try:
                return action()
            except (CannotRun, OSError) as why:
                results[index]["failed"] = str(why)
                if running[index]:
                    running[index].stop()
        return None

    try:
        for index, entry in enumerate(entries):
            progress(f"{row.name}: starting {entry.label}")
            running[index] = attempt(
                index, lambda: entry.peer.start(entry.site, world.core, world.other_core)
            )
            # Connections to backends are opened and caches are warm before anything counts.
            attempt(index, lambda: _checked(row, entry, running[index], WARM_UP_SECONDS, world))
        for number in range(world.settings.rounds):
            for turn in range(len(entries)):
                index = (number + turn) % len(entries)
                entry = entries[index]
                progress(f"{row.name}: round {number + 1} of {world.settings.rounds}, {entry.label}")
                seen = attempt(index, lambda: _round(row, entry, running[index], world))
                if seen:
                    results[index]["rounds"].append(seen)
        for index, entry in enumerate(entries):
            notes = attempt(index, lambda: row.notes(entry, running[index], world))
            results[index]["notes"] = notes or []
            if world.settings.syscalls:
                progress(f"{row.name}: system calls, {entry.label}")
                counted = attempt(index, lambda: _system_calls(row, entry, running[index], world))
                results[index]["notes"] += [counted] if counted else []
    finally:
        progress("")
        for started in running:
            if started:
                started.stop()
    for seen in results:
        if seen["failed"]:
            seen["rounds"] = []
        else:
            seen["figures"] = medians(seen["rounds"])
    return results


def _checked(row, entry, running, seconds, world):
    load = row.load(entry, running, seconds, world)
    if load.requests == 0:
        raise CannotRun(f"no {row.unit} was answered")
    if (load.broken or load.refused) and not row.may_fail:
        raise CannotRun(
            f"{load.refused} of {load.requests} {row.unit}s were refused, {load.broken} broken off"
        )
    return load


def _round(row, entry, running, world):
    row.before_round(entry, running, world)
    before, started = running.process.cpu(), time.monotonic()
    load = _checked(row, entry, running, world.settings.seconds, world)
    used, elapsed = running.process.cpu() - before, time.monotonic() - started
    if not running.process.alive():
        raise CannotRun(f"ended under the load: {running.process.tail()}")
    mode = used.user + used.system
    cpu = used.total * 1e6 / load.requests
    latency = {"p50_us": load.p50_us, "p99_us": load.p99_us} if row.has_latency else {}
    return {
        "rate": load.requests / load.seconds,
        "cpu_us": cpu,
        "user_us": cpu * used.user / mode if mode else 0.0,
        "system_us": cpu * used.system / mode if mode else 0.0,
        "busy": used.total / elapsed,
        **latency,
        "rss": running.process.rss(),
        "failures": load.broken + load.refused,
    }


def _system_calls(row, entry, running, world):
    with syscalls.Count(running.process) as count:
        load = row.load(entry, running, 2, world)
    return f"system calls per {row.unit}: {syscalls.shown(count.calls, load.requests)}"


def medians(rounds):
    return {name: statistics.median(seen[name] for seen in rounds) for name in rounds[0]}


def _compare(entries, ours):
    """Adds how each compares with the best that is not ours, with the one that it is beside, and how
    a version of ours does with the first one."""
    for figure, best in COMPARED.items():
        peers = [e for e in entries if not e["ours"] and figure in e["figures"]]
        if peers:
            champion = best(peers, key=lambda e: e["figures"][figure])
            for entry in entries:
                if figure in entry["figures"]:
                    entry["figures"][f"{figure}_to_best"] = _ratio(entry, champion, figure)
                    entry["figures"][f"{figure}_best"] = champion["label"]
    by_label = {entry["label"]: entry for entry in entries}
    for entry in entries:
        others = [entry["beside"]]
        for name in ours[1:]:
            if entry["label"] == name or entry["label"].startswith(f"{name}, "):
                others.append(ours[0] + entry["label"].removeprefix(name))
        for other in filter(None, map(by_label.get, others)):
            common = [f for f in COMPARED if f in entry["figures"] and f in other["figures"]]
            if common:
                ratios = {figure: _ratio(entry, other, figure) for figure in common}
                entry["compared"].append({"with": other["label"], **ratios})


def _ratio(entry, other, figure):
    """The median over the rounds of how many times as much: a machine's drift hits both in a round."""
    pairs = zip(entry["rounds"], other["rounds"])
    return statistics.median(a[figure] / b[figure] for a, b in pairs if b[figure])
