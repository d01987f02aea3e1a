"""The real probes, in processes of their own, on this machine's libraries and on broken ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from edgeprune.doctor import probe
from edgeprune.doctor.onnxruntime import read_onnxruntime
from edgeprune.doctor.tensorrt import read_tensorrt
from edgeprune.power import command
from edgeprune.power.command import Output, run_command


def ask(kind: str) -> Output | None:
    return run_command((sys.executable, "-m", probe.__name__, kind))


def package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


def test_onnxruntime_tells_its_version_and_providers() -> None:
    import onnxruntime

    found = read_onnxruntime((), ask("onnxruntime"))
    assert found is not None
    assert (found.version, found.problem) == (onnxruntime.__version__, None)
    assert found.providers == tuple(onnxruntime.get_available_providers())


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise ImportError('cannot import name InferenceSession')", "cannot import name InferenceSession"),
        ("", "module 'onnxruntime' has no attribute 'get_available_providers'"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11"),
    ],
    ids=["raises", "hollow", "crashes"],
)
def test_a_broken_onnxruntime_is_told_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    package(tmp_path, "onnxruntime", code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = read_onnxruntime((), ask("onnxruntime"))
    assert found is not None
    assert found.version is None
    assert found.problem is not None and problem in found.problem


def test_the_model_that_providers_are_tried_with_runs() -> None:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(probe._RELU, providers=["CPUExecutionProvider"])
    for given, wanted in ((-3.0, 0.0), (2.0, 2.0)):
        (found,) = session.run(None, {"x": np.array([given], np.float32)})
        assert found.tolist() == [wanted]


FAKE = """
def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

def preload_dlls():
    print("Failed to load libcublas.so.13")

class InferenceSession:
    def __init__(self, model, providers, enable_fallback):
        assert model and enable_fallback == 0
        if providers == ["TensorrtExecutionProvider"]:
            raise RuntimeError("no GPU\\nat all")

    def get_providers(self):
        return {there}
"""


@pytest.mark.parametrize(
    ("there", "cuda"),
    [
        ('["CUDAExecutionProvider", "CPUExecutionProvider"]', None),
        ('["CPUExecutionProvider"]', "ONNX Runtime leaves it out"),
    ],
)
def test_every_gpu_provider_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, cuda: str | None
) -> None:
    package(tmp_path, "onnxruntime", FAKE.replace("{there}", there))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = probe.parse(ask("providers"))
    wanted = {"TensorrtExecutionProvider": "no GPU"} | ({"CUDAExecutionProvider": cuda} if cuda else {})
    assert told == {"installed": True, "unusable": wanted}


def test_a_provider_whose_library_is_broken_tells_the_loaders_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "onnxruntime", FAKE.replace("{there}", "[]"))
    (tmp_path / "onnxruntime/capi").mkdir()
    (tmp_path / "onnxruntime/capi/libonnxruntime_providers_cuda.so").write_text("no library")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = probe.parse(ask("providers"))
    assert "libonnxruntime_providers_cuda.so: " in told["unusable"]["CUDAExecutionProvider"]


def test_cuda_of_before_12_6_is_found_by_its_old_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "cuda", "")
    (tmp_path / "cuda/cudart.py").write_text(
        "cudaRuntimeGetVersion = lambda: (0, 12030)\ncudaDriverGetVersion = lambda: (0, 12040)\n"
        "cudaGetDeviceCount = lambda: (0, 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = probe.parse(ask("cuda"))
    assert told == {"installed": True, "gpus": [], "runtime": 12030, "driver": 12040}
    (tmp_path / "cuda/cudart.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    assert probe.parse(ask("cuda")) == {"installed": True, "problem": "libcudart.so.12: cannot open"}
    (tmp_path / "cuda/cudart.py").unlink()
    assert probe.parse(ask("cuda")) == {"installed": False}


def test_a_tensorrt_tells_its_version_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "tensorrt", "print('a greeting')\n__version__ = '10.16.1.11'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = read_tensorrt("tensorrt", ask("tensorrt"))
    assert found is not None
    assert (found.version, found.place, found.label) == (
        (10, 16, 1, 11),
        str(tmp_path / "tensorrt"),
        "tensorrt 10.16.1.11",
    )


def test_a_tensorrt_that_does_not_load_tells_the_librarys_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
    package(tmp_path, "tensorrt", f"raise ImportError({words!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = read_tensorrt("tensorrt", ask("tensorrt"))
    assert found is not None
    assert (found.version, found.problem) == (None, words)


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed")
def test_cuda_tells_its_runtime_and_says_why_there_is_no_gpu() -> None:
    told = probe.parse(ask("cuda"))
    assert told["installed"]
    assert told["runtime"] >= 12000
    assert bool(told["gpus"]) != bool(told.get("problem"))


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LIMIT_S", 0.2)
    output = run_command((sys.executable, "-c", "import time; time.sleep(60)"))
    assert output == Output(None)
    assert probe.parse(output) == {"installed": True, "problem": "did not answer in 0 s"}


def test_a_command_that_is_not_there_is_no_output() -> None:
    assert run_command(("a-command-that-nobody-has",)) is None


def test_a_failing_command_complains_in_one_line() -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert Output(9, said + "\n\n").complaint == said
    assert Output(1, "", "Traceback\n  File\nImportError: x\n").complaint == "ImportError: x"
    assert Output(2).complaint == "exit code 2"
    assert Output(0, "fine").complaint is None
