"""The device that answers: its state, what it draws, why it is slowed down. None where there is no such device."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgeprune.power.command import Run, run_command
from edgeprune.power.jetson import is_jetson
from edgeprune.power.jetson_device import JetsonDevice
from edgeprune.power.nvml import open_nvml
from edgeprune.power.smi import open_smi
from edgeprune.power.state import DeviceState


class Device(Protocol):
    """A Jetson or a GPU. No method raises: what cannot be read this time is None."""

    @property
    def sensor(self) -> str | None:
        """What measures its power; None where nothing does."""

    def state(self) -> DeviceState:
        """Now."""

    def watts(self) -> float | None:
        """What it draws now."""

    def joules(self) -> float | None:
        """What it drew since some fixed moment; None where it does not count that."""

    def throttled(self) -> tuple[str, ...]:
        """Why it is slowed down now; empty where it is not."""

    def close(self) -> None:
        """Give back what reading needs."""


def open_device(root: Path = Path("/"), run: Run = run_command, on_gpu: bool = False) -> Device | None:
    """The device that a benchmark runs on.

    A Jetson's sensors measure its whole module, whatever part of it works. A GPU in a server is of interest only to
    what runs on it; a server's CPU has no sensor that may be read without root.

    Args:
        root: of the file system.
        run: asks commands.
        on_gpu: whether the GPU does the work.
    """
    if is_jetson(root):
        return JetsonDevice(root, run)
    if not on_gpu:
        return None
    return open_nvml() or open_smi(run)
