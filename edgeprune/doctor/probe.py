"""``python -m edgeprune.doctor.probe WHAT``: imports one library and says in one line of JSON how that went.

It runs in a process of its own, because a library that is broken may take its process along. It judges nothing.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeprune.errors import BackendError
from edgeprune.nvidia.library import MODULES, open_library
from edgeprune.power.command import Output

KINDS = ("onnxruntime", "providers", "tensorrt", "tensorrt-rtx", "cuda")
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
"""Of ONNX Runtime; the first is built on the second."""

_RELU = bytes.fromhex(
    "08083a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f"
    "0a0179120a0a08080112040a0208014202100d"
)
"""An ONNX model, y = Relu(x) over one fp32 number, in opset 13."""


def parse(output: Output | None) -> dict[str, Any]:
    """What a probe said; where it said nothing, ``{"installed": True, "problem": why}``."""
    if output is None:
        return {"installed": False}
    lines = output.text.splitlines()
    try:
        told = json.loads(lines[-1]) if output.code == 0 and lines else None
    except ValueError:  # a library wrote over the line
        told = None
    return told if isinstance(told, dict) else {"installed": True, "problem": output.complaint or "no answer"}


def _onnxruntime() -> dict[str, Any]:
    if find_spec("onnxruntime") is None:
        return {"installed": False}
    try:
        import onnxruntime

        place = str(Path(onnxruntime.__file__).parent)
        providers = list(onnxruntime.get_available_providers())
        return {"installed": True, "version": onnxruntime.__version__, "place": place, "providers": providers}
    except Exception as error:  # a folder that two packages wrote to fails in any way
        return {"installed": True, "problem": _line(error)}


def _providers() -> dict[str, Any]:
    """Make a session of every GPU provider: which ones there are says only what the package was built with."""
    if find_spec("onnxruntime") is None:
        return {"installed": False}
    try:
        import onnxruntime

        from edgeprune.runtime.ort import preload

        there = [name for name in GPU_PROVIDERS if name in onnxruntime.get_available_providers()]
        if there:
            preload(onnxruntime)
        problems = {name: _provider(onnxruntime, name) for name in there}
        return {"installed": True, "unusable": {name: why for name, why in problems.items() if why}}
    except Exception as error:  # as above
        return {"installed": True, "problem": _line(error)}


def _provider(onnxruntime: Any, name: str) -> str | None:
    """Why a provider does not work; None where it does."""
    from edgeprune.runtime.ort import load_problem

    try:
        session = onnxruntime.InferenceSession(_RELU, providers=[name], enable_fallback=0)
    except Exception as error:  # its exceptions have no common base but this
        return load_problem(name) or _line(error)
    return None if name in session.get_providers() else load_problem(name) or "ONNX Runtime leaves it out"


def _tensorrt(flavour: str) -> dict[str, Any]:
    (known,) = (name for name in MODULES if name == flavour)
    spec = find_spec(MODULES[known])
    if spec is None:
        return {"installed": False}
    place = str(Path(spec.origin).parent) if spec.origin else None
    try:
        version = open_library(known).version
    except BackendError as error:
        return {"installed": True, "place": place, "problem": _line(error.__cause__ or error)}
    return {"installed": True, "place": place, "version": list(version)}


def _cuda() -> dict[str, Any]:
    runtime: Any = None
    for name in ("cuda.bindings.runtime", "cuda.cudart"):  # the second is its name before 12.6
        try:
            runtime = import_module(name)
            break
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "cuda":
                return {"installed": True, "problem": _line(error)}
        except Exception as error:  # what a missing shared library raises differs between versions
            return {"installed": True, "problem": _line(error)}
    if runtime is None:
        return {"installed": False}
    told: dict[str, Any] = {"installed": True, "gpus": []}
    try:
        told["runtime"] = int(_checked(runtime.cudaRuntimeGetVersion()))
        told["driver"] = int(_checked(runtime.cudaDriverGetVersion()))
        for index in range(int(_checked(runtime.cudaGetDeviceCount()))):
            told["gpus"].append(_gpu(runtime, index))
    except Exception as error:  # without a driver some versions raise where others return a code
        told["problem"] = _line(error)
    return told


def _gpu(runtime: Any, index: int) -> dict[str, Any]:
    facts = _checked(runtime.cudaGetDeviceProperties(index))
    name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
    return {
        "name": name.strip("\0 "),
        "capability": f"{facts.major}.{facts.minor}",
        "memory_bytes": int(facts.totalGlobalMem),
        "bus": f"{facts.pciDomainID:08x}:{facts.pciBusID:02x}:{facts.pciDeviceID:02x}.0",
    }


def _checked(result: Any) -> Any:
    code, *values = result
    if int(code) != 0:
        raise RuntimeError(getattr(code, "name", str(code)))
    return values[0]


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__


if __name__ == "__main__":
    what = sys.argv[1]
    asked = {"onnxruntime": _onnxruntime, "providers": _providers, "cuda": _cuda}
    found = asked[what]() if what in asked else _tensorrt(what)
    print("\n" + json.dumps(found))
