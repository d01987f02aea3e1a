"""Targets against machines: what stops engines from running, and what would help."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeprune.doctor.finding import Finding
from edgeprune.doctor.suitability import check_target
from edgeprune.recipes import target as targets
from tests.doctor import recorded
from tests.doctor.recorded import Recorded


def check(machine: Recorded, chosen: str) -> dict[str, Finding]:
    """Findings by subject."""
    name, wanted = targets.split(chosen)
    target = targets.load(name)
    found = check_target(machine.read(), target, target.stack(wanted) if wanted else None)
    assert all(finding.mend for finding in found if finding.level == "missing")
    return {finding.subject: finding for finding in found}


def lacks(found: dict[str, Finding]) -> list[str]:
    return [subject for subject, finding in found.items() if finding.level == "missing"]


@pytest.mark.parametrize("chosen", ["orin-nano-8gb", "orin-nano-8gb@jetpack-6.2"])
def test_a_jetson_suits_its_own_target(tmp_path: Path, chosen: str) -> None:
    found = check(recorded.jetson(tmp_path), chosen)
    assert lacks(found) == []
    assert found["tensorrt"].found == "tensorrt 10.3.0 is jetpack-6.2"
    assert found["memory"].level == "ok"  # 7.99 of 8.59 GB: the firmware keeps the rest


def test_another_stack_than_the_installed_one_names_the_one_that_is(tmp_path: Path) -> None:
    found = check(recorded.jetson(tmp_path), "orin-nano-8gb@jetpack-7.2")
    assert lacks(found) == ["tensorrt"]
    assert "TensorRT >= 10.16" in found["tensorrt"].found
    assert found["tensorrt"].mend == "edgeprune doctor --target orin-nano-8gb@jetpack-6.2"


def test_a_larger_board_than_this_has_too_much_memory(tmp_path: Path) -> None:
    found = check(recorded.jetson(tmp_path), "orin-agx-64gb")
    assert lacks(found) == ["memory"]
    assert found["memory"].found == "8.0 GB; orin-agx-64gb has 68.7 GB"
    mend = found["memory"].mend
    assert mend in ("edgeprune doctor --target orin-nano-8gb", "edgeprune doctor --target orin-nx-8gb")


def test_a_jetson_is_no_server(tmp_path: Path) -> None:
    found = check(recorded.jetson(tmp_path), "l4")
    assert lacks(found) == ["platform", "gpu", "tensorrt"]
    assert found["gpu"].found == "Orin has 8.7; engines need compute capability 8.9"


def test_a_hidden_tensorrt_of_the_right_version_is_shown(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.probes.pop("tensorrt")
    machine.prefix = "/home/nvidia/venv"
    found = check(machine, "orin-nano-8gb")
    assert lacks(found) == ["tensorrt"]
    mend = found["tensorrt"].mend
    assert mend is not None and "pyvenv.cfg" in mend


def test_a_hidden_tensorrt_of_another_version_needs_another_jetpack(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.probes.pop("tensorrt")
    found = check(machine, "orin-nano-8gb@jetpack-7.2")
    assert "the system's 10.3.0.30-1+cuda12.5" in found["tensorrt"].found
    mend = found["tensorrt"].mend
    assert mend is not None and mend.startswith("install the JetPack that has TensorRT >= 10.16")


def test_a_wheel_for_servers_does_not_serve_a_jetson_whatever_its_version(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.probes["tensorrt"] = {"installed": True, "version": [10, 3, 0], "place": "/home/nvidia/venv/lib/tensorrt"}
    machine.packages["tensorrt-cu12"] = "10.3.0"
    found = check(machine, "orin-nano-8gb")
    assert lacks(found) == ["tensorrt"]
    assert "made for servers" in found["tensorrt"].found


def test_a_jetson_whose_cuda_is_not_usable_cannot_run_engines(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    del machine.probes["cuda"]
    found = check(machine, "orin-nano-8gb")
    assert lacks(found) == ["cuda"]
    assert found["cuda"].mend == "pip install 'cuda-python>=12.6,<13'"


def test_a_server_suits_its_own_target(tmp_path: Path) -> None:
    found = check(recorded.server(tmp_path), "l4")
    assert lacks(found) == []
    assert found["gpu"] == Finding("gpu", "ok", "NVIDIA L4, compute capability 8.9")


def test_a_server_with_the_wrong_flavour_is_told_which_versions_serve(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.probes["tensorrt-rtx"] = {"installed": True, "version": [1, 7, 1], "place": "/home/nvidia/rtx"}
    del machine.probes["tensorrt"]
    found = check(machine, "l4@tensorrt-11")
    assert found["tensorrt"].found == "tensorrt-rtx 1.7.1; l4 needs TensorRT >= 11.0, < 12.0"
    assert found["tensorrt"].mend == "pip install 'tensorrt-cu12>=11.0,<12.0'"


def test_a_tensorrt_that_no_stack_knows_names_the_versions_that_serve(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.probes["tensorrt"] = {"installed": True, "version": [10, 3, 0], "place": "/home/nvidia/trt"}
    found = check(machine, "l4@tensorrt-10")
    assert found["tensorrt"].mend == "pip install 'tensorrt-cu12>=10.15,<11.0'"


def test_another_gpu_is_told_the_target_it_is(tmp_path: Path) -> None:
    found = check(recorded.server(tmp_path), "h200")
    assert lacks(found) == ["gpu", "memory"]
    assert found["gpu"].found == "NVIDIA L4 has 8.9; engines need compute capability 9.0"
    assert found["gpu"].mend in ("edgeprune doctor --target l4", "edgeprune doctor --target rtx-4090")


def test_a_portable_target_takes_any_gpu_of_its_list(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.probes["tensorrt-rtx"] = {"installed": True, "version": [1, 7, 1], "place": "/home/nvidia/rtx"}
    assert lacks(check(machine, "rtx-portable")) == []


def test_on_a_bare_machine_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    assert lacks(check(recorded.bare(tmp_path), "h200")) == ["gpu", "tensorrt"]
    assert lacks(check(recorded.bare(tmp_path), "orin-agx-64gb")) == ["platform", "gpu", "tensorrt"]


def test_tensorrt_for_a_jetson_is_not_to_be_installed_elsewhere(tmp_path: Path) -> None:
    mend = check(recorded.bare(tmp_path), "orin-agx-64gb")["tensorrt"].mend
    assert mend is not None and "pip" not in mend


def test_a_builder_without_a_gpu_is_told_that_it_can_build(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    machine.probes["tensorrt-rtx"] = {"installed": True, "version": [1, 7, 1], "place": "/home/nvidia/rtx"}
    found = check(machine, "rtx-portable")
    assert lacks(found) == ["gpu"]
    assert found["tensorrt"].found.endswith("it can build engines here, but not run them")


@pytest.mark.parametrize("name", targets.names())
def test_every_target_can_be_asked_for_on_every_machine(tmp_path: Path, name: str) -> None:
    target = targets.load(name)
    for number, make in enumerate((recorded.jetson, recorded.server, recorded.bare)):
        machine = make(tmp_path / str(number)).read()
        for stack in (None, *target.stacks):
            found = check_target(machine, target, stack)
            assert {finding.subject for finding in found} >= {"platform", "gpu", "tensorrt"}
            assert len(found) == len({dataclasses.astuple(finding) for finding in found})
