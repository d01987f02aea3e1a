"""Facts to findings: what a machine has and lacks for running bundles at all, whatever they were built for.

``backends`` is the verdict: what here could run a bundle. It estimates nothing: how much memory a bundle takes is not
known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeprune.doctor import mends
from edgeprune.doctor.finding import Finding, Level
from edgeprune.doctor.machine import Machine
from edgeprune.doctor.onnxruntime import OnnxRuntime
from edgeprune.doctor.tensorrt import TensorRT
from edgeprune.power.command import NO_ANSWER

ARCHITECTURES = ("x86_64", "aarch64")
SPARE_BYTES = 2_000_000_000  # of memory: what TensorRT Edge-LLM asks for beside the model itself
DISK_BYTES = 20_000_000_000  # a bundle of a model of seven billion parameters, and half as much again
_LEAST_ORT = (1, 23)  # as the extras of pyproject.toml
_RUN = ("numpy", "pillow", "tokenizers", "jinja2", "click")
_BUILD = ("onnx", "polygraphy", "cuda-python")
_EXPORT = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "safetensors", "huggingface-hub", "tqdm")


def examine(machine: Machine) -> tuple[Finding, ...]:
    """All findings, in the order in which one thing needs the other."""
    checks = (_system, _memory, _disk, _board, check_driver, check_cuda, _tensorrt, _onnxruntime, _providers, _packages)
    return tuple(finding for check in checks for finding in check(machine))


def backends(machine: Machine) -> tuple[str, ...]:
    """What could run a bundle here: of "onnxruntime", "tensorrt", "tensorrt-rtx"."""
    if _absent(machine, _RUN):
        return ()
    runtime = machine.onnxruntime
    cpu = ("onnxruntime",) if runtime and "CPUExecutionProvider" in runtime.providers else ()
    engines = (found.flavour for found in machine.tensorrts if has_cuda(machine) and loads(machine, found))
    return (*cpu, *engines)


def check_driver(machine: Machine) -> Iterator[Finding]:
    """NVIDIA's driver."""
    nvidia, board = machine.nvidia, machine.jetson
    if nvidia.smi_problem and not board:  # there it knows little
        slow = nvidia.smi_problem.startswith(NO_ANSWER) and nvidia.gpus  # CUDA sees them all the same
        level: Level = "note" if slow else "missing"
        yield Finding("driver", level, f"nvidia-smi: {nvidia.smi_problem}", mends.driver(machine))
    elif nvidia.driver or nvidia.cuda or (board and board.gpu_most_mhz):  # on a Jetson its file may be absent
        cuda = f", runs CUDA up to {nvidia.cuda}" if nvidia.cuda else ""
        yield Finding("driver", "ok", f"{nvidia.driver or 'loaded'}{cuda}")
    elif nvidia.card or board:
        yield Finding("driver", "missing", "there is an NVIDIA GPU but no driver", mends.driver(machine))
    else:
        yield Finding("driver", "note", "no NVIDIA GPU: bundles run on the CPU, engines do not run")


def check_cuda(machine: Machine) -> Iterator[Finding]:
    """CUDA as Python programs reach it."""
    nvidia = machine.nvidia
    if not (nvidia.driver or nvidia.gpus or machine.jetson):
        return  # what CUDA says without a driver is that there is none
    if nvidia.runtime is None:
        why = nvidia.cuda_problem or "not installed"
        yield Finding("cuda", "missing", f"cuda-python: {why}; engines need it", mends.cuda_python(machine))
    elif nvidia.driver_too_old:
        found = f"cuda-python brings CUDA {nvidia.runtime}, the driver runs {nvidia.cuda} at most"
        yield Finding("cuda", "missing", found, mends.cuda_python(machine))
    elif nvidia.cuda is None:
        found = f"the driver's libcuda does not load here: {nvidia.cuda_problem or 'it says no version'}"
        yield Finding("cuda", "missing", found, mends.driver(machine))
    elif nvidia.cuda_problem:
        found = f"CUDA finds no GPU: {nvidia.cuda_problem}"
        yield Finding("cuda", "missing", found, "nvidia-smi; unset CUDA_VISIBLE_DEVICES")
    else:
        yield Finding("cuda", "ok", f"{nvidia.runtime} through cuda-python, GPUs that it sees: {len(nvidia.gpus)}")


def has_cuda(machine: Machine) -> bool:
    """Whether engines could be run: a GPU, and bindings that the driver serves."""
    nvidia = machine.nvidia
    return bool(
        nvidia.gpus and nvidia.cuda and nvidia.runtime and not nvidia.cuda_problem and not nvidia.driver_too_old
    )


def loads(machine: Machine, found: TensorRT) -> bool:
    """Whether a TensorRT can be imported and is made for this machine."""
    return found.version is not None and wheel_problem(machine, found) is None


