"""A Jetson as a device: its files, and ``tegrastats`` where the files of its sensors cannot be read."""

from __future__ import annotations

from pathlib import Path

from edgeprune.power.command import Run
from edgeprune.power.ina3221 import Ina3221
from edgeprune.power.jetson import NVPMODEL, Throttling, gpu_clock, power_mode, temperatures
from edgeprune.power.rails import total_rails, total_watts
from edgeprune.power.state import DeviceState
from edgeprune.power.stream import LineStream
from edgeprune.power.tegrastats import Stats, parse
from edgeprune.power.text import read_text

_TEGRASTATS = ("tegrastats", "--interval", "100")


class JetsonDevice:
    """A board; a ``power.device.Device``.

    Args:
        root: of the file system.
        run: asks ``nvpmodel``.
        tegrastats: the command to ask where the sensors' files are not there.
    """

    def __init__(self, root: Path, run: Run, tegrastats: tuple[str, ...] = _TEGRASTATS) -> None:
        self._root, self._run = root, run
        self._throttling = Throttling(root)
        self._chips = Ina3221.open(root)
        self._stream = None if self._chips else _start(tegrastats)

    @property
    def sensor(self) -> str | None:
        """Which rails are added, and who reads them."""
        if self._chips:
            return self._chips.name
        rails = total_rails(self._stats().rails)
        return f"tegrastats ({' + '.join(rails)})" if rails else None

    def state(self) -> DeviceState:
        """Now."""
        clock, stats = gpu_clock(self._root), self._stats()
        return DeviceState(
            device=read_text(self._root / "proc/device-tree/model") or "a Jetson that does not say which",
            sensor=self.sensor,
            power_mode=power_mode(self._run(NVPMODEL)),
            power_limit_watts=None,
            clock_mhz=clock.now or stats.gpu_clock_mhz,
            clock_most_mhz=clock.most,
            locked=clock.locked,
            throttled=self.throttled(),
            temperatures=temperatures(self._root) or stats.temperatures,
        )

    def watts(self) -> float | None:
        """What the module draws now."""
        return self._chips.watts() if self._chips else total_watts(self._stats().rails)

    def joules(self) -> float | None:
        """A Jetson counts no energy."""
        return None

    def throttled(self) -> tuple[str, ...]:
        """Why it is slowed down: for heat now, for current since this object was made."""
        return self._throttling.reasons()

    def close(self) -> None:
        """End ``tegrastats``."""
        if self._stream:
            self._stream.close()

    def _stats(self) -> Stats:
        return parse((self._stream.newest() or "") if self._stream else "")


def _start(command: tuple[str, ...]) -> LineStream | None:
    try:
        stream = LineStream(command)
    except OSError:
        return None
    if stream.first() is None:
        stream.close()
        return None
    return stream
