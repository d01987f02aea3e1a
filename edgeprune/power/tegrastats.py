"""A line of NVIDIA's ``tegrastats`` as values, for Jetsons whose sensors' files cannot be read.

Rails read "VDD_IN 4969mW/4969mW": now and on average; before Jetson Linux 34 without the unit ("POM_5V_IN 900/943"),
since 39 with the most as a third number. Temperatures read "gpu@46.3C", since 39 "gpu@56.9C/66.6C": now and at most.
The GPU reads "GR3D_FREQ 45%@[611]": its load, and its clock in MHz where tegrastats knows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?/-?\d+(?:mW)?(?:/-?\d+(?:mW)?)?(?=\s|$)")
_HEAT = re.compile(r"\b([A-Za-z][A-Za-z0-9_]*)@(-?\d+(?:\.\d+)?)C\b")
_CLOCK = re.compile(r"\bGR3D_FREQ (?:\d+%)?@\[?(\d+)")
_OFF = -100.0  # a zone that is switched off says -256 degrees


@dataclass(frozen=True)
class Stats:
    """What a line says.

    Attributes:
        rails: milliwatts now, by the rail's name.
        temperatures: degrees Celsius by the zone's name; those that are switched off left out.
        gpu_clock_mhz: None where it does not say.
    """

    rails: dict[str, float]
    temperatures: dict[str, float]
    gpu_clock_mhz: float | None


def parse(line: str) -> Stats:
    """Read a line; what it lacks is empty or None, so any other text gives an empty Stats."""
    clock = _CLOCK.search(line)
    heat = {name.lower(): float(degrees) for name, degrees in _HEAT.findall(line)}
    return Stats(
        rails={name: float(now) for name, now in _RAIL.findall(line)},
        temperatures={name: degrees for name, degrees in heat.items() if degrees > _OFF},
        gpu_clock_mhz=float(clock[1]) if clock else None,
    )
