"""A controller with many backend sets and many proxies: what one change of health or weight costs each of
them, how long it takes to all of them, and what a restart of the controller costs.

One proxy is a real one; the others are what of one the controller sees, in one process
(integration-tests/examples/proxies.rs), on the same two cores.
"""

import json
import statistics
import subprocess
import time

from . import machine, process, sections

HOW = """\
## A fleet

One controller with its store on a disk, {sets:,} backend sets of {backends} backends each, as many routes, and proxies. One of these
is a real one, and costs of "a proxy" are its. The others are simulated in one process, which the column counts: each takes
what it is sent without a look into it, says that it runs it, and reports. All processes share two cores.
`bench/fleet --docs` made this table on {date}.

| row | what is done |
|---|---|
| all of it | all simulated proxies come at once, with nothing, and each gets the whole state |
| a weight | one backend gets another weight by the API; acknowledged is when that call is answered |
| a flip | the one backend that is checked, every 100 ms, fails, or is well again; the time begins when it does, not at the probe |
| reports | each proxy reports traffic of 50 backends once a second |
| all reconnect | all simulated proxies close their streams and come again, with what they run |
| controller restarts | it is stopped and started again; the time begins at its start. Simulated proxies try again within 0.5 s, real ones within 5 s |

A weight and a flip are done {changes} times each, one after the other. "ms until 99% have it" is, of each time, when 99 of 100
simulated proxies had it (with one proxy, that one; with 100, the last one), and the table has the slowest of these times. The time
until a weight is acknowledged, processor times (without what the process uses when nothing happens) and bytes are medians. Bytes are those of an
update's content, without what HTTP/2 and the message around it take. MiB is what is in RAM.
"""


def measure(asked, proxies):
    """Plain values, by what was done."""
    directory = process.directory_for("fleet")
    grpc, admin, web, own_admin, checked = (machine.free_port() for _ in range(5))
    config = directory / "lb.toml"
    config.write_text(_config(asked, web, checked))

    def start():
        control = process.Process(
            "lb-control",
            [asked.control, "--grpc", f"127.0.0.1:{grpc}", "--admin", f"127.0.0.1:{admin}",
             "--config", config, "--data-dir", directory / "control"],
            None, directory, environment={"LB_LOG": "warn"},
        )
        ready = f"http://127.0.0.1:{admin}/readyz"
        process.wait_until("the controller does not get ready", control, lambda: process.answers(ready), 60)
        return control

    control = start()
    proxy = process.Process(
        "lb-proxy",
        [asked.proxy, "--id", "real", "--control", f"http://127.0.0.1:{grpc}", "--admin",
         f"127.0.0.1:{own_admin}", "--data-dir", directory / "proxy", "--workers", "1"],
        None, directory, environment={"LB_LOG": "warn"},
    )
    ready = f"http://127.0.0.1:{own_admin}/readyz"
    process.wait_until("the proxy does not get ready", proxy, lambda: process.answers(ready), 60)
    others = _Others(f"127.0.0.1:{grpc}", f"127.0.0.1:{checked}", directory)
    result = {"proxies": proxies, "sets": asked.sets, "backends": asked.backends}
    try:
        result["start"] = others.ask(f"start {proxies}")
        # What a start left to do is done.
        time.sleep(3)
        result["weight"] = _changes(
            asked.changes, control, proxy, lambda i: others.ask(f"weight {i} {2 + i}")
        )
        result["flip"] = _changes(asked.changes, control, proxy, lambda _: others.ask("flip"))
        others.ask("report 50")
        time.sleep(5)
        before, began = control.cpu(), time.monotonic()
        time.sleep(5)
        used = (control.cpu() - before).total / (time.monotonic() - began)
        result["reports"] = {"cores": used, "control_mib": control.rss() / 2**20}
        others.ask("report 0")
        result["reconnect"] = others.ask("reconnect")
        control.stop()
        began = time.monotonic()
        control = start()
        result["restart"] = others.ask("restarted")
        result["restart"]["seconds"] = time.monotonic() - began
        result["control_mib"] = control.rss() / 2**20
        result["proxy_mib"] = proxy.rss() / 2**20
    finally:
        others.stop()
        proxy.stop()
        control.stop()
    return result


def _changes(count, control, proxy, change):
    """Medians of each change, and the slowest proxy's time over all of them."""
    rows = []
    for i in range(count):
        time.sleep(0.2)
        before = control.cpu(), proxy.cpu()
        row = change(i)
        # The real one is done soon after the others.
        time.sleep(0.2)
        row["control_ms"] = (control.cpu() - before[0]).total * 1e3
        row["proxy_ms"] = (proxy.cpu() - before[1]).total * 1e3
        rows.append(row)
    time.sleep(1)
    idle = control.cpu(), proxy.cpu()
    time.sleep(2)
    idle = [(now.cpu() - was).total / 2 * 0.25 * 1e3 for now, was in zip((control, proxy), idle)]
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    median["control_ms"] -= idle[0]
    median["proxy_ms"] -= idle[1]
    return {**median, "p99_ms": max(row["p99_ms"] for row in rows)}


