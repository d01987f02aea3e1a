"""What this machine calls the device that a backend computes on; read from the kernel's files, no driver is asked."""

from __future__ import annotations

import re
from pathlib import Path

CPU = "onnxruntime-cpu"
"""The backend that computes on the CPU; all others use the GPU."""


def device_of(backend: str) -> str:
    """The name of a backend's device: the CPU's model, or the first NVIDIA GPU's; the board's where these say nothing.

    Args:
        backend: as ``Backend.name``, for example "onnxruntime-cpu".
    """
    if backend == CPU:
        return cpu_name(_read(Path("/proc/cpuinfo"))) or _board() or "CPU"
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if match := re.search(r"^Model:\s*(.+)$", _read(path), re.MULTILINE):
            return match[1].strip()
    return _board() or "GPU"


def cpu_name(cpuinfo: str) -> str | None:
    """The CPU's name in /proc/cpuinfo; None where it has none, as on most ARM boards."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else None


def _board() -> str:
    return _read(Path("/proc/device-tree/model")).strip("\0 \n")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
