"""The report: a table for people, one line of JSON for machines, and what the command fails with."""

from __future__ import annotations

import json
from pathlib import Path

from edgeprune.doctor.checks import backends, examine
from edgeprune.doctor.finding import Finding
from edgeprune.doctor.report import Report
from edgeprune.doctor.suitability import check_target
from edgeprune.recipes import target as targets
from tests.doctor import recorded
from tests.doctor.recorded import Recorded


def report(recording: Recorded, name: str | None = None) -> Report:
    machine = recording.read()
    found = check_target(machine, targets.load(name)) if name else ()
    return Report(machine, examine(machine), backends(machine), name, found)


def test_the_table_of_a_jetson(tmp_path: Path) -> None:
    lines = report(recorded.jetson(tmp_path)).table().splitlines()
    assert "L4T       36.4.3 (JetPack 6.2)" in lines
    assert "power     15W, GPU at 306 of 625 MHz" in lines
    assert "gpu 0     Orin, compute capability 8.7, 8.0 GB" in lines
    assert "CUDA      driver runs 12.6, cuda-python brings 12.6, toolkit 12.6.11" in lines
    assert lines[-1] == "runs bundles with: onnxruntime, tensorrt"
    index = next(number for number, line in enumerate(lines) if line.startswith("note     power "))
    assert lines[index + 1].strip() == "mend: sudo nvpmodel -m 2"


def test_the_table_is_aligned(tmp_path: Path) -> None:
    table = report(recorded.server(tmp_path), "h200").table()
    facts, findings, suitability, _ = table.split("\n\n")
    for block in (findings, suitability.split("\n", 1)[1]):
        columns = {line.index(line.split(None, 2)[2]) for line in block.splitlines() if not line.startswith(" ")}
        assert len(columns) == 1, block
    assert len({line[8:10] for line in facts.splitlines()}) == 1, facts


def test_the_json_holds_facts_and_findings(tmp_path: Path) -> None:
    told = json.loads(report(recorded.jetson(tmp_path), "orin-nano-8gb").to_json())
    assert list(told) == ["machine", "findings", "backends", "target", "suitability", "passed"]
    assert told["machine"]["jetson"]["jetpack"] == "6.2"
    assert told["machine"]["nvidia"]["gpus"][0]["capability"] == "8.7"
    assert told["machine"]["tensorrts"][0]["version"] == [10, 3, 0]
    assert {"name": "numpy", "version": "1.26.4"} in told["machine"]["packages"]
    for entry in told["findings"] + told["suitability"]:
        Finding(**entry)
    assert told["passed"] is True


def test_a_machine_that_runs_something_passes(tmp_path: Path) -> None:
    assert report(recorded.server(tmp_path)).failure is None


def test_a_machine_that_runs_nothing_fails_with_the_command_that_helps(tmp_path: Path) -> None:
    failure = report(recorded.bare(tmp_path)).failure
    assert failure is not None
    assert (failure.exit_code, str(failure)) == (
        3,
        "nothing here can run a bundle: onnxruntime: not installed; bundles need it on the CPU; "
        "pip install 'edgeprune[cpu]'",
    )


def test_a_target_fails_with_its_first_lack(tmp_path: Path) -> None:
    failure = report(recorded.server(tmp_path), "h200").failure
    assert failure is not None
    assert str(failure).startswith(
        "h200 cannot run here: gpu: NVIDIA L4 has 8.9; engines need compute capability 9.0; "
    )
    assert json.loads(report(recorded.server(tmp_path), "h200").to_json())["passed"] is False


def test_lacks_that_do_not_concern_the_target_do_not_fail_it(tmp_path: Path) -> None:
    found = report(recorded.server(tmp_path), "l4")
    assert any(finding.level == "missing" for finding in found.findings)  # ONNX Runtime
    assert found.failure is None
