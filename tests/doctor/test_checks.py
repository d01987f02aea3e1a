"""Facts to findings: what each machine lacks, and the command that mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.doctor.checks import backends, examine
from edgeprune.doctor.finding import Finding
from edgeprune.power.command import Output
from tests.doctor import recorded
from tests.doctor.recorded import Recorded


def about(machine: Recorded, subject: str) -> Finding:
    """The one finding on a subject."""
    (found,) = (finding for finding in examine(machine.read()) if finding.subject == subject)
    return found


def lacks(machine: Recorded) -> list[str]:
    """Subjects of what is missing; every lack comes with its mend."""
    found = [finding for finding in examine(machine.read()) if finding.level == "missing"]
    assert all(finding.mend for finding in found)
    return [finding.subject for finding in found]


def test_a_jetson_with_all_of_jetpack_lacks_nothing(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    assert lacks(machine) == []
    assert backends(machine.read()) == ("onnxruntime", "tensorrt")


def test_a_jetson_is_told_how_to_use_all_of_its_power(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    power = about(machine, "power")
    assert (power.level, power.mend) == ("note", "sudo nvpmodel -m 2")
    assert "15W" in power.found
    clocks = about(machine, "clocks")
    assert (clocks.level, clocks.mend) == ("note", "sudo jetson_clocks")
    assert "306 and 625 MHz" in clocks.found


def test_a_jetson_at_full_power_is_left_alone(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.commands["nvpmodel"] = Output(0, "NV Power Mode: MAXN_SUPER\n2\n")
    machine.files = {**machine.files, "sys/class/devfreq/17000000.gpu/min_freq": "624750000\n"}
    assert about(machine, "power").level == "ok"
    assert about(machine, "clocks").level == "ok"


def test_swap_within_memory_is_no_help_to_a_build(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    swap = about(machine, "swap")
    assert swap.level == "note"
    assert "zram" in swap.found
    assert swap.mend is not None and "swapon /swapfile" in swap.mend
    machine.files = {**machine.files, "proc/swaps": "Filename Type Size Used Priority\n/swapfile file 16777212 0 -2\n"}
    assert all(finding.subject != "swap" for finding in examine(machine.read()))


def test_a_jetson_whose_memory_is_taken_is_told_to_stop_its_desktop(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.files = {**machine.files, "proc/meminfo": "MemTotal: 7802676 kB\nMemAvailable: 1000000 kB\n"}
    memory = about(machine, "memory")
    assert (memory.level, memory.mend) == ("note", "sudo systemctl isolate multi-user.target")
    assert "shared by CPU and GPU" in memory.found


def test_an_environment_that_hides_the_systems_tensorrt_can_be_opened(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    del machine.probes["tensorrt"]
    machine.prefix = "/home/nvidia/venv"
    found = about(machine, "tensorrt")
    assert found.level == "missing"
    assert "TensorRT 10.3.0.30-1+cuda12.5 in /usr/lib/python3.10/dist-packages/tensorrt" in found.found
    assert found.mend is not None
    assert found.mend.endswith("include-system-site-packages = true/' /home/nvidia/venv/pyvenv.cfg")
    assert backends(machine.read()) == ("onnxruntime",)


@pytest.mark.parametrize(("version", "base"), [("3.11.7", "/usr"), ("3.10.14", "/home/nvidia/.pyenv/versions/3.10.14")])
def test_an_environment_of_another_python_must_be_made_anew(tmp_path: Path, version: str, base: str) -> None:
    machine = recorded.jetson(tmp_path)
    del machine.probes["tensorrt"]
    machine.prefix, machine.base, machine.version = "/home/nvidia/venv", base, version
    mend = about(machine, "tensorrt").mend
    assert mend is not None and mend.startswith("/usr/bin/python3.10 -m venv --system-site-packages ")


@pytest.mark.parametrize("version", [[11, 4, 1], [10, 16, 1, 11]])
def test_pips_tensorrt_on_jetpack_6_must_go(tmp_path: Path, version: list[int]) -> None:
    machine = recorded.jetson(tmp_path)
    place = "/home/nvidia/venv/lib/python3.10/site-packages/tensorrt"
    machine.prefix = "/home/nvidia/venv"
    machine.probes["tensorrt"] = {"installed": True, "version": version, "place": place}
    machine.packages |= {"tensorrt-cu13": "11.4.1", "tensorrt-cu13-libs": "11.4.1"}
    found = about(machine, "tensorrt")
    assert found.level == "missing"
    assert "JetPack 6.2 has 10.3 in the system's Python 3.10" in found.found
    assert found.mend is not None
    assert found.mend.startswith("pip uninstall -y tensorrt tensorrt-cu13 tensorrt-cu13-libs && sed -i ")
    assert backends(machine.read()) == ("onnxruntime",)


def test_a_containers_own_tensorrt_for_jetson_is_left_alone(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    place = "/usr/local/lib/python3.10/dist-packages/tensorrt"
    machine.probes["tensorrt"] = {"installed": True, "version": [10, 7, 0], "place": place}
    assert about(machine, "tensorrt").level == "ok"


@pytest.mark.parametrize(
    ("place", "level"),
    [
        ("/usr/local/lib/python3.10/dist-packages/tensorrt", "missing"),
        ("/usr/lib/python3.10/dist-packages/tensorrt", "ok"),
    ],
)
def test_which_tensorrt_is_imported_decides_not_which_are_installed(tmp_path: Path, place: str, level: str) -> None:
    machine = recorded.jetson(tmp_path)
    machine.packages |= {"tensorrt-cu12": "10.3.0"}
    machine.probes["tensorrt"] = {"installed": True, "version": [10, 3, 0], "place": place}
    assert about(machine, "tensorrt").level == level


def test_tensorrt_11_is_not_for_jetpack_6_however_it_came(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    place = "/usr/lib/python3.10/dist-packages/tensorrt"
    machine.probes["tensorrt"] = {"installed": True, "version": [11, 4, 1], "place": place}
    assert about(machine, "tensorrt").level == "missing"


def test_a_broken_wheel_on_a_jetson_is_not_installed_again(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    place = "/home/nvidia/venv/lib/python3.10/site-packages/tensorrt"
    machine.probes["tensorrt"] = {"installed": True, "place": place, "problem": "libnvinfer.so.10: file too short"}
    mend = about(machine, "tensorrt").mend
    assert mend is not None and mend.startswith("pip uninstall -y tensorrt && ")


def test_the_first_tensorrt_11_that_supports_jetpack_7_is_11_4_1(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.files = {**machine.files, "etc/nv_tegra_release": recorded.TEGRA_39}
    place = "/home/nvidia/venv/lib/python3.12/site-packages/tensorrt"
    machine.packages |= {"tensorrt-cu13": "11.4.0"}
    machine.probes["tensorrt"] = {"installed": True, "version": [11, 4, 0, 106], "place": place}
    assert about(machine, "tensorrt").level == "missing"
    machine.probes["tensorrt"] = {"installed": True, "version": [11, 4, 1], "place": place}
    assert about(machine, "tensorrt").level == "ok"


@pytest.mark.parametrize(
    ("release", "mend"),
    [
        (recorded.TEGRA, "sudo apt install nvidia-l4t-dla-compiler"),
        (recorded.TEGRA_39, "sudo apt install --reinstall python3-libnvinfer"),
    ],
)
def test_a_tensorrt_without_its_libraries_is_repaired(tmp_path: Path, release: str, mend: str) -> None:
    """github.com/4paradigm/phanthymotus/pull/154: the package that a vendor's image of JetPack 6 left out."""
    machine = recorded.jetson(tmp_path)
    machine.files = {**machine.files, "etc/nv_tegra_release": release}
    problem = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
    place = "/usr/lib/python3.10/dist-packages/tensorrt"
    machine.probes["tensorrt"] = {"installed": True, "place": place, "problem": problem}
    found = about(machine, "tensorrt")
    assert (found.level, found.mend) == ("missing", mend)
    assert problem in found.found