class _Others:
    def __init__(self, control, backend, directory):
        command = ["cargo", "build", "--release", "--locked", "-p", "integration-tests", "--example", "proxies"]
        built = subprocess.run(command, cwd=DOCS.parents[1], capture_output=True, text=True)
        if built.returncode != 0:
            raise machine.CannotRun(f"the proxies cannot be built: {built.stderr[-400:]}")
        program = machine.TARGET / "release" / "examples" / "proxies"
        self.child = subprocess.Popen(
            [str(program), control, backend], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(directory / "proxies.log", "wb"), text=True,
        )

    def ask(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise machine.CannotRun(f"the proxies ended at {line!r}")
        return json.loads(answer)

    def stop(self):
        self.child.kill()
        self.child.wait()


def _config(asked, web, checked):
    lines = ["[[listeners]]", 'name = "web"', f'address = "127.0.0.1:{web}"']
    for i in range(asked.sets):
        lines += [
            "[[routes]]", f'name = "r{i}"', f'match = {{ path_prefix = "/{i}/" }}', f'backend_set = "s{i}"',
            "[[backend_sets]]", f'name = "s{i}"', "backends = [",
        ]
        lines += [
            f'  {{ name = "b{i}-{j}", address = "10.{i // 200}.{i % 200}.{j + 1}:80" }},'
            for j in range(asked.backends)
        ]
        lines.append("]")
    lines += [
        "[[backend_sets]]", 'name = "checked"',
        'health_check = { http = "/", interval = "100ms", unhealthy_after = 1, healthy_after = 1, '
        "max_unhealthy_percent = 100 }",
        f'backends = [{{ address = "127.0.0.1:{checked}" }}]',
    ]
    return "\n".join(lines) + "\n"


ROWS = [
    ("start", "all of it", "most_ms", "ms until all have it", "{:.0f}"),
    ("start", "all of it", "bytes_each", "bytes to each", "{:,.0f}"),
    ("weight", "a weight", "committed_ms", "ms until it is acknowledged", "{:.1f}"),
    ("weight", "a weight", "p99_ms", "ms until 99% have it, the slowest of all", "{:.1f}"),
    ("weight", "a weight", "control_ms", "ms of the controller's CPU", "{:.2f}"),
    ("weight", "a weight", "proxy_ms", "ms of a proxy's CPU", "{:.2f}"),
    ("weight", "a weight", "bytes_each", "bytes to each", "{:.0f}"),
    ("flip", "a flip", "p99_ms", "ms until 99% have it, with up to 100 ms until it is probed", "{:.1f}"),
    ("flip", "a flip", "control_ms", "ms of the controller's CPU, with its probes", "{:.2f}"),
    ("flip", "a flip", "proxy_ms", "ms of a proxy's CPU", "{:.2f}"),
    ("flip", "a flip", "bytes_each", "bytes to each", "{:.0f}"),
    ("reports", "reports", "cores", "of a core, with 50 backends from each a second", "{:.2f}"),
    ("reports", "reports", "control_mib", "MiB of the controller", "{:.0f}"),
    ("reconnect", "all reconnect", "most_ms", "ms until all are in sync", "{:.0f}"),
    ("reconnect", "all reconnect", "bytes_each", "bytes to each", "{:.0f}"),
    ("restart", "controller restarts", "seconds", "s until all are in sync", "{:.1f}"),
    ("restart", "controller restarts", "bytes_each", "bytes to each", "{:.0f}"),
]


def for_terminal(result):
    lines = [f"{result['sets']:,} sets of {result['backends']}, {result['proxies']:,} proxies"]
    for key, name, field, unit, form in ROWS:
        lines.append(f"  {name:<20} {form.format(result[key][field]):>12} {unit}")
    lines.append(f"  {'memory':<20} {result['control_mib']:>12.0f} MiB of the controller after its restart")
    lines.append(f"  {'':<20} {result['proxy_mib']:>12.0f} MiB of a proxy")
    return "\n".join(lines)


def write(asked, results):
    head = f"| {results[0]['sets']:,} sets of {results[0]['backends']} | " + " | ".join(
        f"{one['proxies']:,} proxies" for one in results
    ) + " |"
    head = head.replace("| 1 proxies |", "| 1 proxy |")
    lines = [head, "|---|" + "---:|" * len(results)]
    for key, name, field, unit, form in ROWS:
        values = " | ".join(form.format(one[key][field]) for one in results)
        lines.append(f"| {name}: {unit} | {values} |")
    for field, what in (("control_mib", "the controller after its restart"), ("proxy_mib", "a proxy")):
        values = " | ".join(f"{one[field]:.0f}" for one in results)
        lines.append(f"| MiB of {what} | {values} |")
    how = HOW.format(
        date=time.strftime("%Y-%m-%d"), changes=asked.changes, sets=asked.sets, backends=asked.backends
    )
    sections.write("bench/fleet", f"{how}\n" + "\n".join(lines))
