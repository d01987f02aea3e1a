"""The page, Markdown and JSON of a report made by hand: complete, inert, and free of anything from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeprune.bench.compare import compare_files
from edgeprune.bench.report import Spread
from edgeprune.errors import UsageError
from edgeprune.sweep.export import to_json
from edgeprune.sweep.page import render_page
from edgeprune.sweep.plot import HEIGHT, LEFT, RIGHT, WIDTH, make_plot
from edgeprune.sweep.report import Kept, Panel, SweepReport
from edgeprune.sweep.table import render_markdown, render_text
from tests.bench import sample as bench
from tests.sweep import sample

HOSTILE = """<script>alert("1")</script><img src=//x.test/a onerror='b'> | ` & \\"""


class Reader(HTMLParser):
    """Collects tags with their attributes, and text outside of styles; every tag must be closed in its turn."""

    VOID = ("meta", "br", "img", "rect", "circle", "line", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    @property
    def said(self) -> str:
        """All text, and what is said in place of pictures."""
        words = [
            value or "" for _, attrs in self.tags for name, value in attrs.items() if name in ("alt", "aria-label")
        ]
        return " ".join(" ".join([*self.text, *words]).split()).replace(" ,", ",")


def hostile() -> SweepReport:
    """A report in which every text that users choose is an attack."""
    usual = sample.usual()
    conditions = replace(usual.conditions, model=HOSTILE)
    questions = replace(usual.questions, data=HOSTILE) if usual.questions else None
    kept = (Kept(HOSTILE, (Panel("picture", (576,), "", b"\xff"), Panel(HOSTILE, (9,), HOSTILE, b"\xff"))),)
    failed = replace(sample.FAILED, failures=tuple(replace(f, reason=HOSTILE) for f in sample.FAILED.failures))
    rows = (*usual.rows[:3], failed)
    return replace(usual, conditions=conditions, questions=questions, kept=kept, rows=rows, command=HOSTILE)


def test_the_page_says_all_of_it() -> None:
    report = sample.usual()
    page = Reader(render_page(report))
    for text in (
        "Pruning sweep of m",
        "Recommended: visiondrop 64.",
        report.advice.reason,
        "2 of 6 cells failed or lack a figure",
        "sts 2, budget: sts cannot keep 2 visual tokens",
        "sts 64, accuracy: graph segment_0_4 failed",
        "a note",
        "edgeprune bench b --sweep",
        "2026-01-31 17:05 UTC",
        "Accuracy against time to first token, 4 cells; no other beats random 64, visiondrop 64, visiondrop 128, all.",
        "What sts 64 kept of the picture: 32 tokens after its last stage",
        "visiondrop 64: peak 1,500 MB, weights 1,000 MB",
        "visiondrop 64: picture 5.00 ms, encoder 50.0 ms, project 1.50 ms, prefill 40.0 ms",
    ):
        assert text in page.said, text


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for report in (sample.usual(), hostile()):
        page = Reader(render_page(report))
        assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") for name in attributes), attributes
            for name in ("src", "href", "xlink:href", "srcset"):
                value = attributes.get(name) or "#"
                assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, value)
        style = re.search(r"<style>(.*?)</style>", render_page(report), re.DOTALL)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]


def test_texts_of_users_are_shown_as_they_stand() -> None:
    report = hostile()
    page = Reader(render_page(report))
    shown = " ".join(HOSTILE.split())
    assert page.said.count(shown) >= 7  # title twice, question, panel, alt, answer, failure, file of questions, command
    assert [tag for tag, _ in page.tags].count("img") == 2
    markdown = render_markdown(report)
    body, _, fenced = markdown.partition("\n\n```")
    assert not re.search(r"(?<!\\)<(script|img)", body)
    assert HOSTILE in fenced


def test_every_picture_and_bar_is_described() -> None:
    page = Reader(render_page(sample.usual()))
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
    bars = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(bars) == 1 + 5 + 5  # the plot, and per cell that was timed its stages and its memory
    assert all(attributes["aria-label"] for attributes in bars)


def test_without_accuracy_memory_and_pictures_their_parts_are_left_out() -> None:
    rows = tuple(replace(sample.row(name, ms), memory=None) for name, ms in (("all", 400.0), ("sts 64", 100.0)))
    report = replace(sample.report(*rows, asked=False), kept=())
    page = Reader(render_page(report))
    assert "No recommendation." in page.said
    assert "Tokens against time to first token" in page.said
    for text in ("Peak memory", "What is kept", "could not be had", "by kind", "accuracy %", "peak MB", "95%"):
        assert text not in page.said
    assert "accuracy %" not in render_text(report)


def test_where_nothing_was_measured_there_is_still_a_page() -> None:
    report = replace(sample.report(sample.row("all", None), sample.FAILED), kept=())
    assert not report.worked
    page = Reader(render_page(report))
    assert "Nothing is recommended: the unpruned model could not be measured." in page.said
    assert make_plot(report) is None


def test_labels_lie_inside_and_apart() -> None:
    named = ("visiondrop", "sts", "random")
    rows = [sample.row("all", 400.0, 190)]
    rows += [sample.row(f"{method} {keep}", 100.0 + keep / 9, 185) for method in named for keep in (32, 64, 128, 192)]
    plot = make_plot(sample.report(*rows))
    assert plot is not None
    assert plot.logarithmic
    for mark in plot.marks:
        assert LEFT <= mark.x <= WIDTH - RIGHT
        assert 0 <= mark.y <= HEIGHT
        assert mark.low is not None and mark.high is not None and mark.high <= mark.y <= mark.low
    labels = [mark.label for mark in plot.marks if mark.label]
    assert len(labels) >= 9
    for place, one in enumerate(labels):
        for other in labels[:place]:
            near = 0.5 * 6.6 * (len(one.text) + len(other.text))
            assert abs(one.x - other.x) >= near - 0.2 or abs(one.y - other.y) >= 11.8
    assert len({(key.colour, key.shape) for key in plot.keys}) == len(plot.keys)


