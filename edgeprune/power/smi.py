"""A GPU through ``nvidia-smi``, for machines without the package ``nvidia-ml-py``.

One question gives the state; for power the command is left running and prints a line ten times a second. It has no
energy counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.power.command import Run
from edgeprune.power.state import DeviceState, set_by_user, throttle_reasons
from edgeprune.power.stream import LineStream
from edgeprune.power.visible import first_gpu

_ALWAYS = ("name", "uuid", "enforced.power.limit", "clocks.sm", "clocks.max.sm", "temperature.gpu")
_DIALECTS = (
    (*_ALWAYS, "power.draw.instant", "clocks_event_reasons.active"),  # since driver 535
    (*_ALWAYS, "power.draw", "clocks_throttle_reasons.active"),
)
_FORMAT = "--format=csv,noheader,nounits"
_PERIOD_MS = "100"


@dataclass(frozen=True)
class SmiLine:
    """A line of its table; what is None it did not say.

    Attributes:
        name, uuid: of the GPU.
        limit_watts: what it may draw.
        clock_mhz, clock_most_mhz: of its multiprocessors.
        degrees: Celsius.
        watts: what it draws.
        mask: NVML's clocks event reasons.
    """

    name: str
    uuid: str
    limit_watts: float | None
    clock_mhz: float | None
    clock_most_mhz: float | None
    degrees: float | None
    watts: float | None
    mask: int


def parse_line(line: str) -> SmiLine | None:
    """Read a line of either dialect; None for any other text."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_DIALECTS[0]):
        return None
    name, uuid, *numbers, mask = cells
    limit, clock, most, degrees, watts = map(_number, numbers)
    return SmiLine(name, uuid, limit, clock, most, degrees, watts, int(mask, 16) if mask.startswith("0x") else 0)


def question(fields: tuple[str, ...], gpu: str | None = None, repeat: bool = False) -> tuple[str, ...]:
    """The command that prints those fields, of all GPUs or of one, once or for ever."""
    which = ("-i", gpu) if gpu else ()
    return ("nvidia-smi", f"--query-gpu={','.join(fields)}", _FORMAT, *which, *(("-lms", _PERIOD_MS) if repeat else ()))


def open_smi(run: Run) -> SmiDevice | None:
    """This process's first GPU; None without the command or such a GPU."""
    for fields in _DIALECTS:
        said = run(question(fields))
        if said is None:
            return None
        if said.code != 0:
            continue  # it does not know a field
        lines = [found for found in map(parse_line, said.text.splitlines()) if found]
        which = first_gpu([line.name for line in lines])
        if which is None:
            return None
        chosen = [line for number, line in enumerate(lines) if which in (number, line.uuid)]
        return _started(fields, chosen[0]) if chosen else None
    return None


class SmiDevice:
    """A GPU; a ``power.device.Device``."""

    def __init__(self, stream: LineStream, first: SmiLine) -> None:
        self._stream, self._last = stream, first

    @property
    def sensor(self) -> str | None:
        """nvidia-smi, where it knows the power."""
        return "nvidia-smi" if self._last.watts is not None else None

    def state(self) -> DeviceState:
        """Now."""
        line = self._line() or self._last
        return DeviceState(
            device=line.name,
            sensor=self.sensor,
            power_mode=None,
            power_limit_watts=line.limit_watts,
            clock_mhz=line.clock_mhz,
            clock_most_mhz=line.clock_most_mhz,
            locked=set_by_user(line.mask),
            throttled=throttle_reasons(line.mask),
            temperatures={} if line.degrees is None else {"gpu": line.degrees},
        )

    def watts(self) -> float | None:
        """What it draws now."""
        line = self._line()
        return line.watts if line else None

    def joules(self) -> float | None:
        """The command knows no energy."""
        return None

    def throttled(self) -> tuple[str, ...]:
        """Why it is slowed down now."""
        line = self._line()
        return throttle_reasons(line.mask) if line else ()

    def close(self) -> None:
        """End the command."""
        self._stream.close()

    def _line(self) -> SmiLine | None:
        newest = self._stream.newest()
        return parse_line(newest) if newest else None


def _started(fields: tuple[str, ...], line: SmiLine) -> SmiDevice | None:
    try:
        stream = LineStream(question(fields, line.uuid, repeat=True))
    except OSError:
        return None
    stream.first()
    return SmiDevice(stream, line)


def _number(cell: str) -> float | None:
    """None for "[N/A]", "[Not Supported]" and the like."""
    try:
        return float(cell)
    except ValueError:
        return None
