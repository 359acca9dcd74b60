"""Tables: on the terminal, and in docs/benchmarks.md."""

COLUMNS = [
    ("{unit}s/s", "rate", lambda v: f"{v:,.0f}"),
    ("CPU µs", "cpu_us", lambda v: f"{v:.2f}"),
    ("× best", "cpu_us_to_best", lambda v: f"{v:.2f}"),
    ("user", "user_us", lambda v: f"{v:.2f}"),
    ("system", "system_us", lambda v: f"{v:.2f}"),
    ("busy", "busy", lambda v: f"{v * 100:.0f}%"),
    ("p50 ms", "p50_us", lambda v: f"{v / 1000:.2f}"),
    ("p99 ms", "p99_us", lambda v: f"{v / 1000:.2f}"),
    ("failed", "failures", lambda v: f"{v:,.0f}"),
    ("RSS MB", "rss", lambda v: f"{v / 1e6:.1f}"),
    ("bytes each", "connection_bytes", lambda v: f"{v:,.0f}"),
    ("× best", "connection_bytes_to_best", lambda v: f"{v:.2f}"),
    ("RSS MB before", "base_rss", lambda v: f"{v / 1e6:.1f}"),
    ("× best", "base_rss_to_best", lambda v: f"{v:.2f}"),
    ("with them", "full_rss", lambda v: f"{v / 1e6:.1f}"),
]

NAMES = {
    "cpu_us": "CPU",
    "rate": "{unit}s a second",
    "connection_bytes": "bytes a connection",
    "base_rss": "RSS before",
}


def columns(row):
    """Those that some entry has a figure for; failures only where there are any."""
    present = {figure for e in row["entries"] for figure, value in e["figures"].items()
               if value or figure != "failures"}
    return [column for column in COLUMNS if column[1] in present]


def table(row):
    """(heading, lines): each cell a string."""
    heading = ["", *(name.format(**row) for name, _, _ in columns(row))]
    lines = []
    for entry in row["entries"]:
        cells = [
            show(entry["figures"][figure]) if figure in entry["figures"] else "-"
            for _, figure, show in columns(row)
        ]
        lines.append([entry["label"], *cells])
    return heading, lines


def remarks(row):
    """What does not fit into the table: why a program has no figures, and what else was seen."""
    found = []
    for entry in row["entries"]:
        if entry["failed"]:
            found.append(f"{entry['label']}: {entry['failed']}")
        for compared in entry["compared"]:
            words = [
                f"{NAMES[figure].format(**row)} {ratio - 1:+.1%}"
                for figure, ratio in compared.items() if figure in NAMES
            ]
            found.append(f"{entry['label']} beside {compared['with']}: {', '.join(words)}")
        found += [f"{entry['label']}: {note}" for note in entry["notes"]]
    return found


def for_terminal(row):
    heading, lines = table(row)
    widths = [max(len(line[i]) for line in [heading, *lines]) for i in range(len(heading))]

    def shown(line):
        first, *rest = line
        return "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:]))])

    title = f"{row['name']}: {row['about']}\nMedians of {row['how']}."
    parts = [title, "", shown(heading), *map(shown, lines)]
    return "\n".join([*parts, *(f"  {remark}" for remark in remarks(row)), ""])