@pytest.mark.parametrize("times", [(100.0, 100.0), (1.2, 1.3), (90.0, 9000.0), (0.05, 70.0)])
def test_ticks_are_round_and_inside(times: tuple[float, float]) -> None:
    rows = (sample.row("all", 60.0 + times[1], 200), sample.row("sts 64", 60.0 + times[0], 0))
    plot = make_plot(sample.report(*rows))
    assert plot is not None
    assert 2 <= len(plot.x_ticks) <= 14 or times[0] == times[1]
    for tick in plot.x_ticks:
        assert LEFT <= tick.at <= WIDTH - RIGHT
    assert len({tick.text for tick in plot.x_ticks}) == len(plot.x_ticks)
    assert {tick.text for tick in plot.y_ticks} >= {"0", "100"}


def test_json_has_aiperfs_names_and_ours() -> None:
    text = to_json(sample.usual())
    assert "\n" not in text
    value = json.loads(text)
    assert value["recommended"] == "visiondrop 64"
    assert value["front"] == ["random 64", "visiondrop 64", "visiondrop 128", "all"]
    assert value["questions"]["count"] == 200
    cells = {cell["name"]: cell for cell in value["cells"]}
    assert list(cells) == ["all", "visiondrop 128", "visiondrop 64", "sts 2", "sts 64", "random 64"]
    cell = cells["visiondrop 64"]
    assert cell["time_to_first_token"] == {
        "unit": "ms", "avg": 162.0, "p1": 160.04, "p5": 160.2, "p10": 160.4, "p25": 161.0, "p50": 162.0, "p75": 163.0,
        "p90": 163.6, "p95": 163.8, "p99": 163.96, "min": 160.0, "max": 164.0, "std": 2.0, "count": 2,
    }  # fmt: skip
    assert cell["time_to_second_token"]["min"] == 20
    assert cell["inter_token_latency"]["avg"] == 14.5
    assert cell["request_latency"]["max"] == 209
    assert cell["output_token_throughput"] == {
        "unit": "tokens/sec",
        "avg": pytest.approx(8 / (0.202 + 0.209), abs=1e-3),
    }
    assert cell["e2e_output_token_throughput"]["unit"] == "tokens/sec/user"
    assert cell["e2e_output_token_throughput"]["max"] == pytest.approx(4 / 0.202, abs=1e-3)
    assert cell["output_token_throughput_per_user"]["max"] == pytest.approx(1 / 0.014, abs=1e-3)
    assert cell["input_sequence_length"]["avg"] == 60 + 576
    assert cell["output_sequence_length"]["avg"] == 4
    assert cell["speedup"] == 4.6
    assert cell["memory"]["peak_bytes"] == 1_500_000_000
    assert cell["accuracy"]["overall"]["right"] == 186
    assert cell["bench"]["ttft"]["median_ms"] == 100
    assert "time_to_first_token" not in cells["sts 2"]
    assert cells["sts 2"]["bench"] is None
    assert cells["sts 2"]["failures"] == [{"phase": "budget", "reason": "sts cannot keep 2 visual tokens"}]


def test_what_slowed_a_cell_down_is_in_its_row() -> None:
    usual = sample.usual()
    slow = (usual.rows[1].samples[0], replace(usual.rows[1].samples[1], throttled=("power limit",)))
    rows = (usual.rows[0], replace(usual.rows[1], samples=slow), *usual.rows[2:])
    cells = {cell["name"]: cell for cell in json.loads(to_json(replace(usual, rows=rows)))["cells"]}
    assert [cells[name]["throttled"] for name in ("all", "visiondrop 128", "sts 2")] == [[], ["power limit"], []]


def test_two_sweeps_are_compared(tmp_path: Path) -> None:
    """``bench --compare`` reads what this writes; cells that failed in either are left out."""

    def write(name: str, factor: float) -> Path:
        usual = sample.usual()
        times = Spread.of([factor * (1 + turn / 100) for turn in range(5)])
        rows = [replace(r, variant=r.variant and replace(r.variant, ttft=times)) for r in usual.rows]
        path = tmp_path / name
        path.write_text(f"{render_text(usual)}\n{to_json(replace(usual, rows=tuple(rows)))}\n")
        return path

    found = compare_files(write("old.json", 1.0), write("new.json", 1.2))
    assert {figure.variant for figure in found.figures} == {
        "all", "visiondrop 128", "visiondrop 64", "sts 64", "random 64"
    }  # fmt: skip
    ttft = next(figure for figure in found.figures if (figure.variant, figure.name) == ("visiondrop 64", "TTFT"))
    assert (ttft.verdict, ttft.sentence()) == ("more", "20.0% more")
    assert {figure.name for figure in found.worse(5)} == {"TTFT"}
    report = tmp_path / "bench.json"
    report.write_text(bench.report().to_json())
    with pytest.raises(UsageError, match=r"nothing to compare: .* has keep=all, keep=64, eager fp32; .* has all, vis"):
        compare_files(report, tmp_path / "new.json")


def test_the_table_marks_what_is_recommended_and_what_failed() -> None:
    lines = render_text(sample.usual()).splitlines()
    found = {line[:15].strip(): line for line in lines[2:8]}
    assert found["visiondrop 64"].endswith("recommended, front")
    assert found["sts 2"].endswith("failed")
    assert found["sts 64"].endswith("incomplete")
    assert "93.0 ± 3.6" in found["visiondrop 64"]
    assert "4.60x" in found["visiondrop 64"]
