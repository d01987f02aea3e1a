"""A GPU through NVML, by the package ``nvidia-ml-py`` where it is installed.

Power is the instantaneous figure where the driver gives it: ``nvmlDeviceGetPowerUsage`` is an average over a second on
A100 and later. The energy counter exists since Volta.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgeprune.power.state import DeviceState, set_by_user, throttle_reasons
from edgeprune.power.visible import first_gpu

_INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, milliwatts


def open_nvml(module: str = "pynvml") -> NvmlDevice | None:
    """This process's first GPU; None without the package, the driver, or such a GPU."""
    try:
        nvml = importlib.import_module(module)
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        count = nvml.nvmlDeviceGetCount()
        names = [_text(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)]
        which = first_gpu(names)
        if which is not None:
            by_uuid = isinstance(which, str)
            get = nvml.nvmlDeviceGetHandleByUUID if by_uuid else nvml.nvmlDeviceGetHandleByIndex
            return NvmlDevice(nvml, get(which))
    except nvml.NVMLError:
        pass  # a GPU that fell off the bus, or a UUID of no GPU here
    nvml.nvmlShutdown()
    return None


class NvmlDevice:
    """A GPU; a ``power.device.Device``.

    Args:
        nvml: the package's module.
        handle: of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @property
    def sensor(self) -> str | None:
        """NVML, where it knows the power."""
        return "NVML" if self.watts() is not None else None

    def state(self) -> DeviceState:
        """Now."""
        nvml = self._nvml
        limit = self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        heat = self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        return DeviceState(
            device=_text(self._ask(nvml.nvmlDeviceGetName) or "a GPU"),
            sensor=self.sensor,
            power_mode=None,
            power_limit_watts=None if limit is None else limit / 1000,
            clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            clock_most_mhz=self._ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
            locked=set_by_user(self._mask()),
            throttled=self.throttled(),
            temperatures={} if heat is None else {"gpu": float(heat)},
        )

    def watts(self) -> float | None:
        """What it draws now."""
        fields = self._ask(self._nvml.nvmlDeviceGetFieldValues, [_INSTANT])
        if fields and fields[0].nvmlReturn == 0 and fields[0].value.uiVal:
            return float(fields[0].value.uiVal) / 1000
        milliwatts = self._ask(self._nvml.nvmlDeviceGetPowerUsage)
        return None if milliwatts is None else float(milliwatts) / 1000

    def joules(self) -> float | None:
        """What it drew since the driver was loaded."""
        millijoules = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else float(millijoules) / 1000

    def throttled(self) -> tuple[str, ...]:
        """Why it is slowed down now."""
        return throttle_reasons(self._mask())

    def close(self) -> None:
        """Give NVML back."""
        self._nvml.nvmlShutdown()

    def _mask(self) -> int:
        return int(self._ask(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0)

    def _ask(self, question: Callable[..., Any], *words: Any) -> Any:
        """The answer; None where this GPU has none."""
        try:
            return question(self._handle, *words)
        except self._nvml.NVMLError:
            return None


def _text(name: str | bytes) -> str:
    """Older versions of the package give bytes."""
    return name.decode() if isinstance(name, bytes) else name
