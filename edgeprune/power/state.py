"""The state of a device at one moment, which decides what it reaches."""

from __future__ import annotations

from dataclasses import dataclass

_REASONS = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat, by the driver",
    0x40: "heat, by the hardware",
    0x80: "power brake",
}
"""NVML's nvmlClocksEventReasons that slow a GPU down. An idle GPU (0x1), clocks that the user set (0x2) and a display's
clock (0x100) are no throttling."""

_SET_BY_USER = 0x02


@dataclass(frozen=True)
class DeviceState:
    """A Jetson or a GPU; what is None nobody tells.

    Attributes:
        device: its name.
        sensor: what measures its power; None where nothing does.
        power_mode: a Jetson's nvpmodel mode, "15W".
        power_limit_watts: what a GPU may draw.
        clock_mhz, clock_most_mhz: of the GPU, now and at most.
        locked: whether the GPU's clock cannot move.
        throttled: why it is slowed down, empty where it is not.
        temperatures: degrees Celsius by sensor.
    """

    device: str
    sensor: str | None
    power_mode: str | None
    power_limit_watts: float | None
    clock_mhz: float | None
    clock_most_mhz: float | None
    locked: bool | None
    throttled: tuple[str, ...]
    temperatures: dict[str, float]


def throttle_reasons(mask: int) -> tuple[str, ...]:
    """NVML's bit mask in words."""
    return tuple(word for bit, word in _REASONS.items() if mask & bit)


def set_by_user(mask: int) -> bool | None:
    """Whether the mask says that clocks are what the user set; None where it does not say, for a lock may be hidden."""
    return True if mask & _SET_BY_USER else None
