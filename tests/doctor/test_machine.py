"""Facts from the files and commands of three recorded machines, and of this one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from edgeprune.doctor.gpu import Gpu
from edgeprune.doctor.interpreter import Interpreter
from edgeprune.doctor.jetson import JETPACKS, Jetson
from edgeprune.doctor.machine import Machine, Swap
from edgeprune.doctor.tensorrt import SystemTensorRT
from edgeprune.power.command import Output
from tests.doctor import recorded


def test_a_jetson_says_what_it_is(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path).read()
    board = machine.jetson
    assert board is not None and board.jetpack is not None
    assert board.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"  # without the NUL
    assert (board.l4t, board.jetpack.name, board.jetpack.tensorrt, board.capability) == (
        "36.4.3",
        "6.2",
        (10, 3),
        "8.7",
    )
    assert (board.power_mode, board.fastest_mode) == ("15W", (2, "MAXN_SUPER"))
    assert (board.gpu_clock_mhz, board.gpu_least_mhz, board.gpu_most_mhz) == (306, 306, 624.75)
    assert (machine.system, machine.cpu) == ("Ubuntu 22.04.5 LTS", "Cortex-A78AE")
    assert machine.memory_bytes == 7802676 * 1024
    assert machine.available_bytes == 4910080 * 1024
    assert machine.swaps == (Swap("/dev/zram0", 650220 * 1024), Swap("/dev/zram1", 650220 * 1024))
    assert all(swap.compressed for swap in machine.swaps)
    place = "/usr/lib/python3.10/dist-packages/tensorrt"
    assert machine.system_tensorrt == SystemTensorRT(place, "3.10", "10.3.0.30-1+cuda12.5")


def test_a_jetsons_gpu_is_what_cuda_says_of_it(tmp_path: Path) -> None:
    nvidia = recorded.jetson(tmp_path).read().nvidia
    assert nvidia.gpus == (Gpu("Orin", "8.7", 7_989_940_224),)
    assert (nvidia.driver, nvidia.cuda, nvidia.runtime, nvidia.toolkits) == ("540.4.0", "12.6", "12.6", ("12.6.11",))


def test_without_cuda_python_nvidia_smi_speaks_for_the_jetsons_gpu(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.probes["cuda"] = {"installed": False}
    nvidia = machine.read().nvidia
    assert nvidia.gpus == (Gpu("Orin (nvgpu)", "8.7", None),)
    assert nvidia.runtime is None


def test_a_server_has_what_nvidia_smi_and_cuda_say_together(tmp_path: Path) -> None:
    nvidia = recorded.server(tmp_path).read().nvidia
    wanted = Gpu("NVIDIA L4", "8.9", 23_580_639_232, 22564 * 2**20, 72.0, 300.0, 2040.0, "00000000:00:03.0")
    assert nvidia.gpus == (wanted,)
    assert nvidia.card
    assert nvidia.driver == "570.86.15"


def test_the_drivers_file_speaks_where_nvidia_smi_is_absent(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.commands.clear()
    machine.probes.clear()
    nvidia = machine.read().nvidia
    assert (nvidia.driver, nvidia.gpus, nvidia.card) == ("565.57.01", (), True)


def test_of_two_gpus_each_gets_its_own_line_of_nvidia_smi(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    second = recorded.L4.replace(":03.0", ":04.0").replace("22564", "1000")
    machine.commands["nvidia-smi"] = Output(0, recorded.L4 + second)
    seen = {**recorded.L4_SEEN, "bus": "00000000:00:04.0"}
    machine.probes["cuda"] = {"installed": True, "runtime": 12080, "driver": 12080, "gpus": [seen]}
    (gpu,) = machine.read().nvidia.gpus  # CUDA_VISIBLE_DEVICES left the second alone
    assert gpu.free_bytes == 1000 * 2**20


def test_a_bare_machine_has_nothing_of_nvidias(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path).read()
    assert (machine.jetson, machine.tensorrts, machine.system_tensorrt, machine.onnxruntime) == (None, (), None, None)
    assert not machine.nvidia.card
    assert (machine.nvidia.driver, machine.nvidia.gpus) == (None, ())
    assert machine.version("jinja2") == "3.1.6"  # its metadata says Jinja2
    assert machine.version("torch") is None


@pytest.mark.parametrize(
    ("text", "l4t", "jetpack"),
    [
        (recorded.TEGRA_39, "39.2.0", "7.2"),
        (recorded.TEGRA.replace("4.3", "4.0"), "36.4.0", "6.1"),
        (recorded.TEGRA.replace("4.3", "5.0"), "36.5.0", "6.2"),
        (recorded.TEGRA.replace("4.3", "3.0"), "36.3.0", "6.0"),
        (recorded.TEGRA.replace("R36", "R38").replace("4.3", "2.1"), "38.2.1", "7.0"),
        (recorded.TEGRA.replace("R36", "R38").replace("4.3", "4.0"), "38.4.0", "7.1"),
        (recorded.TEGRA.replace("R36", "R41"), "41.4.3", None),
    ],
)
def test_l4t_leads_to_its_jetpack(tmp_path: Path, text: str, l4t: str, jetpack: str | None) -> None:
    machine = recorded.jetson(tmp_path)
    machine.files = {**machine.files, "etc/nv_tegra_release": text}
    board = machine.read().jetson
    assert board is not None
    assert board.l4t == l4t
    assert (board.jetpack.name if board.jetpack else None) == jetpack


def test_in_a_container_the_device_tree_and_dpkg_still_tell_the_board(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    core = "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 36.4.7-20250918154033\n"
    machine.files = {**machine.files, "etc/nv_tegra_release": "", "var/lib/dpkg/status": core}
    board = machine.read().jetson
    assert board is not None
    assert (board.l4t, board.capability) == ("36.4.7", "8.7")


def test_jetpacks_are_listed_newest_first() -> None:
    assert [pack.least for pack in JETPACKS] == sorted((pack.least for pack in JETPACKS), reverse=True)


def test_the_super_mode_is_faster_than_maxn() -> None:
    board = Jetson("x", None, None, None, ((0, "MAXN"), (1, "15W"), (2, "MAXN_SUPER")), None, None, None)
    assert board.fastest_mode == (2, "MAXN_SUPER")
    assert dataclasses.replace(board, power_modes=((1, "15W"),)).fastest_mode is None


def test_a_removed_debian_package_is_not_installed(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    gone = recorded.DPKG.replace(
        "Status: install ok installed\nPriority", "Status: deinstall ok config-files\nPriority"
    )
    machine.files = {**machine.files, "var/lib/dpkg/status": gone}
    found = machine.read().system_tensorrt
    assert found is not None and found.version is None


def test_the_systems_python_3_is_the_one_its_link_leads_to(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.files = {**machine.files, "usr/lib/python3/dist-packages/tensorrt/__init__.py": ""}
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to("python3.12")
    assert machine.read().system_tensorrt == SystemTensorRT("/usr/lib/python3/dist-packages/tensorrt", "3.12", None)


def test_what_an_interrupted_pip_leaves_behind_is_not_installed(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    rest = tmp_path / "site-packages/~nnxruntime-1.20.1.dist-info"
    rest.mkdir(parents=True)
    (rest / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.20.1\n")
    (tmp_path / "site-packages/onnx-1.19.0.dist-info").mkdir()
    found = machine.read()
    assert (found.version("onnxruntime"), found.version("onnx"), found.onnxruntime) == (None, None, None)


def test_files_of_another_make_are_passed_over(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    odd = dict.fromkeys(machine.files, "\0\xff???\n:\n\n= =\n")
    odd |= {"usr/local/cuda/version.json": "[]", "proc/driver/nvidia/version": "none", "etc/nv_tegra_release": "R"}
    machine.files = odd
    machine.commands = {"nvidia-smi": Output(0, "a, b\n\n"), "nvpmodel": Output(0, "")}
    found = machine.read()
    assert (found.memory_bytes, found.swaps, found.jetson, found.nvidia.toolkits) == (0, (), None, ())
    assert (found.nvidia.gpus, found.nvidia.driver) == ((), None)


def test_this_machine_is_read_as_it_is() -> None:
    machine = Machine.read()
    assert machine.python == Interpreter.here()
    assert machine.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert machine.free_bytes > 0
    assert machine.onnxruntime is not None and "CPUExecutionProvider" in machine.onnxruntime.providers
    import numpy

    assert machine.version("numpy") == numpy.__version__
