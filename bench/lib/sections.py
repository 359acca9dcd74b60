"""Parts of docs/benchmarks.md that are not of bench/compare, at its end: each is written anew alone."""

from .machine import ROOT

DOCS = ROOT / "docs" / "benchmarks.md"


def write(name, text):
    """In place of what `name` wrote before, or at the end."""
    begin, end = f"<!-- {name} begins -->\n", f"<!-- {name} ends -->\n"
    page = DOCS.read_text()
    before, found, rest = page.partition(begin)
    after = rest.partition(end)[2] if found else ""
    if not found:
        before += "\n"
    DOCS.write_text(f"{before}{begin}{text}\n{end}{after}")


def all_of(page):
    """What `write` put there, for all names."""
    begin = page.find("<!-- bench/")
    return "" if begin < 0 else page[begin:]
