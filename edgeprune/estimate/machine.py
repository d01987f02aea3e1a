"""A machine as the roofline sees it: peak rates, and the share of them that programs of its class reach.

Peaks are a target's data sheet or a calibration's measurement; shares are ``efficiency.toml``, which
``tools/backtest.py`` writes from published latencies. Nothing is measured here.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgePruneError, UsageError
from edgeprune.estimate.device import CPU
from edgeprune.estimate.precision import PRECISIONS, Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

if TYPE_CHECKING:
    from edgeprune.estimate.calibration import Calibration
    from edgeprune.recipes.target import Target

SYSTEM_RESERVE = 2 << 30
"""Bytes of a Jetson's memory that its system keeps (NVIDIA's own rule for TensorRT Edge-LLM: the model plus 2 GB)."""
EFFICIENCY = Path(__file__).parent / "efficiency.toml"
MEASURED = "measured"
"""The class of a machine whose rates are a calibration's."""
_THOR = "11.0"


@dataclass(frozen=True)
class Efficiency:
    """What programs reach of a machine's peaks.

    Attributes:
        vision: share of the operations per second, in the encoder.
        prefill: the same, in every other graph.
        decode: share of the bandwidth, in every graph.
        overlap: of operations and bytes the shorter lies this much behind the longer: 1 hides it, 0 adds it.
        launch: seconds that a run of one graph takes beside.
    """

    vision: float
    prefill: float
    decode: float
    overlap: float
    launch: float


@dataclass(frozen=True)
class Machine:
    """A machine for one precision.

    Attributes:
        name: of the target, or "here".
        device: as its maker calls it.
        memory: bytes; None where nobody says.
        flops: operations per second of the decoder's linear layers at best, two per multiply-accumulate.
        bandwidth: bytes per second from memory at best.
        efficiency: the shares of these that count on.
        band: median absolute error of estimates for its class; 0.2 is 20%.
        reserve: bytes of the memory that the system keeps.
        element_flops: operations per second of what no precision quantises: encoder, projector, methods' graphs.
    """

    name: str
    device: str
    memory: int | None
    flops: float
    bandwidth: float
    efficiency: Efficiency
    band: float
    reserve: int
    element_flops: float


def machine_of_target(target: Target, precision: Precision) -> Machine:
    """The machine of a target file.

    Raises:
        UsageError: the target names no rate for the precision, or is several devices.
    """
    if target.memory is None or target.bandwidth is None:
        raise UsageError(f"target {target.name} is several GPUs and has no rates; name one: edgeprune list targets")
    efficiency, band = efficiency_of(class_of(target, precision))
    jetson = target.kind == "jetson"
    return Machine(
        name=target.name,
        device=target.device,
        memory=target.memory,
        flops=_rate(target, precision, precision.math),
        bandwidth=target.bandwidth,
        efficiency=efficiency,
        band=band,
        reserve=SYSTEM_RESERVE if jetson else 0,
        element_flops=_rate(target, precision, "fp16" if precision.element == 2 else "fp32"),
    )


def machine_of_calibration(calibration: Calibration) -> Machine:
    """This machine, as far as one element type was measured on it."""
    efficiency, band = efficiency_of(MEASURED)
    return Machine(
        name="here",
        device=calibration.device,
        memory=_host_memory() if calibration.backend == CPU else None,
        flops=calibration.flops,
        bandwidth=calibration.bandwidth,
        efficiency=efficiency,
        band=band,
        reserve=0,
        element_flops=calibration.flops,
    )


def class_of(target: Target, precision: Precision) -> str:
    """The table of ``efficiency.toml`` that counts; FP4 units are harder to fill than the others."""
    if precision.math == "fp4":
        return "fp4"
    if target.kind == "jetson":  # one that is neither is taken for an Orin
        return "jetson-thor" if _THOR in target.capabilities else "jetson-orin"
    return "gpu"


def efficiency_of(name: str) -> tuple[Efficiency, float]:
    """Shares and error band of a class of machines."""
    table = _tables()[name]
    shares = {key: table[key] for key in ("vision", "prefill", "decode", "overlap")}
    return Efficiency(**shares, launch=table["launch_us"] / 1e6), table["band"]


@functools.cache
def _tables() -> Mapping[str, Any]:
    """The file comes with edgeprune and its writer is tested: a damaged one is a broken installation."""
    try:
        table: dict[str, Any] = tomllib.loads(EFFICIENCY.read_text(encoding="utf-8"))
        return table
    except (OSError, ValueError) as error:
        raise EdgePruneError(f"{EFFICIENCY} cannot be read: {error}; install edgeprune again") from error


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _rate(target: Target, held: Precision, math: str) -> float:
    if math not in target.flops:
        other = [known.name for known in PRECISIONS.values() if known.math in target.flops]
        hint = f"; it has one for --dtype {', '.join(other)}" if other else ""
        raise UsageError(f"target {target.name} has no rate for {held.name} (tflops.{math}){hint}")
    return target.flops[math]
