"""Programs started for a benchmark: each on one core, measured with its children, ended at the end."""

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .machine import CannotRun

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1

_running = []
_directories = []


@dataclass(frozen=True)
class Cpu:
    """Seconds of processor time, of a process and its children."""

    total: float
    user: float
    system: float

    def __sub__(self, earlier):
        return Cpu(
            self.total - earlier.total, self.user - earlier.user, self.system - earlier.system
        )


class Process:
    """A program on one core, or on any if that is None, with everything it prints in a file."""

    def __init__(self, name, command, core, directory, stdout=None, environment=None):
        self.name = name
        self.log = Path(directory) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout or log,
                stderr=log,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                # A group of their own: children that outlive their parent end with it, too.
                start_new_session=True,
                preexec_fn=lambda: _settle(core),
            )
        self.pid = self.child.pid
        _running.append(self)

    def alive(self):
        return self.child.poll() is None

    def tail(self):
        text = self.log.read_text(errors="replace").strip()
        return " ".join(text.splitlines()[-3:])[-400:] or f"ended with {self.child.poll()}"

    def signal(self, number):
        self.child.send_signal(number)

    def family(self):
        """The process and its children, by pid."""
        return [self.pid, *children_of(self.pid)]

    def cpu(self):
        """What the process, its children and those that ended used so far.

        The scheduler counts nanoseconds; how they divide into user and system mode is only sampled,
        in ticks, which is fine over many of them.
        """
        total = user = system = 0.0
        for pid in self.family():
            try:
                fields = _stat(pid)
                total += time.clock_gettime(_cpu_clock(pid))
            except OSError:
                continue  # it ended just now; its parent has what it used
            user += int(fields[11]) / TICKS
            system += int(fields[12]) / TICKS
            if pid == self.pid:
                ended_user, ended_system = int(fields[13]) / TICKS, int(fields[14]) / TICKS
                total += ended_user + ended_system
                user += ended_user
                system += ended_system
        return Cpu(total, user, system)

    def rss(self):
        """Bytes in RAM of the processes that carry traffic: the workers, if it has any."""
        family = self.family()
        return sum(_rss(pid) for pid in family[1:] or family)

    def stop(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        if self in _running:
            _running.remove(self)


def children_of(parent):
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = _stat(int(entry))
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(entry))
    return found


def wait_until(what, process, done, seconds=15):
    """Waits for `done()`; an end of the process, or too long a wait, cannot be run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not process.alive():
            raise CannotRun(f"{process.name} ended: {process.tail()}")
        if done():
            return
        time.sleep(0.02)
    raise CannotRun(f"{what} within {seconds} s: {process.tail()}")


def accepts(address):
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    except OSError:
        return False


def answers(url):
    """Whether a GET of it is answered with a 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def directory_for(name, parent=None):
    """An empty directory that is removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=f"lb-bench-{name}-", dir=parent))
    # Workers of servers that give their rights up have to enter it.
    path.chmod(0o755)
    _directories.append(path)
    return path


def _settle(core):
    if core is not None:
        os.sched_setaffinity(0, {core})
    # However this program ends, those that it started end with it; on this signal, with their children.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _cpu_clock(pid):
    """The id of another process's CPU clock, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def _stat(pid):
    """/proc/PID/stat from its third field on; the second one, a name, may have spaces in it."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _rss(pid):
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _clean_up():
    for process in list(_running):
        process.stop()
    for path in _directories:
        shutil.rmtree(path, ignore_errors=True)


atexit.register(_clean_up)
# An exit cleans up; the signal alone would not.
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
