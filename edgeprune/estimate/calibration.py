"""What a backend was measured to reach on a device of this machine, kept in the state folder.

One small JSON file per device, backend, threads and element type, writable by this user alone. A file that is damaged,
somebody else's, or of another device counts as missing: whoever needs it measures again. Measures nothing itself; that
is ``bench.calibrate``.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle.codec import decode, encode
from edgeprune.errors import BundleError, OutputError
from edgeprune.estimate.device import device_of
from edgeprune.local import read_ours, state_folder, write_ours


@dataclass(frozen=True)
class Calibration:
    """Rates of a backend.

    Attributes:
        device: name of the processor, as ``device_of`` gives it.
        backend: "onnxruntime-cpu", as reports call it.
        threads: per operator.
        dtype: of weights and activations, "fp32" or "fp16".
        flops: operations per second of large matrix products, two per multiply-accumulate.
        bandwidth: bytes of weights per second, in that element type, where every weight is used once.
        versions: of what computed.
        measured: the day, ISO 8601.

    Raises:
        BundleError: a rate is not positive and finite, or there are no threads.
    """

    device: str
    backend: str
    threads: int
    dtype: str
    flops: float
    bandwidth: float
    versions: dict[str, str]
    measured: str

    def __post_init__(self) -> None:
        for name in ("flops", "bandwidth"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BundleError(f"calibration has {name} {value}; expected a positive number")
        if self.threads < 1:
            raise BundleError(f"calibration has threads {self.threads}; expected 1 or more")


def read_calibration(backend: str, threads: int, dtype: str) -> Calibration | None:
    """What was measured on this machine's device, or None."""
    device = device_of(backend)
    try:
        data = read_ours(_path(device, backend, threads, dtype))
        found = decode(Calibration, json.loads(data), "calibration") if data is not None else None
    except (OutputError, BundleError, ValueError, RecursionError):  # no home directory, or a damaged file
        return None
    if found is None or (found.device, found.backend, found.threads, found.dtype) != (device, backend, threads, dtype):
        return None
    return found


def write_calibration(calibration: Calibration) -> Path:
    """Keep a measurement in place of the last one; returns the file.

    Raises:
        OutputError: it cannot be written, or this user has no home directory.
    """
    c = calibration
    path = _path(c.device, c.backend, c.threads, c.dtype)
    write_ours(path, (json.dumps(encode(c), indent=1) + "\n").encode())
    return path


def _path(device: str, backend: str, threads: int, dtype: str) -> Path:
    """The name of the device may hold any character: a hash stands for it."""
    short = hashlib.sha256(device.encode()).hexdigest()[:12]
    return state_folder() / "calibrations" / f"{backend}-{threads}-{dtype}-{short}.json"