def wheel_problem(machine: Machine, found: TensorRT) -> str | None:
    """Why a TensorRT does not suit this machine; None where it does.

    Elsewhere than on a Jetson the CUDA it is made for must not be newer than the driver's.

    TensorRT's notes on moving from 10.x to 11.x on Jetson: 11.0 to 11.4.0 do not support JetPack, and JetPack 6 stays
    on 10.x. Of 10.x the wheels for ARM that pip finds, ``tensorrt-cu12`` and ``tensorrt-cu13``, are made for servers;
    those that NVIDIA's containers for Jetson hold are of another make, named ``tensorrt`` alone.
    """
    pack = machine.jetson.jetpack if machine.jetson else None
    if machine.jetson is None:
        return _newer_cuda(machine, found)
    if pack is None or found.flavour != "tensorrt" or found.version is None:
        return None
    for_servers = found.wheel and any(package.name.startswith("tensorrt-cu") for package in machine.packages)
    own = f"JetPack {pack.name} has {'.'.join(map(str, pack.tensorrt))} in the system's Python {pack.python}"
    if pack.least[0] <= 36 and (for_servers or found.version >= (11,)):
        return f"{found.label} is made for servers, not for JetPack {pack.name}; {own}"
    if (11,) <= found.version < (11, 4, 1):
        return f"{found.label} does not support JetPack, 11.4.1 is the first that does; {own}"
    return None


def _newer_cuda(machine: Machine, found: TensorRT) -> str | None:
    if not (machine.nvidia.cuda or machine.nvidia.driver) or not found.wheel or found.version is None:
        return None
    names = (re.match(rf"{found.flavour}-cu(\d+)(?:-|$)", package.name) for package in machine.packages)
    made_for, runs = min((int(name[1]) for name in names if name), default=0), mends.cuda_major(machine)
    return f"{found.label} is made for CUDA {made_for}, the driver runs CUDA {runs}" if made_for > runs else None


def hidden(machine: Machine) -> str:
    """That the system has a TensorRT which this Python does not see."""
    found = machine.system_tensorrt
    assert found is not None  # the caller looked
    what = f"TensorRT {found.version}" if found.version else "a TensorRT"
    return f"the system has {what} in {found.place}, which Python {machine.python.version} at {machine.python.prefix} \
does not see"


def gigabytes(number: int) -> str:
    """ "7.6 GB"; decimal, as memory is sold."""
    return f"{number / 1e9:.1f} GB"


def _system(machine: Machine) -> Iterator[Finding]:
    architecture, board = machine.python.architecture, machine.jetson
    if architecture not in ARCHITECTURES:
        found = f"{architecture}; ONNX Runtime and TensorRT have packages for {' and '.join(ARCHITECTURES)}"
        yield Finding("system", "missing", found, "use a machine of one of these architectures")
    elif board and board.jetpack and board.jetpack.tensorrt < (10, 3):
        found = (
            f"JetPack {board.jetpack.name} has TensorRT {'.'.join(map(str, board.jetpack.tensorrt))}; 10.3 is needed"
        )
        yield Finding(
            "system", "missing", found, "install JetPack 6.2 or 7.2: https://developer.nvidia.com/sdk-manager"
        )
    else:
        yield Finding("system", "ok", f"{architecture}, Python {machine.python.version}")


def _memory(machine: Machine) -> Iterator[Finding]:
    free, board = machine.available_bytes, machine.jetson
    found = f"{gigabytes(free)} of {gigabytes(machine.memory_bytes)} free{', shared by CPU and GPU' if board else ''}"
    if free < SPARE_BYTES:
        desktop = "sudo systemctl isolate multi-user.target" if board else None  # the desktop takes most of it
        yield Finding("memory", "note", f"{found}; less than the 2 GB that are needed beside a model", desktop)
    else:
        yield Finding("memory", "ok", found)
    if board and all(swap.compressed for swap in machine.swaps):
        what = "only swap within memory itself (zram)" if machine.swaps else "no swap"
        made = " && ".join(
            f"sudo {step} /swapfile" for step in ("fallocate -l 16G", "chmod 600", "mkswap", "swapon")
        )  # what swap is for here: building an engine takes several times its weights for a while
        yield Finding("swap", "note", f"{what}; building a large engine may need a file", made)


def _disk(machine: Machine) -> Iterator[Finding]:
    found = f"{gigabytes(machine.free_bytes)} free in {machine.folder}"
    if machine.free_bytes < DISK_BYTES:
        yield Finding(
            "disk", "note", f"{found}; a bundle of 7 billion parameters takes 14 GB, its engines as much again"
        )
    else:
        yield Finding("disk", "ok", found)


def _board(machine: Machine) -> Iterator[Finding]:
    board = machine.jetson
    if board is None:
        return
    if board.power_mode is None:
        yield Finding("power", "note", "nvpmodel does not say in which mode the board is", "sudo nvpmodel -q")
    elif board.fastest_mode and board.power_mode != board.fastest_mode[1]:
        number, name = board.fastest_mode
        yield Finding("power", "note", f"mode {board.power_mode}; {name} is the fastest", f"sudo nvpmodel -m {number}")
    else:
        yield Finding("power", "ok", f"mode {board.power_mode}")
    least, most = board.gpu_least_mhz, board.gpu_most_mhz
    if least and most and least < most:
        found = f"the GPU's clock moves between {least:.0f} and {most:.0f} MHz; measurements will vary"
        yield Finding("clocks", "note", found, "sudo jetson_clocks")
    elif most:
        yield Finding("clocks", "ok", f"the GPU stays at {most:.0f} MHz")


