"""A Jetson's power rails: which of them add up to what the module draws, counting nothing twice.

- Orin NX, Orin Nano, Xavier NX, TX2, TX1: VDD_IN is the module's input and holds all others (NVIDIA's forum: "VDD_IN is
  the total power of module", topic 200883).
- Nano: POM_5V_IN is the board's input (topic 73608: "it represents the total power consumption").
- AGX Orin has no such rail: VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0 lie beside each other. VDDQ_VDD2_1V8AO, on a second
  chip, is fed from VIN_SYS_5V0 (its sensor sees the same 5 V) and is left out.
- AGX Thor: VDD_GPU, VDD_CPU_SOC_MSS and VIN_SYS_5V0 in the same way. VIN is the carrier's input, fan and disk with it,
  and is left out.
- AGX Xavier: GPU, CPU, SOC, CV, VDDRQ and SYS5V.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

TOTALS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
"""The first whose rails are all there counts."""


def total_rails(names: Iterable[str]) -> tuple[str, ...] | None:
    """Of the rails a board has those to add; None for a board that is not known."""
    have = set(names)
    return next((rails for rails in TOTALS if have.issuperset(rails)), None)


def total_watts(milliwatts: Mapping[str, float]) -> float | None:
    """What the module draws; None for a board that is not known."""
    rails = total_rails(milliwatts)
    return sum(milliwatts[rail] for rail in rails) / 1000 if rails else None
