"""Writes the table of accuracy, method by budget, into README.md, between ``<!-- accuracy:start -->`` and its end.

    edgeprune eval BUNDLE -n 300 --json > tools/accuracy.json
    python tools/accuracy_table.py            write it
    python tools/accuracy_table.py --check    fail unless the README holds exactly what the file says

This measures nothing: the file is the output of ``edgeprune eval --json``, unedited, of which the last line counts.
A cell is the share of right answers over all kinds of question with half its 95% interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from edgeprune.errors import BundleError
from edgeprune.eval.accuracy import Accuracy, Report

START, END = "<!-- accuracy:start -->", "<!-- accuracy:end -->"
ROOT = Path(__file__).resolve().parents[1]
OUT_OF_REACH = "—"
_MAKE = "make it with edgeprune eval BUNDLE --json >"


def read_report(path: Path) -> Report:
    """The report in the last line of a file.

    Raises:
        SystemExit: the file is missing, or holds no report, or one without right answers.
    """
    if not path.is_file():
        raise SystemExit(f"{path} is missing: {_MAKE} {path}")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise SystemExit(f"{path} is empty: {_MAKE} {path}")
    try:
        report = Report.from_json(lines[-1])
    except (json.JSONDecodeError, BundleError) as error:
        raise SystemExit(f"{path}: the last line is no report of edgeprune eval --json: {error}") from error
    if not report.rows or any(row.overall is None for row in report.rows):
        raise SystemExit(f"{path} holds no accuracy: its questions have no known answers")
    return report


def render(report: Report) -> str:
    """The table in Markdown, and under it what it was measured on."""
    first, *others = report.rows
    cells = {(row.method, row.keep): _cell(row) for row in others}
    keeps = [keep for keep in report.keeps if any(row.keep == keep for row in others)]
    lines = [
        ["visual tokens on average", *keeps],
        ["---", *("--:" for _ in keeps)],
        [f"unpruned ({report.tokens})", *(_cell(first) for _ in keeps)],
    ]
    for method in dict.fromkeys(row.method for row in others):
        lines.append([str(method), *(cells.get((method, keep), OUT_OF_REACH) for keep in keeps)])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*rows, "", _conditions(report)])


def insert(readme: str, block: str) -> str:
    """The README with the block between its markers.

    Raises:
        SystemExit: the markers are not there once each, in order.
    """
    if readme.count(START) != 1 or readme.count(END) != 1 or readme.index(START) > readme.index(END):
        raise SystemExit(f"the README must hold {START} and after it {END}, each once")
    before, rest = readme.split(START)
    return f"{before}{START}\n{block}\n{END}{rest.split(END)[1]}"


def first_difference(have: str, want: str) -> str:
    """The first line that differs, with both readings."""
    for number, (a, b) in enumerate(zip_longest(have.splitlines(), want.splitlines()), start=1):
        if a != b:
            return f"line {number} is {a!r}, the file says {b!r}"
    return "the end of the file differs"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "tools" / "accuracy.json", dest="source", metavar="FILE")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the README is stale")
    options = parser.parse_args(arguments)
    report = read_report(options.source)
    if not options.readme.is_file():
        raise SystemExit(f"{options.readme} is missing: the table goes there")
    have = options.readme.read_text(encoding="utf-8")
    want = insert(have, render(report))
    if have == want:
        return
    if options.check:
        difference = first_difference(have, want)
        raise SystemExit(f"{options.readme} is stale, {difference}: run python tools/accuracy_table.py")
    options.readme.write_text(want, encoding="utf-8")


def _cell(row: Accuracy) -> str:
    assert row.overall is not None  # read_report refuses such a file
    return f"{row.overall.percent:.1f} ± {row.overall.half_percent:.1f}"


def _conditions(report: Report) -> str:
    revision = f"@{report.revision[:8]}" if report.revision else ""
    pictures = "held-out scenes of the demo model" if report.data == "demo" else f"pictures of {report.data}"
    overall = report.rows[0].overall
    assert overall is not None
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.rows[0].asked.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"Right answers in percent ± half the 95% interval (Wilson); {OUT_OF_REACH} is out of the method's reach. "
        f"Conditions: {report.model}{revision}, {report.dtype}, {report.backend}; "
        f"{overall.asked:,} questions ({kinds}) about {report.images:,} {pictures}, "
        f"answers of up to {report.max_new_tokens} tokens, seed {report.seed}; "
        f"{versions}"
    )


if __name__ == "__main__":
    main()