def test_jetpack_before_6_1_has_too_old_a_tensorrt(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.files = {**machine.files, "etc/nv_tegra_release": recorded.TEGRA.replace("4.3", "3.0")}
    found = about(machine, "system")
    assert found.level == "missing"
    assert "JetPack 6.0 has TensorRT 8.6" in found.found


def test_two_packages_of_onnxruntime_clash(tmp_path: Path) -> None:
    """doc/TESTENV.md of github.com/SnapDragonfly/jetson-fpv has the two of them; so has many an issue."""
    machine = recorded.jetson(tmp_path)
    machine.packages |= {"onnxruntime": "1.20.1", "onnxruntime-gpu": "1.19.2"}
    found = about(machine, "onnxruntime")
    assert found.level == "missing"
    assert "onnxruntime 1.20.1 and onnxruntime-gpu 1.19.2 are both installed" in found.found
    assert found.mend == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_without_a_gpu_the_package_for_cpus_is_kept(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    machine.packages |= {"onnxruntime": "1.31.1", "onnxruntime_gpu": "1.31.1"}
    mend = about(machine, "onnxruntime").mend
    assert mend == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"


def test_a_broken_onnxruntime_is_installed_again(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    machine.packages["onnxruntime-gpu"] = "1.23.0"
    machine.probes["onnxruntime"] = {"installed": True, "problem": "libcublas.so.12: cannot open shared object file"}
    found = about(machine, "onnxruntime")
    assert (found.level, found.mend) == ("missing", "pip install --force-reinstall onnxruntime-gpu")
    assert "libcublas.so.12" in found.found
    assert backends(machine.read()) == ()


def test_onnxruntimes_metadata_without_its_files_is_found_out(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    machine.packages["onnxruntime"] = "1.23.0"
    found = about(machine, "onnxruntime")
    assert found.level == "missing"
    assert "its files are gone" in found.found


def test_an_old_onnxruntime_is_noted(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    machine.probes["onnxruntime"] = {"installed": True, "version": "1.20.1", "providers": ["CPUExecutionProvider"]}
    found = about(machine, "onnxruntime")
    assert (found.level, found.mend) == ("note", "pip install 'onnxruntime>=1.23'")


def test_onnxruntime_for_gpus_without_cuda_is_noted(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.packages["onnxruntime-gpu"] = "1.31.1"
    machine.probes["onnxruntime"] = {"installed": True, "version": "1.31.1", "providers": ["CPUExecutionProvider"]}
    found = about(machine, "providers")
    assert found.level == "note"
    assert "CUDA is not among them" in found.found


def test_a_server_with_tensorrt_needs_no_onnxruntime_to_run_engines(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    assert backends(machine.read()) == ("tensorrt",)
    assert lacks(machine) == ["onnxruntime"]
    assert about(machine, "onnxruntime").mend == "pip install 'edgeprune[cpu]'"
    assert about(machine, "driver") == Finding("driver", "ok", "570.86.15, runs CUDA up to 12.8")


def test_a_driver_that_nvidia_smi_cannot_reach_must_be_mended(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    machine.commands["nvidia-smi"] = Output(9, said + "\n")
    machine.files = {name: text for name, text in machine.files.items() if "driver" not in name}
    machine.probes["cuda"] = {
        "installed": True,
        "runtime": 12080,
        "driver": 0,
        "problem": "cudaErrorInsufficientDriver",
    }
    found = about(machine, "driver")
    assert (found.level, found.mend) == ("missing", "sudo ubuntu-drivers install")
    assert said in found.found
    assert backends(machine.read()) == ()


def test_a_card_without_a_driver_needs_one(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.commands.clear()
    machine.probes.clear()
    machine.files = {name: text for name, text in machine.files.items() if "driver" not in name}
    assert about(machine, "driver").level == "missing"


def test_a_hanging_nvidia_smi_is_a_finding(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.commands["nvidia-smi"] = Output(None)
    del machine.probes["cuda"]
    found = about(machine, "driver")
    assert found.level == "missing"
    assert found.found == "nvidia-smi: did not answer in 30 s"
    assert found.mend is not None and found.mend.startswith("nvidia-smi;") and "reboot" not in found.mend


def test_a_slow_nvidia_smi_is_no_lack_where_cuda_sees_the_gpu(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.commands["nvidia-smi"] = Output(None)
    assert about(machine, "driver").level == "note"
    assert backends(machine.read()) == ("tensorrt",)


def test_a_driver_of_another_version_than_its_tools_needs_a_restart(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.commands["nvidia-smi"] = Output(18, "Failed to initialize NVML: Driver/library version mismatch\n")
    assert about(machine, "driver").mend == "sudo reboot"


@pytest.mark.parametrize("kind", ["onnxruntime", "tensorrt", "cuda"])
def test_a_library_that_was_slow_is_not_installed_again(tmp_path: Path, kind: str) -> None:
    machine = recorded.server(tmp_path)
    machine.probes[kind] = {"installed": True, "problem": Output(None).complaint}
    found = about(machine, kind)
    assert (found.level, found.mend) == ("missing", "edgeprune doctor")
    assert "did not answer in 30 s" in found.found


def test_cuda_python_newer_than_the_driver_must_be_older(tmp_path: Path) -> None:
    machine = recorded.jetson(tmp_path)
    problem = "cudaErrorInsufficientDriver"
    machine.probes["cuda"] = {"installed": True, "runtime": 13040, "driver": 12060, "gpus": [], "problem": problem}
    found = about(machine, "cuda")
    assert (found.level, found.mend) == ("missing", "pip install 'cuda-python>=12.6,<13'")
    assert "CUDA 13.4" in found.found and "12.6 at most" in found.found
    assert backends(machine.read()) == ("onnxruntime",)


def test_a_container_without_the_hosts_libcuda_says_so(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.commands.clear()
    problem = "cudaErrorInsufficientDriver"
    machine.probes["cuda"] = {"installed": True, "runtime": 12080, "driver": 0, "gpus": [], "problem": problem}
    found = about(machine, "cuda")
    assert found.level == "missing"
    assert found.mend is not None and found.mend.startswith("docker run --gpus all")


@pytest.mark.parametrize(
    ("driver", "wanted"), [("570.86.15", "pip install 'cuda-python>=12.6,<13'"), ("580.65.06", ">=13,<14'")]
)
def test_cuda_python_is_chosen_by_the_driver(tmp_path: Path, driver: str, wanted: str) -> None:
    machine = recorded.server(tmp_path)
    machine.commands["nvidia-smi"] = Output(0, recorded.L4.replace("570.86.15", driver))
    del machine.probes["cuda"]
    found = about(machine, "cuda")
    assert found.level == "missing"
    assert found.mend is not None and wanted in found.mend


def test_a_gpu_without_tensorrt_is_told_where_to_get_it(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    del machine.probes["tensorrt"]
    mend = about(machine, "tensorrt").mend  # its driver runs CUDA 12.8, and "tensorrt" is the package for 13
    assert mend == "pip install 'cuda-python>=12.6,<13' polygraphy onnx tqdm 'tensorrt-cu12>=10.3'"
    machine.probes["cuda"] = {"installed": True, "runtime": 13000, "driver": 13000, "gpus": [recorded.L4_SEEN]}
    assert about(machine, "tensorrt").mend == "pip install 'edgeprune[tensorrt]'"


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_a_tensorrt_for_a_newer_cuda_than_the_drivers_must_be_replaced(tmp_path: Path, flavour: str) -> None:
    machine = recorded.server(tmp_path)
    for name in [name for name in machine.packages if name.startswith("tensorrt")]:
        del machine.packages[name]
    machine.packages |= {f"{flavour}-cu13": "11.4.0.106", f"{flavour.replace('-', '_')}_cu13_libs": "11.4.0.106"}
    machine.probes.pop("tensorrt")
    machine.probes[flavour] = {"installed": True, "version": [11, 4, 0, 106], "place": "/home/nvidia/venv/lib/t"}
    found = next(f for f in examine(machine.read()) if f.subject == "tensorrt")
    assert found.level == "missing"
    assert "is made for CUDA 13, the driver runs CUDA 12" in found.found
    assert found.mend == (
        f"pip uninstall -y {flavour}-cu13 {flavour}-cu13-libs && pip install '{flavour}-cu12==11.4.0.*'"
    )
    assert backends(machine.read()) == ()
    machine.probes["cuda"] = {"installed": True, "runtime": 13000, "driver": 13000, "gpus": [recorded.L4_SEEN]}
    assert backends(machine.read()) == (flavour,)


def test_a_tensorrt_for_an_older_cuda_runs_on_a_newer_driver(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    machine.probes["cuda"] = {"installed": True, "runtime": 13000, "driver": 13000, "gpus": [recorded.L4_SEEN]}
    assert about(machine, "tensorrt").level == "ok"


GPU_PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def with_gpu_providers(machine: Recorded, unusable: dict[str, str]) -> None:
    machine.packages["onnxruntime-gpu"] = "1.31.1"
    machine.probes["onnxruntime"] = {"installed": True, "version": "1.31.1", "providers": GPU_PROVIDERS}
    machine.probes["providers"] = {"installed": True, "unusable": unusable}


@pytest.mark.parametrize(
    ("cuda", "mend"),
    [
        (12080, "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27'"),
        (13000, "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ],
)
def test_a_provider_whose_libraries_are_absent_is_told_with_the_packages_that_have_them(
    tmp_path: Path, cuda: int, mend: str
) -> None:
    machine = recorded.server(tmp_path)
    machine.probes["cuda"] = {"installed": True, "runtime": cuda, "driver": cuda, "gpus": [recorded.L4_SEEN]}
    why = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    with_gpu_providers(machine, {"CUDAExecutionProvider": why, "TensorrtExecutionProvider": why})
    found = about(machine, "providers")
    assert found == Finding(
        "providers", "missing", f"CPUExecutionProvider; CUDAExecutionProvider does not load: {why}", mend
    )
    assert "onnxruntime" in backends(machine.read())  # on the CPU it runs


def test_without_tensorrt_the_cuda_provider_serves(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    with_gpu_providers(machine, {"TensorrtExecutionProvider": "libnvinfer.so.10: cannot open shared object file"})
    found = about(machine, "providers")
    assert (found.level, found.mend) == ("note", None)
    assert found.found.startswith("CUDAExecutionProvider, CPUExecutionProvider; TensorrtExecutionProvider does not")
    with_gpu_providers(machine, {})
    assert about(machine, "providers").level == "ok"


def test_a_provider_that_takes_its_process_along_leaves_the_cpu_usable(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    with_gpu_providers(machine, {})
    machine.probes["providers"] = {"installed": True, "problem": "ended by signal 11"}
    found = about(machine, "providers")
    assert (found.level, found.mend) == ("note", None)
    assert found.found == "CPUExecutionProvider; CUDAExecutionProvider does not load: ended by signal 11"
    assert backends(machine.read()) == ("onnxruntime",)


def test_a_bare_machine_can_run_nothing_and_is_told_why(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    assert backends(machine.read()) == ()
    assert lacks(machine) == ["onnxruntime"]
    assert about(machine, "driver").level == "note"
    assert about(machine, "export").mend == "pip install 'edgeprune[export]'"
    assert "torch, transformers" in about(machine, "export").found


def test_without_a_package_of_the_runtime_nothing_runs(tmp_path: Path) -> None:
    machine = recorded.server(tmp_path)
    del machine.packages["tokenizers"]
    assert backends(machine.read()) == ()
    found = about(machine, "run")
    assert (found.level, found.found) == ("missing", "without tokenizers")


def test_another_architecture_is_told_that_there_are_no_packages(tmp_path: Path) -> None:
    machine = recorded.bare(tmp_path)
    machine.architecture = "riscv64"
    assert about(machine, "system").level == "missing"


def test_a_lack_without_a_mend_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="driver is missing, but nothing mends it"):
        Finding("driver", "missing", "none")
    with pytest.raises(ValueError, match="more than one line"):
        Finding("driver", "note", "a\nb")
