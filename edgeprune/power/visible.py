"""Which of a machine's NVIDIA GPUs is this process's first, as CUDA counts and not as the driver does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


def first_gpu(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> int | str | None:
    """The driver's index of CUDA's GPU 0, or its UUID; None where that cannot be told.

    CUDA counts within CUDA_VISIBLE_DEVICES, and the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID; where all are
    of one kind that is the driver's order too.

    Args:
        names: of all GPUs, in the driver's order.
        environment: of the process.
    """
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    first = "0" if shown is None else shown.split(",")[0].strip()
    if first.startswith("GPU-"):
        return first
    alike = len(set(names)) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if not first.isdecimal() or int(first) >= len(names) or not alike:
        return None  # a part of a GPU, none at all, or one of several kinds
    return int(first)
