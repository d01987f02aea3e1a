"""The facts about a machine that decide what it can run.

``Machine.read`` takes them from a file system and from a few commands, both of which may be another machine's. It
judges nothing and changes nothing.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeprune.doctor import probe
from edgeprune.doctor.gpu import SMI, Nvidia, read_nvidia
from edgeprune.doctor.interpreter import Interpreter, Package
from edgeprune.doctor.jetson import Jetson, read_jetson
from edgeprune.doctor.onnxruntime import OnnxRuntime, read_onnxruntime
from edgeprune.doctor.tensorrt import FLAVOURS, SystemTensorRT, TensorRT, read_system_tensorrt, read_tensorrt
from edgeprune.power.command import Run, run_command
from edgeprune.power.text import read_text

_ARM_CORES = {"0xd42": "Cortex-A78AE", "0xd4f": "Neoverse-V2", "0xd83": "Neoverse-V3AE"}
"""CPU part of the boards in question: Orin, Grace, Thor (arch/arm64/include/asm/cputype.h in Linux)."""


@dataclass(frozen=True)
class Swap:
    """A place memory is swapped to.

    Attributes:
        device: "/dev/zram0", "/swapfile".
        size_bytes: how much fits.
    """

    device: str
    size_bytes: int

    @property
    def compressed(self) -> bool:
        """Whether it is memory itself, compressed."""
        return "zram" in self.device


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        system: the operating system's name.
        system_ids: ids of the distribution and of those it descends from: ("ubuntu", "debian").
        cpu: the CPU's name.
        memory_bytes, available_bytes: of the machine, and what of it can be had; 0 where it does not say.
        swaps: where memory is swapped to.
        folder: the one bundles would be written to.
        free_bytes: on its disk.
        python: the interpreter.
        packages: what it has installed of the packages that matter.
        jetson: the board, None where it is none.
        nvidia: driver, CUDA and GPUs.
        tensorrts: those that this Python finds.
        system_tensorrt: the one of the system's own Python, None without.
        onnxruntime: None where it is not installed.
    """

    system: str
    system_ids: tuple[str, ...]
    cpu: str
    memory_bytes: int
    available_bytes: int
    swaps: tuple[Swap, ...]
    folder: str
    free_bytes: int
    python: Interpreter
    packages: tuple[Package, ...]
    jetson: Jetson | None
    nvidia: Nvidia
    tensorrts: tuple[TensorRT, ...]
    system_tensorrt: SystemTensorRT | None
    onnxruntime: OnnxRuntime | None

    @classmethod
    def read(
        cls,
        root: Path = Path("/"),
        run: Run = run_command,
        python: Interpreter | None = None,
        folder: Path | None = None,
    ) -> Machine:
        """Look at a machine.

        Args:
            root: where its file system begins.
            run: runs a command on it.
            python: its interpreter, by default the one that runs this.
            folder: where bundles would be written, by default the working directory.
        """
        python, folder = python or Interpreter.here(), folder or Path.cwd()
        commands = {"smi": SMI, "nvpmodel": ("nvpmodel", "-q")}
        commands |= {kind: (python.executable, "-m", probe.__name__, kind) for kind in probe.KINDS}
        with ThreadPoolExecutor(len(commands)) as pool:  # they mostly wait, each on a library of its own
            said = dict(zip(commands, pool.map(run, commands.values()), strict=True))
        release = _fields(read_text(root / "etc/os-release"), "=")
        memory = _fields(read_text(root / "proc/meminfo"), ":")
        packages = python.packages()
        found = (read_tensorrt(flavour, said[flavour]) for flavour in FLAVOURS)
        return cls(
            system=release.get("PRETTY_NAME", "Linux"),
            system_ids=tuple(f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".split()),
            cpu=_cpu(read_text(root / "proc/cpuinfo"), python.architecture),
            memory_bytes=_kib(memory.get("MemTotal")),
            available_bytes=_kib(memory.get("MemAvailable")),
            swaps=_swaps(read_text(root / "proc/swaps")),
            folder=str(folder),
            free_bytes=shutil.disk_usage(folder).free,
            python=python,
            packages=packages,
            jetson=read_jetson(root, said["nvpmodel"]),
            nvidia=read_nvidia(root, said["smi"], said["cuda"]),
            tensorrts=tuple(tensorrt for tensorrt in found if tensorrt),
            system_tensorrt=read_system_tensorrt(root),
            onnxruntime=read_onnxruntime(packages, said["onnxruntime"], said["providers"]),
        )

    def version(self, package: str) -> str | None:
        """Of an installed package; None where it is not installed."""
        return next((found.version for found in self.packages if found.name == package), None)


def _cpu(text: str, architecture: str) -> str:
    part = re.search(r"^CPU part\s*:\s*(\S+)$", text, re.MULTILINE)
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if part and part[1] in _ARM_CORES:  # the model name there is "ARMv8 Processor rev 1 (v8l)"
        return _ARM_CORES[part[1]]
    return name[1].strip() if name else architecture


def _fields(text: str, separator: str) -> dict[str, str]:
    """Lines of a key, a separator and a value that may be quoted."""
    pairs = (line.partition(separator) for line in text.splitlines())
    return {key.strip(): value.strip().strip('"') for key, found, value in pairs if found}


def _kib(text: str | None) -> int:
    match = re.match(r"(\d+) kB", text or "")
    return int(match[1]) * 1024 if match else 0


def _swaps(text: str) -> tuple[Swap, ...]:
    """From /proc/swaps: a header, then file name, type, size and used in KiB, priority."""
    rows = (line.split() for line in text.splitlines()[1:])
    return tuple(Swap(row[0], int(row[2]) * 1024) for row in rows if len(row) >= 5)
