"""Writes the measured table into README.md, between ``<!-- bench:start -->`` and ``<!-- bench:end -->``.

    edgeprune bench BUNDLE --keep all,192,128,64 --against eager --json > tools/bench.json
    python tools/bench_table.py            write it
    python tools/bench_table.py --check    fail unless the README holds exactly what the file says

The README has no other measured numbers. This measures nothing: the file is the output of ``edgeprune bench
--json``, of which the last line counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from edgeprune.bench.report import BenchReport
from edgeprune.bench.table import render_markdown
from edgeprune.errors import BundleError

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
ROOT = Path(__file__).resolve().parents[1]


def read_report(path: Path) -> BenchReport:
    """The report in the last line of a file.

    Raises:
        SystemExit: the file is missing or holds no report.
    """
    if not path.is_file():
        raise SystemExit(f"{path} is missing: make it with edgeprune bench BUNDLE --against eager --json > {path}")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise SystemExit(f"{path} is empty: make it with edgeprune bench BUNDLE --against eager --json > {path}")
    try:
        return BenchReport.from_json(lines[-1])
    except (json.JSONDecodeError, BundleError) as error:
        raise SystemExit(f"{path}: the last line is no report of edgeprune bench --json: {error}") from error


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
    parser = argparse.ArgumentParser(description="Write the measured table into the README.")
    parser.add_argument("--json", type=Path, default=ROOT / "tools" / "bench.json", dest="source", metavar="FILE")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the README is stale")
    options = parser.parse_args(arguments)
    report = read_report(options.source)
    if not options.readme.is_file():
        raise SystemExit(f"{options.readme} is missing: the table goes there")
    have = options.readme.read_text(encoding="utf-8")
    want = insert(have, render_markdown(report))
    if have == want:
        return
    if options.check:
        difference = first_difference(have, want)
        raise SystemExit(f"{options.readme} is stale, {difference}: run python tools/bench_table.py")
    options.readme.write_text(want, encoding="utf-8")


if __name__ == "__main__":
    main()
