"""Two reports held against each other."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edgeprune.bench.compare import Differences, Figure, compare_files, compare_reports, render_text
from edgeprune.errors import UsageError
from tests.bench import sample


def figures(found: Differences, variant: str = "keep=64") -> dict[str, Figure]:
    return {figure.name: figure for figure in found.figures if figure.variant == variant}


def test_what_became_slower_is_said_with_its_interval() -> None:
    report = sample.repeated(sample.report())
    found = figures(compare_reports(report, sample.repeated(sample.report(), 1.25)))
    names = ["TTFT", "preprocess", "vision", "project", "prefill", "pruning", "ITL", "peak memory"]
    assert list(found) == names
    for name in names[:-1]:
        figure = found[name]
        assert figure.ratio == pytest.approx(1.25, abs=2e-3)
        assert figure.verdict == "more"
        assert figure.repeats == (5, 5)
        assert figure.low is not None
        assert 1.2 < figure.low < 1.25
    assert found["TTFT"].sentence() == "25.0% more"
    memory = found["peak memory"]
    assert (memory.verdict, memory.ratio, memory.low) == ("one value each", 1.0, None)


def test_noise_is_no_difference() -> None:
    old, new = sample.repeated(sample.report()), sample.repeated(sample.report(), 1.01)
    found = compare_reports(old, new)
    timed = [figure for figure in found.figures if figure.unit == "ms"]
    assert {figure.verdict for figure in timed} == {"no difference"}
    assert found.worse(0) == ()
    faster = figures(compare_reports(old, sample.repeated(sample.report(), 0.8)))
    assert faster["TTFT"].verdict == "less"
    assert faster["TTFT"].sentence() == "20.0% less"


def test_a_request_counts_once_however_many_steps_it_has() -> None:
    """75 steps of 5 requests: with 75 samples the shift of one percent would look certain."""
    old, new = sample.repeated(sample.report()), sample.repeated(sample.report(), 1.01)
    assert len(old.variants[0].itl.times_ms) == 75
    assert figures(compare_reports(old, new))["ITL"].repeats == (5, 5)


def test_too_few_repeats_are_never_a_difference() -> None:
    found = compare_reports(sample.repeated(sample.report(), 1, 3), sample.repeated(sample.report(), 2, 3))
    ttft = figures(found)["TTFT"]
    assert ttft.ratio == pytest.approx(2.0, abs=0.01)
    assert ttft.verdict == "too few repeats"
    assert ttft.sentence() == "too few repeats (3 x 3) to tell"
    assert found.worse(0) == ()


def test_reports_without_their_repeats_are_never_a_difference() -> None:
    found = compare_reports(sample.report(), sample.repeated(sample.report(), 2))
    ttft = figures(found)["TTFT"]
    assert (ttft.verdict, ttft.low) == ("no repeats kept", None)
    assert "cannot tell" in ttft.sentence()
    assert found.worse(0) == ()


def test_worse_is_a_whole_interval_above() -> None:
    old, new = sample.repeated(sample.report()), sample.repeated(sample.report(), 1.25)
    found = compare_reports(old, new)
    slower = found.worse(10)
    assert {figure.name for figure in slower} >= {"TTFT", "ITL", "prefill"}
    assert str(slower[0]).startswith("keep=all TTFT +25.0%, at least +2")
    assert found.worse(24) == ()  # the ratio is above, the interval is not
    with pytest.raises(UsageError, match="expected a percentage of 0 or more"):
        found.worse(-1)


def test_memory_is_worse_by_its_ratio() -> None:
    old = sample.repeated(sample.report())
    memory = tuple(replace(entry, peak_bytes=round(entry.peak_bytes * 1.06)) for entry in old.memory)
    found = compare_reports(old, replace(old, memory=memory))
    assert {figure.name for figure in found.worse(5)} == {"peak memory"}
    assert str(found.worse(5)[0]) == "keep=all peak memory +6.0%"
    assert found.worse(7) == ()


def test_energy_is_compared_where_both_have_it() -> None:
    old, plain = sample.metered(sample.repeated(sample.report())), sample.repeated(sample.report())
    assert figures(compare_reports(old, old))["energy"].verdict == "no difference"
    assert "energy" not in figures(compare_reports(old, plain))


def test_other_conditions_are_listed() -> None:
    old = sample.repeated(sample.report())
    host = replace(sample.HOST, versions={"python": "3.11.0", "onnxruntime": "1.31.0"}, peak_flops=8e10)
    other = replace(old, conditions=replace(old.conditions, threads=4, host=host))
    found = compare_reports(old, sample.metered(other))
    changes = {change.name: (change.old, change.new) for change in found.conditions}
    assert changes["threads"] == ("2", "4")
    assert changes["version of onnxruntime"] == ("1.30.0", "1.31.0")
    assert changes["power mode"] == ("unknown", "15W")
    assert changes["GPU clock locked"] == ("unknown", "False")
    assert changes["the machine's own peak when it was measured"] == ("100.0 GFLOP/s", "80.0 GFLOP/s")
    assert not any("reading speed" in name for name in changes)  # 20 GB/s both times
    assert "  threads: 2 -> 4" in render_text(found)
    assert "the machine itself was faster in one of the two runs" in render_text(found)
    assert compare_reports(old, old).conditions == ()
    assert not any(words in render_text(compare_reports(old, old)) for words in ("same conditions", "machine itself"))


def test_variants_of_one_report_alone_are_listed() -> None:
    report = sample.repeated(sample.report())
    less = replace(report, variants=report.variants[:2])
    found = compare_reports(report, less, "a.json", "b.json")
    assert (found.only_old, found.only_new) == (("eager fp32",), ())
    assert "only in a.json: eager fp32" in render_text(found)
    assert {figure.variant for figure in found.figures} == {"keep=all", "keep=64"}
    none = replace(report, variants=(replace(report.variants[0], name="keep=9"),))
    with pytest.raises(UsageError, match="nothing to compare: old has keep=all, keep=64, eager fp32; new has keep=9"):
        compare_reports(report, none)


def test_the_table_says_what_to_keep_in_mind() -> None:
    text = render_text(compare_reports(sample.repeated(sample.report()), sample.repeated(sample.report(), 1.25)))
    row = next(line for line in text.splitlines() if line.startswith("keep=64") and " TTFT " in line)
    assert " ".join(row.split()) == "keep=64 TTFT 160 ms 200 ms 1.250 1.213 to 1.288 25.0% more"
    assert "the repeats of a run share the machine's mood" in text


def test_files_are_read_by_their_last_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("Time per stage\n...\n" + sample.repeated(sample.report()).to_json() + "\n\n")
    new.write_text(sample.repeated(sample.report(), 1.25).to_json())
    found = compare_files(old, new)
    assert (found.old, found.new) == (str(old), str(new))
    assert json.loads(found.to_json()) == json.loads(json.dumps(asdict(found)))
    assert "\n" not in found.to_json()


def test_a_sweep_is_a_report_of_its_cells(tmp_path: Path) -> None:
    """As ``bench --sweep --json`` writes it: ``bench`` and ``memory`` of a cell are those of a report."""
    report = json.loads(sample.repeated(sample.report(), 1.25).to_json())
    memory = {entry["variant"]: entry for entry in report["memory"]}
    cells = [{"name": v["name"], "bench": v, "memory": memory[v["name"]], "on_front": True} for v in report["variants"]]
    cells.append({"name": "keep=9", "bench": None, "memory": None, "on_front": False})
    sweep = {"schema": 1, "conditions": report["conditions"], "cells": cells, "front": []}
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(sample.repeated(sample.report()).to_json())
    new.write_text(json.dumps(sweep))
    found = figures(compare_files(old, new))
    assert found["TTFT"].verdict == "more"
    assert found["peak memory"].ratio == 1.0


def test_files_that_are_no_reports_are_refused_by_name(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(sample.report().to_json())
    with pytest.raises(UsageError, match=r"bad\.json cannot be read: .*make it with edgeprune bench"):
        compare_files(good, bad)
    for text, message in [
        ("\n \n", "is empty"),
        ("not json", "last line is no report of edgeprune bench"),
        ("[1]", "last line is no report of edgeprune bench: bench is .1.; expected an object"),
        ('{"conditions": 1}', "key 'variants' is missing"),
        ('{"schema": 1, "cells": []}', "key 'conditions' is missing"),
        ('{"conditions": 1, "cells": 2}', "conditions is 1"),
    ]:
        bad.write_text(text)
        with pytest.raises(UsageError, match=rf"bad\.json.*{message}"):
            compare_files(bad, good)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"bad\.json cannot be read"):
        compare_files(good, bad)