def _tensorrt(machine: Machine) -> Iterator[Finding]:
    for found in machine.tensorrts:
        mismatch = wheel_problem(machine, found)
        if found.version is None:
            told = f"{found.flavour} is installed but does not load: {found.problem}"
            yield Finding("tensorrt", "missing", told, mends.broken_tensorrt(machine, found))
        elif mismatch:
            yield Finding("tensorrt", "missing", mismatch, mends.replace_wheel(machine, found))
        elif found.flavour == "tensorrt-rtx" and not machine.nvidia.gpus:
            yield Finding("tensorrt", "ok", f"{found.label}: builds engines here, runs none without a GPU")
        else:
            yield Finding("tensorrt", "ok", found.label)
    if any(found.flavour == "tensorrt" for found in machine.tensorrts):
        return
    if machine.system_tensorrt:
        yield Finding("tensorrt", "missing", hidden(machine), mends.show_system_tensorrt(machine))
    elif not machine.tensorrts:
        if machine.nvidia.gpus or machine.jetson:
            yield Finding("tensorrt", "missing", "not installed; engines need it", mends.tensorrt(machine))
        else:
            told = "not installed; tensorrt-rtx builds engines without a GPU"
            yield Finding("tensorrt", "note", told, mends.tensorrt(machine, "tensorrt-rtx"))


def _onnxruntime(machine: Machine) -> Iterator[Finding]:
    runtime = machine.onnxruntime
    if runtime is None:
        yield Finding("onnxruntime", "missing", "not installed; bundles need it on the CPU", mends.extra("cpu"))
        return
    names = " and ".join(f"{package.name} {package.version}" for package in runtime.packages)
    if len(runtime.packages) > 1:
        told = f"{names} are both installed and overwrite each other's files"
        yield Finding("onnxruntime", "missing", told, mends.one_onnxruntime(machine))
    elif runtime.problem:
        told = f"{names or 'onnxruntime'} does not load: {runtime.problem}"
        name = runtime.packages[0].name if runtime.packages else "onnxruntime"
        again = mends.AGAIN if runtime.problem.startswith(NO_ANSWER) else f"pip install --force-reinstall {name}"
        yield Finding("onnxruntime", "missing", told, again)
    elif _numbers(runtime.version or "") < _LEAST_ORT:
        least = ".".join(map(str, _LEAST_ORT))
        name = runtime.packages[0].name if runtime.packages else "onnxruntime"
        yield Finding("onnxruntime", "note", f"{runtime.version}; {least} is tried", f"pip install '{name}>={least}'")
    else:
        yield Finding("onnxruntime", "ok", names or f"{runtime.version} in {runtime.place}")


def _providers(machine: Machine) -> Iterator[Finding]:
    runtime = machine.onnxruntime
    if runtime is None or runtime.version is None:
        return
    found = ", ".join(runtime.providers) or "none"
    if "CPUExecutionProvider" not in runtime.providers:
        yield Finding("providers", "missing", f"{found}; the one for the CPU is not among them", mends.extra("cpu"))
    elif runtime.unusable:
        yield _unusable(machine, runtime)
    elif any(package.name == "onnxruntime-gpu" for package in runtime.packages) and "CUDA" not in found:
        yield Finding("providers", "note", f"{found}; onnxruntime-gpu is installed but CUDA is not among them")
    else:
        yield Finding("providers", "ok", found)


def _unusable(machine: Machine, runtime: OnnxRuntime) -> Finding:
    """Of the providers that do not load the last, which the others are built on."""
    name, why = runtime.unusable[-1]
    usable = ", ".join(one for one in runtime.providers if one not in dict(runtime.unusable))
    mend = mends.providers(machine, why) if name.startswith("CUDA") and machine.nvidia.gpus else None
    lacks = mend not in (None, mends.AGAIN)
    return Finding("providers", "missing" if lacks else "note", f"{usable}; {name} does not load: {why}", mend)


def _packages(machine: Machine) -> Iterator[Finding]:
    lacks = _absent(machine, _RUN)
    mend = "pip install --force-reinstall edgeprune"
    yield Finding("run", "missing", f"without {lacks}", mend) if lacks else Finding("run", "ok", "all packages")
    for subject, names, mend in (
        ("build", _BUILD, mends.build_tools(machine)),
        ("export", _EXPORT, mends.extra("export")),
    ):
        lacks = _absent(machine, names)
        yield Finding(subject, "note", f"without {lacks}", mend) if lacks else Finding(subject, "ok", "all packages")


def _absent(machine: Machine, names: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if machine.version(name) is None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
