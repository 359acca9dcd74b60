"""Bar charts as SVG, on a ground of their own, so that they can be read on light and dark pages."""

from html import escape

WIDTH = 900
LABELS = 235
PANEL = (WIDTH - LABELS) // 2
BAR, STEP, TOP = 16, 24, 56
# Behind the longest bar, for its figure.
MARGIN = 96

STYLE = """\
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .small { font-size: 11px; fill: #59636e }
  .ground { fill: #ffffff; stroke: #d1d9e0 }
  .ours { fill: #0969da } .peer { fill: #818b98 } .kernel { opacity: 0.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 }
    .ground { fill: #0d1117; stroke: #3d444d }
    .ours { fill: #4493f8 } .peer { fill: #7d8590 }
  }"""


def speed(row):
    unit = row["unit"]
    return draw(row, [
        (f"CPU, µs per {unit}", "less is better; the pale part is the kernel's", "cpu_us", "system_us", 1),
        (f"{unit.capitalize()}s a second", "more is better", "rate", None, 0),
    ])


def memory(row):
    return draw(row, [
        ("Bytes per connection", "less is better", "connection_bytes", None, 0),
        ("MB without connections", "less is better", "base_mb", None, 1),
    ])


def draw(row, panels):
    """`panels`: heading, what is good, figure, the part of it that is pale, decimals."""
    entries = row["entries"]
    height = TOP + STEP * len(entries) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(row["title"])}">',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        text(16, 24, row["title"], "title"),
    ]
    for number, entry in enumerate(entries):
        parts.append(text(16, TOP + STEP * number + BAR - 3, entry["label"]))
    for number, panel in enumerate(panels):
        parts += bars(entries, LABELS + PANEL * number, *panel)
    return "\n".join([*parts, "</svg>", ""])


def bars(entries, left, heading, good, figure, pale, decimals):
    values = [entry["figures"].get(figure) for entry in entries]
    longest = max((value for value in values if value), default=0) or 1
    scale = (PANEL - MARGIN) / longest
    yield text(left, 24, heading)
    yield text(left, 40, good, "small")
    for number, (entry, value) in enumerate(zip(entries, values)):
        top = TOP + STEP * number
        if value is None:
            yield text(left, top + BAR - 3, "-")
            continue
        color = "ours" if entry["ours"] else "peer"
        whole = max(value * scale, 1)
        part = entry["figures"].get(pale, 0) * scale if pale else 0
        yield bar(left, top, whole - part, color)
        if part:
            yield bar(left + whole - part, top, part, f"{color} kernel")
        yield text(left + whole + 6, top + BAR - 3, f"{value:,.{decimals}f}")


def bar(x, y, width, classes):
    return f'<rect class="{classes}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"/>'


def text(x, y, words, classes=None):
    attribute = f' class="{classes}"' if classes else ""
    return f'<text{attribute} x="{x:.1f}" y="{y}">{escape(words)}</text>'
