"""The INA3221 power monitors of a Jetson, as Linux's hwmon shows them: a chip has three rails, each with its name.

``/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/`` holds ``in{1,2,3}_label``, ``in{1,2,3}_input`` in millivolts and
``curr{1,2,3}_input`` in milliamperes (docs.kernel.org/hwmon/ina3221.html). ``in7`` is the sum of shunt voltages, no
rail. Reading needs no root and does not wait: the chip averages by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune.power.rails import total_rails, total_watts
from edgeprune.power.text import read_text

FOLDER = "sys/bus/i2c/drivers/ina3221"
_CHANNELS = (1, 2, 3)


@dataclass(frozen=True)
class Rail:
    """A rail: its name, and the files of its millivolts and milliamperes."""

    name: str
    volts: Path
    amperes: Path

    def milliwatts(self) -> float | None:
        """What it draws now; None where it cannot be read. A rail at rest may read slightly below 0."""
        try:
            return int(read_text(self.volts)) * int(read_text(self.amperes)) / 1000
        except ValueError:
            return None


class Ina3221:
    """The rails that add up to the module."""

    def __init__(self, rails: tuple[Rail, ...]) -> None:
        self._rails = rails
        self.name = f"INA3221 ({' + '.join(rail.name for rail in rails)})"

    @classmethod
    def open(cls, root: Path) -> Ina3221 | None:
        """Those below ``root``; None where there is no such chip, or its rails are not known."""
        found = {}
        for folder in sorted((root / FOLDER).glob("*/hwmon/hwmon*")):
            for channel in _CHANNELS:
                name = read_text(folder / f"in{channel}_label")
                rail = Rail(name, folder / f"in{channel}_input", folder / f"curr{channel}_input")
                if name and rail.milliwatts() is not None:
                    found[name] = rail
        names = total_rails(found)
        return cls(tuple(found[name] for name in names)) if names else None

    def watts(self) -> float | None:
        """What the module draws now; None where a rail could not be read this time."""
        read = {rail.name: rail.milliwatts() for rail in self._rails}
        known = {name: value for name, value in read.items() if value is not None}
        return total_watts(known)

    def joules(self) -> float | None:
        """The chip counts no energy."""
        return None

    def close(self) -> None:
        """Nothing is held."""
