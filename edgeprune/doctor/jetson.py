"""A Jetson: which board, which Jetson Linux (L4T), and how much of its power it is allowed to use.

Reads the device tree and /etc/nv_tegra_release; ``power.jetson`` reads nvpmodel and the clocks. All of it without root.
The releases are those of developer.nvidia.com/embedded/jetpack-archive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune.doctor import debian
from edgeprune.power.command import Output
from edgeprune.power.jetson import gpu_clock, is_jetson, power_mode
from edgeprune.power.text import read_text

_CAPABILITIES = {"nvidia,tegra234": "8.7", "nvidia,tegra264": "11.0"}  # Orin, Thor


@dataclass(frozen=True)
class JetPack:
    """A release of JetPack.

    Attributes:
        name: "6.2".
        least: the first L4T that belongs to it.
        tensorrt: major and minor version of the TensorRT that comes with it.
        python: of its Ubuntu.
    """

    name: str
    least: tuple[int, ...]
    tensorrt: tuple[int, int]
    python: str


JETPACKS = (
    JetPack("7.2", (39, 2), (10, 16), "3.12"),
    JetPack("7.1", (38, 4), (10, 13), "3.12"),
    JetPack("7.0", (38, 2), (10, 13), "3.12"),
    JetPack("6.2", (36, 4, 3), (10, 3), "3.10"),
    JetPack("6.1", (36, 4), (10, 3), "3.10"),
    JetPack("6.0", (36, 2), (8, 6), "3.10"),
    JetPack("5.1", (35, 2, 1), (8, 5), "3.8"),
)
"""Newest first."""


@dataclass(frozen=True)
class Jetson:
    """A board.

    Attributes:
        model: as its device tree says.
        l4t: "36.4.3"; None where it does not say.
        capability: CUDA compute capability of its GPU, None for a board that is not known.
        power_mode: name of the nvpmodel mode, "15W"; None where nvpmodel does not say.
        power_modes: number and name of each mode it has.
        gpu_clock_mhz, gpu_least_mhz, gpu_most_mhz: now, and the bounds it moves within; None where not readable.
    """

    model: str
    l4t: str | None
    capability: str | None
    power_mode: str | None
    power_modes: tuple[tuple[int, str], ...]
    gpu_clock_mhz: float | None
    gpu_least_mhz: float | None
    gpu_most_mhz: float | None

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack its L4T belongs to; None for one that is not known."""
        if self.l4t is None:
            return None
        version = tuple(int(part) for part in self.l4t.split("."))
        return next((known for known in JETPACKS if known.least <= version and known.least[0] == version[0]), None)

    @property
    def fastest_mode(self) -> tuple[int, str] | None:
        """Number and name of the mode without a cap on power."""
        best = [mode for mode in self.power_modes if mode[1].startswith("MAXN")]
        return max(best, key=lambda mode: len(mode[1])) if best else None  # MAXN_SUPER before MAXN


def read_jetson(root: Path, nvpmodel: Output | None) -> Jetson | None:
    """The board below ``root``, with what ``nvpmodel -q`` said; None where it is no Jetson."""
    tree = root / "proc/device-tree"
    compatible = read_text(tree / "compatible").split("\0")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    if not is_jetson(root):
        return None
    core = re.match(r"\d+\.\d+(\.\d+)?", debian.version(root, "nvidia-l4t-core") or "")
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", read_text(root / "etc/nvpmodel.conf"))
    clock = gpu_clock(root)
    return Jetson(
        model=read_text(tree / "model") or "a Jetson that does not say which",
        l4t=f"{release[1]}.{release[2]}" if release else core[0] if core else None,
        capability=next((_CAPABILITIES[name] for name in compatible if name in _CAPABILITIES), None),
        power_mode=power_mode(nvpmodel),
        power_modes=tuple((int(number), name) for number, name in modes),
        gpu_clock_mhz=clock.now,
        gpu_least_mhz=clock.least,
        gpu_most_mhz=clock.most,
    )
