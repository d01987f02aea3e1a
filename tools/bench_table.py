"""Writes the measured tables into README.md, between ``<!-- bench:start -->`` and ``<!-- bench:end -->`` and so on.

    edgeprune bench BUNDLE --method visiondrop --keep all,192,128,64 --against eager --json > tools/bench.json
    edgeprune bench BUNDLE --method all --keep all,192 --no-memory --json > tools/bench_methods.json
    edgeprune bench NEXT --method visiondrop --keep all,640,320,160 --against eager --json > tools/bench_next.json
    edgeprune bench VIDEO --method visiondrop --keep all,256 --against eager --json > tools/bench_video.json
    python tools/bench_table.py            write them
    python tools/bench_table.py --check    fail unless the README holds exactly what the files say

This measures nothing: a file is the output of ``edgeprune bench --json``, of which the last line counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from edgeprune.bench.report import BenchReport
from edgeprune.bench.table import render_markdown, render_methods, render_runs
from edgeprune.errors import BundleError

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
METHODS_START, METHODS_END = "<!-- methods:start -->", "<!-- methods:end -->"
NEXT_START, NEXT_END = "<!-- bench-next:start -->", "<!-- bench-next:end -->"
VIDEO_START, VIDEO_END = "<!-- bench-video:start -->", "<!-- bench-video:end -->"
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


def insert(readme: str, block: str, start: str = START, end: str = END) -> str:
    """The README with the block between its markers.

    Raises:
        SystemExit: the markers are not there once each, in order.
    """
    if readme.count(start) != 1 or readme.count(end) != 1 or readme.index(start) > readme.index(end):
        raise SystemExit(f"the README must hold {start} and after it {end}, each once")
    before, rest = readme.split(start)
    return f"{before}{start}\n{block}\n{end}{rest.split(end)[1]}"


def first_difference(have: str, want: str) -> str:
    """The first line that differs, with both readings."""
    for number, (a, b) in enumerate(zip_longest(have.splitlines(), want.splitlines()), start=1):
        if a != b:
            return f"line {number} is {a!r}, the file says {b!r}"
    return "the end of the file differs"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the measured tables into the README.")
    folder = ROOT / "tools"
    parser.add_argument("--json", type=Path, default=folder / "bench.json", dest="source", metavar="FILE")
    parser.add_argument("--methods", type=Path, default=folder / "bench_methods.json", metavar="FILE")
    parser.add_argument("--next", type=Path, default=folder / "bench_next.json", metavar="FILE", help="many tiles")
    parser.add_argument("--video", type=Path, default=folder / "bench_video.json", metavar="FILE", help="many frames")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the README is stale")
    options = parser.parse_args(arguments)
    report, methods = read_report(options.source), read_report(options.methods)
    tiles, video = read_report(options.next), read_report(options.video)
    if not options.readme.is_file():
        raise SystemExit(f"{options.readme} is missing: the table goes there")
    have = options.readme.read_text(encoding="utf-8")
    want = insert(have, render_markdown(report))
    want = insert(want, render_methods(methods), METHODS_START, METHODS_END)
    want = insert(want, render_runs(tiles), NEXT_START, NEXT_END)
    want = insert(want, render_runs(video), VIDEO_START, VIDEO_END)
    if have == want:
        return
    if options.check:
        difference = first_difference(have, want)
        raise SystemExit(f"{options.readme} is stale, {difference}: run python tools/bench_table.py")
    options.readme.write_text(want, encoding="utf-8")


if __name__ == "__main__":
    main()
