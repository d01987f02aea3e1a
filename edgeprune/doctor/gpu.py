"""NVIDIA's part of a machine: driver, CUDA, GPUs.

Three sources that each may be absent: nvidia-smi, the CUDA runtime through cuda-python, and the files the driver and
the toolkit leave. Where two speak of one GPU they are merged. It does not know what anyone needs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.doctor import probe
from edgeprune.power.command import Output
from edgeprune.power.text import read_text

_FIELDS = (
    *("name", "compute_cap", "driver_version", "pci.bus_id", "memory.total", "memory.free"),
    *("power.limit", "clocks.sm", "clocks.max.sm"),
)
SMI = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
"""The question to nvidia-smi that ``read_nvidia`` reads the answer to."""

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor; class of display controllers


@dataclass(frozen=True)
class Gpu:
    """A GPU; what is None nobody told.

    Attributes:
        name: as NVIDIA calls it.
        capability: CUDA compute capability, "8.7".
        memory_bytes, free_bytes: its memory; on a Jetson the machine's.
        power_limit_watts: what it may draw.
        clock_mhz, clock_most_mhz: of its multiprocessors, now and at most.
        bus: its place on the PCI bus.
    """

    name: str
    capability: str | None
    memory_bytes: int | None
    free_bytes: int | None = None
    power_limit_watts: float | None = None
    clock_mhz: float | None = None
    clock_most_mhz: float | None = None
    bus: str | None = None


@dataclass(frozen=True)
class Nvidia:
    """What there is of NVIDIA.

    Attributes:
        card: whether a GPU of theirs is on the PCI bus.
        driver: version of the driver, None without one.
        cuda: the newest CUDA that driver runs, "13.0".
        runtime: the CUDA that cuda-python brings, None where cuda-python is not installed.
        toolkits: versions of the CUDA toolkits under /usr/local.
        gpus: those that can be seen.
        smi_problem: why nvidia-smi failed, None where it did not or is not there.
        cuda_problem: why the CUDA runtime failed, None where it did not or is not there.
    """

    card: bool
    driver: str | None
    cuda: str | None
    runtime: str | None
    toolkits: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    smi_problem: str | None
    cuda_problem: str | None

    @property
    def driver_too_old(self) -> bool:
        """Whether cuda-python needs a newer major version of CUDA than the driver runs."""
        return bool(self.cuda and self.runtime and _major(self.cuda) < _major(self.runtime))


def read_nvidia(root: Path, smi: Output | None, cuda: Output | None) -> Nvidia:
    """The facts below ``root``.

    Args:
        root: of the file system.
        smi: what the command ``SMI`` said.
        cuda: what the probe "cuda" said.
    """
    told = probe.parse(cuda)
    listed, driver = _listed(smi.text) if smi and smi.code == 0 else ([], None)
    seen = [
        Gpu(entry["name"], entry["capability"], entry["memory_bytes"], bus=entry["bus"])
        for entry in told.get("gpus", [])
    ]
    return Nvidia(
        card=_on_the_bus(root),
        driver=driver or _driver(root),
        cuda=_cuda_version(told.get("driver")),
        runtime=_cuda_version(told.get("runtime")),
        toolkits=_toolkits(root),
        gpus=tuple(_merge(seen, listed)),
        smi_problem=smi.complaint if smi else None,
        cuda_problem=told.get("problem"),
    )


def _listed(text: str) -> tuple[list[Gpu], str | None]:
    """GPUs of nvidia-smi's table, and the driver's version."""
    gpus, driver = [], None
    for line in text.splitlines():
        cells = [None if _absent(cell) else cell.strip() for cell in line.split(",")]
        if len(cells) != len(_FIELDS):
            continue
        name, capability, version, bus, total, free, power, clock, most = cells
        driver = driver or version
        memory = [int(float(cell) * 2**20) if cell else None for cell in (total, free)]
        watts, now, top = (float(cell) if cell else None for cell in (power, clock, most))
        gpus.append(
            Gpu(name or "a GPU", capability, memory[0], memory[1], watts, now, top, bus.lower() if bus else None)
        )
    return gpus, driver


def _absent(cell: str) -> bool:
    """Whether nvidia-smi says it does not know: "[N/A]", "N/A", "[Not Supported]", "[Insufficient Permissions]"."""
    return not cell.strip() or cell.strip().startswith("[") or cell.strip() == "N/A"


def _merge(seen: list[Gpu], listed: list[Gpu]) -> list[Gpu]:
    """The GPUs this process can use, with what nvidia-smi adds; all that nvidia-smi lists without CUDA's word."""
    if not seen:
        return listed
    by_bus = {gpu.bus: gpu for gpu in listed if gpu.bus}
    alone = listed[0] if len(seen) == len(listed) == 1 else None  # a Jetson's has no place on the bus
    merged = []
    for gpu in seen:
        other = by_bus.get(gpu.bus or "") or alone
        if other:
            gpu = replace(other, name=gpu.name, capability=gpu.capability, memory_bytes=gpu.memory_bytes)
        merged.append(gpu)
    return merged


def _driver(root: Path) -> str | None:
    """From the kernel module; "Module" is followed by "for x86_64" in the open one."""
    text = read_text(root / "proc/driver/nvidia/version")
    found = re.search(r"Kernel Module +(?:for \S+ +)?(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def _toolkits(root: Path) -> tuple[str, ...]:
    found = set()
    for path in (root / "usr/local").glob("cuda*/version.json"):
        try:
            found.add(str(json.loads(read_text(path))["cuda"]["version"]))
        except (ValueError, KeyError, TypeError):  # another layout than the one since CUDA 11
            continue
    return tuple(sorted(found))


def _on_the_bus(root: Path) -> bool:
    devices = (root / "sys/bus/pci/devices").glob("*")
    return any(
        read_text(device / "vendor") == _NVIDIA and read_text(device / "class").startswith(_DISPLAY)
        for device in devices
    )


def _cuda_version(number: int | None) -> str | None:
    """ "13.4" of 13040."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _major(version: str) -> int:
    return int(version.split(".")[0])
