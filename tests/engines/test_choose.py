"""Which TensorRT builds, and on which GPU; the GPUs are simulated, the libraries real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.engines import choose
from edgeprune.engines.choose import available_bytes, stack_here
from edgeprune.errors import BackendError, MissingExtra
from edgeprune.nvidia.cuda import Device
from edgeprune.nvidia.library import Library, open_library
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import Flavour


def device(capability: str, memory: int) -> Device:
    return Device(0, "Some GPU", capability, memory, False)


def test_tensorrt_rtx_needs_no_gpu() -> None:
    found = choose.choose(targets.load("rtx-portable"), None)
    assert (found.stack.name, found.device, found.device_free) == ("tensorrt-rtx", None, None)


def test_a_target_whose_library_is_not_here() -> None:
    with pytest.raises(MissingExtra, match=r"building for h200 needs tensorrt, .* pip install 'edgeprune\[tensorrt\]'"):
        choose.choose(targets.load("h200"), None)
    with pytest.raises(BackendError, match="on a Jetson it comes with JetPack"):
        choose.choose(targets.load("orin-nx-16gb"), None)


def test_a_library_that_does_not_load_says_so_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_broken(flavour: Flavour) -> Library:
        if flavour == "tensorrt":
            raise BackendError("tensorrt is installed but does not load: libnvinfer.so.10")
        return open_library(flavour)

    monkeypatch.setattr(choose, "installed", lambda: ("tensorrt", "tensorrt-rtx"))
    monkeypatch.setattr(choose, "open_library", half_broken)
    assert choose.choose(targets.load("rtx-4090"), None).stack.name == "tensorrt-rtx"
    assert stack_here(targets.load("h200"), None).name == "tensorrt-11"
    with pytest.raises(BackendError, match="does not load: libnvinfer"):
        choose.choose(targets.load("h200"), None)


@pytest.mark.parametrize(("capability", "memory"), [("8.9", 64 << 30), ("8.7", 8 << 30)])
def test_the_gpu_must_be_the_targets(monkeypatch: pytest.MonkeyPatch, capability: str, memory: int) -> None:
    """An Orin Nano has the compute capability of an AGX Orin, and an eighth of its memory."""
    monkeypatch.setattr(choose, "devices", lambda: (device(capability, memory),))
    with pytest.raises(BackendError, match=r"orin-agx-64gb has compute capability 8\.7 .*, here is Some GPU"):
        choose._device(targets.load("orin-agx-64gb"))


def test_firmware_may_keep_some_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    target = targets.load("orin-nano-8gb")
    assert target.memory is not None
    there = device("8.7", int(target.memory * 0.92))
    monkeypatch.setattr(choose, "devices", lambda: (replace(there, capability="8.6"), there))
    assert choose._device(target) == there


def test_memory_counts_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "MemTotal: 9 kB\nMemAvailable: 5 kB\nSwapFree: 2 kB\n"
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: text)
    assert available_bytes() == 7 * 1024
