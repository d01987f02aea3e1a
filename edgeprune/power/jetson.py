"""A Jetson's power mode, GPU clock, temperatures and throttling, as files and ``nvpmodel`` tell them; no root needed.

The files are those of NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance": the GPU's devfreq
folder, the thermal zones, the cooling devices called ``*-throttle-alert`` and ``hot-surface-alert``, which stand above
0 while the chip is slowed down for heat, and ``oc*_event_cnt``, which count how often it was for current or voltage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune.power.command import Output
from edgeprune.power.text import read_number, read_text

NVPMODEL = ("nvpmodel", "-q")
"""The question that ``power_mode`` reads the answer to."""

_OVER_CURRENT = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
_OFF = -100.0  # a zone that is switched off says -256 degrees


@dataclass(frozen=True)
class Clock:
    """The GPU's clock in MHz: now, and the bounds it moves within; None where not readable."""

    now: float | None
    least: float | None
    most: float | None

    @property
    def locked(self) -> bool | None:
        """Whether it cannot move, as after ``jetson_clocks``; None where nobody tells."""
        if not self.least or not self.most:
            return None
        return self.least >= self.most


def is_jetson(root: Path) -> bool:
    """Whether the machine below ``root`` runs Jetson Linux or has a Tegra in its device tree."""
    compatible = read_text(root / "proc/device-tree/compatible").split("\0")
    named = any(name.startswith("nvidia,tegra") for name in compatible)
    return named or "(release)" in read_text(root / "etc/nv_tegra_release")


def power_mode(nvpmodel: Output | None) -> str | None:
    """The mode's name in what ``nvpmodel -q`` said, "15W"; None where it says none."""
    found = re.search(r"^NV Power Mode: *(\S+)", nvpmodel.text if nvpmodel else "", re.MULTILINE)
    return found[1] if found else None


def gpu_clock(root: Path) -> Clock:
    """Of the GPU's devfreq folder: 17000000.gpu or .ga10b on Orin, gpu-gpc-0 on Thor."""
    folders = sorted((root / "sys/class/devfreq").glob("*gpu*")) or sorted((root / "sys/class/devfreq").glob("*.g*10b"))
    if not folders:
        return Clock(None, None, None)
    hertz = [read_number(folders[0] / name) for name in ("cur_freq", "min_freq", "max_freq")]
    now, least, most = (value / 1e6 if value else None for value in hertz)
    return Clock(now, least, most)


def temperatures(root: Path) -> dict[str, float]:
    """Degrees Celsius of every thermal zone that can be read; a GPU that sleeps cannot."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, text = read_text(zone / "type"), read_text(zone / "temp")
        degrees = int(text) / 1000 if re.fullmatch(r"-?\d+", text) else _OFF
        if name and degrees > _OFF:
            found[name.removesuffix("-thermal").removesuffix("-therm")] = degrees
    return found


class Throttling:
    """Why the chip was slowed down: for heat at the moment, for current since this object was made."""

    def __init__(self, root: Path) -> None:
        devices = (root / "sys/class/thermal").glob("cooling_device*")
        named = [(read_text(device / "type"), device / "cur_state") for device in devices]
        self._alerts = sorted((name, path) for name, path in named if name.endswith("-alert"))
        self._counters = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
        self._before = [read_number(path) for path in self._counters]

    def reasons(self) -> tuple[str, ...]:
        """In words; empty while nothing slows it down."""
        found = [name.removesuffix("-alert") for name, path in self._alerts if read_number(path)]
        for path, before in zip(self._counters, self._before, strict=True):
            now = read_number(path)
            if now is not None and before is not None and now > before:
                number = path.name.split("_")[0]
                found.append(_OVER_CURRENT.get(number, number))
        return tuple(found)
