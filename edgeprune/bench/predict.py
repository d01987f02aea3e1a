"""The rates that predictions are made from: on the CPU measured between what is predicted, elsewhere those kept.

A CPU is shared, and its rates change within minutes: those of another day predict that day.
"""

from __future__ import annotations

from time import perf_counter

from edgeprune.bench.calibrate import Calibrator, Rate
from edgeprune.errors import UsageError
from edgeprune.estimate.calibration import read_calibration
from edgeprune.estimate.device import CPU
from edgeprune.estimate.machine import Machine, machine_of_calibration

_SHARE_S = 0.3
"""Seconds for each of the two rates, each time."""
_REST_S = 5.0
"""Seconds from one time to the next at least: many short rounds are not to take longer for it."""


class Rates:
    """This machine's rates while something is measured on it.

    Args:
        backend: as ``Backend.name``.
        threads: per operator.
        dtype: of the bundle.
    """

    def __init__(self, backend: str, threads: int, dtype: str) -> None:
        self._backend, self._dtype = backend, dtype
        self._taken: list[Rate] = []
        self._calibrator: Calibrator | None = None
        self._kept = None
        self._last = 0.0
        if backend != CPU:
            self._kept = read_calibration(backend, threads, dtype)
            return
        try:
            self._calibrator = Calibrator(threads, "cpu", dtype)
        except UsageError:  # an element type that is not calibrated: nothing will be predicted
            return

    def take(self) -> None:
        """Measure them, which takes a second; nothing where they are kept, or were taken just before."""
        rested = not self._taken or perf_counter() - self._last >= _REST_S
        if self._calibrator is not None and rested:
            self._taken.append(self._calibrator.rates(_SHARE_S))
            self._last = perf_counter()

    def machine(self) -> tuple[Machine | None, str]:
        """The machine, and where its rates come from, for a report's notes."""
        again, kept = "edgeprune estimate --calibrate", self._kept
        if kept is not None:
            return machine_of_calibration(kept), f"predictions: from rates measured on {kept.measured} by {again}"
        if self._backend != CPU:
            return None, f"predictions: none, {self._backend} has no rates in {self._dtype} yet: {again} measures them"
        if self._calibrator is None or not self._taken:
            return None, f"predictions: none, rates on the CPU are not measured in {self._dtype}"
        flops, bandwidth = ([rate[index] / 1e9 for rate in self._taken] for index in (0, 1))
        found = machine_of_calibration(self._calibrator.calibration(self._taken))
        taken = "predictions: from rates of ONNX Runtime taken"
        if len(flops) == 1:
            return found, f"{taken} once, before the rounds: {flops[0]:.0f} GFLOP/s and {bandwidth[0]:.1f} GB/s"
        return found, (
            f"{taken} {len(flops)} times between rounds, the middle of "
            f"{min(flops):.0f}..{max(flops):.0f} GFLOP/s and {min(bandwidth):.1f}..{max(bandwidth):.1f} GB/s"
        )
