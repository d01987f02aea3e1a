"""The machine a run is on: GPU, driver, clocks, versions, and what its GPU reaches at best, measured.

It asks PyTorch and nvidia-smi, and knows nothing of engines.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import edgeprune
from edgeprune.doctor.gpu import SMI, Gpu, read_nvidia
from edgeprune.errors import BackendError
from edgeprune.power.command import run_command

DeviceName = Literal["cuda", "cpu"]

_PACKAGES = (
    *("torch", "transformers", "numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx", "polygraphy", "cuda-python", "cuda-bindings"),
)


@dataclass(frozen=True)
class Clocks:
    """What nvidia-smi says of the multiprocessors' clock in MHz, and of the power limit in watts."""

    sm_mhz: float | None
    sm_most_mhz: float | None
    power_limit_watts: float | None


@dataclass(frozen=True)
class Machine:
    """What things are measured on.

    Attributes:
        device: what computes.
        name: of the GPU, or of the processor.
        capability: compute capability, "9.0"; None without a GPU.
        memory: bytes of the GPU.
        driver: its version, where nvidia-smi or the kernel tells.
        clocks: before the run.
        flops: fp16 operations per second that a matrix product reached here, two per multiply-accumulate.
        bandwidth: bytes per second that a copy on the GPU read and wrote here.
        versions: of Python and of what is installed.
    """

    device: DeviceName
    name: str
    capability: str | None
    memory: int | None
    driver: str | None
    clocks: Clocks | None
    flops: float | None
    bandwidth: float | None
    versions: dict[str, str]


def look(device: DeviceName) -> Machine:
    """Look at this machine, and measure its GPU.

    Raises:
        BackendError: there is no GPU that PyTorch can use.
    """
    import torch

    if device == "cpu":
        name = platform.processor() or platform.machine()
        return Machine("cpu", name, None, None, None, None, None, None, _versions())
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise BackendError(
            f"no NVIDIA GPU here: PyTorch {torch.__version__}, {built}, can use none; edgeprune doctor says more, and "
            "--device cpu checks this tool without a GPU"
        )
    facts = torch.cuda.get_device_properties(0)
    told = read_nvidia(Path("/"), run_command(SMI), None)
    flops, bandwidth = _peak()
    return Machine(
        device="cuda",
        name=facts.name,
        capability=f"{facts.major}.{facts.minor}",
        memory=facts.total_memory,
        driver=told.driver,
        clocks=_clocks(told.gpus),
        flops=flops,
        bandwidth=bandwidth,
        versions=_versions(),
    )


def clocks_now() -> Clocks | None:
    """The clocks at this moment; None where nvidia-smi does not tell."""
    return _clocks(read_nvidia(Path("/"), run_command(SMI), None).gpus)


def taken_bytes(device: DeviceName) -> int | None:
    """Bytes of the GPU that are taken, but for what PyTorch's allocator holds; None without a GPU."""
    if device == "cpu":
        return None
    import torch

    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return int(total - free) - int(torch.cuda.memory_reserved())


def _clocks(gpus: tuple[Gpu, ...]) -> Clocks | None:
    if not gpus:
        return None
    return Clocks(gpus[0].clock_mhz, gpus[0].clock_most_mhz, gpus[0].power_limit_watts)


def _versions() -> dict[str, str]:
    import torch

    found = {"edgeprune": edgeprune.__version__, "python": platform.python_version()}
    if torch.version.cuda:
        found["cuda of torch"] = torch.version.cuda
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _peak(edge: int = 8192, copied: int = 2**31, repeats: int = 10) -> tuple[float, float]:
    """Operations and bytes per second: an fp16 matrix product, and a copy of ``copied`` bytes or a tenth of what is
    free."""
    import torch

    def best(work: torch.Tensor, other: torch.Tensor, product: bool) -> float:
        shortest = float("inf")
        for _ in range(repeats + 2):
            torch.cuda.synchronize()
            start = perf_counter()
            if product:
                torch.mm(work, other)
            else:
                work.copy_(other)
            torch.cuda.synchronize()
            shortest = min(shortest, perf_counter() - start)
        return shortest

    matrices = [torch.randn(edge, edge, device="cuda", dtype=torch.float16) for _ in range(2)]
    flops = 2 * edge**3 / best(matrices[0], matrices[1], True)
    matrices.clear()
    size = min(copied, torch.cuda.mem_get_info()[0] // 10)
    blocks = [torch.zeros(size, device="cuda", dtype=torch.uint8) for _ in range(2)]
    bandwidth = 2 * size / best(blocks[0], blocks[1], False)
    blocks.clear()
    torch.cuda.empty_cache()
    return flops, bandwidth
