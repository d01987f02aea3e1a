"""What this machine is, what is installed on it, and what it reaches at best.

It knows no bundle: the numbers are the ceilings that measurements are held against.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import edgeprune
from edgeprune.errors import BackendError

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How Linux names bf16 arithmetic in /proc/cpuinfo: two on x86, the last on ARM."""

_PACKAGES = ("numpy", "onnxruntime", "torch", "transformers")
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        cpu: model name.
        cores: cores this process may use.
        memory_bytes: of the machine, 0 where it does not say.
        bf16: whether the CPU has bf16 arithmetic.
        peak_flops: measured fp32 operations per second, two per multiply-accumulate.
        read_bandwidth: measured bytes per second read from memory.
        versions: of Python, edgeprune and the packages that compute.
    """

    cpu: str
    cores: int
    memory_bytes: int
    bf16: bool
    peak_flops: float
    read_bandwidth: float
    versions: dict[str, str]


def measure_host(threads: int, repeats: int = 7, edge: int = 1536, megabytes: int = 256) -> Host:
    """Look at this machine and measure it.

    Args:
        threads: threads to measure with.
        repeats: of which the best counts.
        edge: rows and columns of the matrix product.
        megabytes: size of the array that is read; it must be larger than the caches.

    Raises:
        BackendError: the measuring process failed.
    """
    environment = child_environment() | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    numbers = [str(value) for value in (threads, repeats, edge, megabytes)]
    command = [sys.executable, "-m", "edgeprune.bench.peak", *numbers]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BackendError(f"measuring this machine's peak failed: {reason}")
    peak = json.loads(done.stdout)
    info = _read("/proc/cpuinfo")
    return Host(
        cpu=cpu_model(info),
        cores=available_cores(),
        memory_bytes=_memory(),
        bf16=has_bf16(info),
        peak_flops=round(peak["flops"]),
        read_bandwidth=round(peak["bandwidth"]),
        versions=versions(),
    )


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def has_bf16(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo names bf16 arithmetic."""
    found = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return any(_BF16_FLAGS & set(line.split()) for line in found)


def cpu_model(cpuinfo: str) -> str:
    """The CPU's name: from /proc/cpuinfo, else of the board, else the architecture."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if match:
        return match[1].strip()
    return _read("/proc/device-tree/model").strip("\0 \n") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python, edgeprune, and the packages that are installed; none of them is imported for it."""
    found = {"python": platform.python_version(), "edgeprune": edgeprune.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def child_environment() -> dict[str, str]:
    """The environment of a child Python that finds this same edgeprune, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _memory() -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
