"""Forecasts as text: nothing wider than a page of tables allows, bars in proportion, every figure where it belongs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.estimate.find import find_model
from edgeprune.estimate.forecast import forecast
from edgeprune.estimate.grid import make_grid
from edgeprune.estimate.machine import machine_of_target
from edgeprune.estimate.precision import precision
from edgeprune.estimate.table import Row, render_bars, render_budgets, render_machines, render_one
from edgeprune.estimate.verdict import Verdict, judge, spell
from edgeprune.recipes import target as targets

MODEL = find_model("llava-1.5-7b")


def rows_of(target: str, methods: list[str], keeps: list[str], dtype: str = "fp16") -> list[Row]:
    held = precision(dtype)
    machine = machine_of_target(targets.load(target), held)
    found = [(r, forecast(r, machine, 128)) for r in make_grid(MODEL, held, 60, methods, keeps).requests]
    return [(one, judge(request, one)) for request, one in found]


def test_one_in_full() -> None:
    text = render_one(rows_of("orin-agx-64gb", ["visiondrop"], ["all", "64"]))
    lines = text.splitlines()
    assert lines[0] == "llava-1.5-7b in fp16 on orin-agx-64gb (NVIDIA Jetson AGX Orin 64GB), visiondrop keep 64"
    assert "visual tokens: 96 > 70 > 52 > 38 of 576, 64 on average" in lines[1]
    for graph in ("vision", "prune_visiondrop_vision", "project", "assemble", "segment_0_8", "prune_visiondrop_24"):
        assert sum(line.startswith(f"{graph} ") for line in lines) == 1
    for figure in ("TTFT    114 ms (105..123)", "decode  12.4 tokens/s", "memory  14.4 GB to run", "build   12.7 GB"):
        assert figure in text
    assert "cache   132 MB pruned" in text and "share   encoder" in text
    words = " ".join(text.split())
    for convention in ("what our graphs compute", "(VisionDrop's table)", "(PyramidDrop)"):
        assert convention in words
    assert "Ranges are 8%: the median error of such estimates where figures are published." in words
    assert max(map(len, lines)) <= 100


def test_the_band_of_this_machine_is_that_of_others() -> None:
    rows = [(replace(found, target="here"), verdict) for found, verdict in rows_of("h200", [], ["all"])]
    words = " ".join(render_one(rows).split())
    assert "on this machine (NVIDIA H200 SXM)" in words
    assert "the median error of estimates for other machines where figures are published" in words


def test_bars_are_in_proportion() -> None:
    legend, *bars = render_bars([found for found, _ in rows_of("orin-agx-64gb", ["visiondrop"], ["all", "64"])])
    assert legend == "TTFT by stage: v encoder, m the method's own graphs, j projector, p decoder"
    drawn = [bar.split("ms  ")[1] for bar in bars]
    assert len(drawn[0]) == 60
    assert len(drawn[1]) == round(60 * 113.5 / 453)
    assert drawn[0].strip("vjp") == "" and "m" in drawn[1]


def test_several_budgets() -> None:
    text = render_budgets(rows_of("orin-nano-8gb", ["visiondrop", "fastv"], ["all", "192", "64"], "int4"))
    lines = text.splitlines()
    assert " ".join(lines[2].split()) == "method keep visual tokens average GFLOP TTFT ms speed-up tokens/s GB verdict"
    assert [line.split()[:2] for line in lines[3:8]] == [
        ["-", "all"],
        ["visiondrop", "192"],
        ["visiondrop", "64"],
        ["fastv", "192"],
        ["fastv", "64"],
    ]
    assert len({line.rindex(".") for line in lines[3:8]}) == 1  # columns stand under each other
    assert all(line.endswith(" fits") for line in lines[3:8])
    assert "int4: estimated alone, edgeprune itself exports fp32 and fp16." in text
    assert "\nthe fastest, visiondrop keep 64:\nfits: running takes" in text


def test_budgets_that_need_a_smaller_type_say_so_one_by_one() -> None:
    rows = rows_of("orin-nano-8gb", ["visiondrop"], ["all", "64"])
    (whole, word), (pruned, _) = rows
    between = (whole.memory.run + pruned.memory.run) // 2
    text = render_budgets([(whole, word), (replace(pruned, memory_there=between), Verdict("fits", True, ("fits",)))])
    assert [line.split()[-1] for line in text.splitlines()[3:5]] == ["int4", "fits"]
    assert "int4: estimated alone" in text


def test_several_machines_those_that_fit_first() -> None:
    rows = [row for name in ("orin-nano-8gb", "l4", "h200") for row in rows_of(name, ["visiondrop"], ["64"])]
    lines = render_machines(rows).splitlines()
    assert lines[0].startswith("llava-1.5-7b in fp16, visiondrop keep 64; 60 text tokens")
    assert [line.split()[0] for line in lines[3:6]] == ["h200", "l4", "orin-nano-8gb"]
    assert lines[3].endswith("fits") and lines[5].endswith("needs int4")
    assert "Ranges are 8% to 76%, by the kind of device: " in "\n".join(lines)
    assert "int4: estimated alone, edgeprune itself exports fp32 and fp16." in lines
    several = render_machines([*rows, *rows_of("h200", ["visiondrop"], ["all"])])
    assert sum(line.startswith("visiondrop keep 64") for line in several.splitlines()) == 3
    assert sum(line.startswith("keep all") for line in several.splitlines()) == 1


@pytest.mark.parametrize(("value", "text"), [(0.0123, "0.0123"), (5.836, "5.84"), (99.94, "99.9"), (1126.7, "1,127")])
def test_three_digits(value: float, text: str) -> None:
    assert spell(value) == text
