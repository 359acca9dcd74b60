"""System calls of a program while something happens, as strace counts them."""

import signal
import subprocess
import time

from . import install, process


class Count:
    """`with Count(process) as count: ..` leaves `count.calls`, by name.

    What the program does then takes many times as long, so nothing else is measured meanwhile.
    """

    def __init__(self, measured):
        self.pids = measured.family()
        self.calls = {}

    def __enter__(self):
        directory = process.directory_for("strace")
        self.output = directory / "counts"
        command = [install.debian("strace", "strace"), "-f", "-c", "-o", self.output]
        for pid in self.pids:
            command += ["-p", str(pid)]
        self.strace = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Until it has hold of all threads. It follows new processes by itself.
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        self.strace.send_signal(signal.SIGINT)
        self.strace.wait()
        for line in self.output.read_text().splitlines():
            words = line.split()
            if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
                self.calls[words[-1]] = int(words[3])


def shown(calls, requests):
    if not requests:
        return "unknown"
    most = sorted(calls.items(), key=lambda call: -call[1])
    parts = [f"{name} {count / requests:.2f}" for name, count in most if count / requests >= 0.05]
    return f"{sum(calls.values()) / requests:.2f} ({', '.join(parts)})"
