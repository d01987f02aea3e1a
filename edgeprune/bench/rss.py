"""Peak memory of a whole run, each in a process of its own.

It knows command lines and bytes; what the commands compute is their business.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeprune.bench.host import child_environment
from edgeprune.bench.measure import Task
from edgeprune.bench.report import Memory
from edgeprune.bundle.manifest import Graph, Manifest, MethodEntry
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BackendError

_HEADROOM = 400_000_000
_FACTOR = 1.3

# Linux hands a parent's peak down to a child across fork and exec, so a child of this process would be charged
# for the models loaded here. A small process in between starts it instead; ru_maxrss is in KiB, on macOS in bytes.
_LAUNCHER = """
import json, os, sys
devnull = os.open(os.devnull, os.O_WRONLY)
actions = [(os.POSIX_SPAWN_DUP2, devnull, 1)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(child, 0)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"code": os.waitstatus_to_exitcode(status), "peak": usage.ru_maxrss * unit}))
"""


def peak_rss(command: Sequence[str]) -> int:
    """The most resident memory a command ever had, in bytes; mapped files count as far as they were read.

    Args:
        command: absolute path of a program, and its arguments.

    Raises:
        BackendError: the command failed; the message is its last line on stderr.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, env=child_environment(), capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or ["no message"]
    if done.returncode:
        raise BackendError(f"{command[0]} cannot be started to measure its memory: {lines[-1]}")
    result = json.loads(done.stdout)
    if result["code"]:
        raise BackendError(f"{' '.join(command[:4])} ... exited with {result['code']} while measured: {lines[-1]}")
    peak: int = result["peak"]
    return peak


def chain_memory(name: str, bundle: Bundle, method: MethodEntry | None, keep: str, task: Task, threads: int) -> Memory:
    """Peak of ``edgeprune run`` at one budget."""
    options = ["--keep", keep, "--max-new-tokens", str(task.new_tokens), "--threads", str(threads), "--skip-hashes"]
    options += ["--method", method.name] if method else []
    words = [str(bundle.root), str(task.image), task.question]
    command = [sys.executable, "-m", "edgeprune", "run", *options, "--json", "--", *words]
    weights = sum(graph.data.bytes for graph in loaded_graphs(bundle.manifest, method) if graph.data)
    return Memory(
        variant=name,
        peak_bytes=peak_rss(command),
        weights_bytes=weights,
        mapped_bytes=bundle.manifest.embedding.bytes,
        target_bytes=round(_FACTOR * weights + _HEADROOM),
    )


def eager_memory(checkpoint: Path, dtype: str, task: Task, threads: int, weights_bytes: int) -> Memory:
    """Peak of Hugging Face's model on the same task; ``weights_bytes`` are its tensors in ``dtype``."""
    frames = 0 if task.frames is None else task.frames.count
    numbers = [str(number) for number in (task.new_tokens, threads, frames)]
    arguments = [str(checkpoint), dtype, str(task.image), task.question, *numbers]
    command = [sys.executable, "-m", "edgeprune.bench.eager_run", *arguments]
    return Memory(f"eager {dtype}", peak_rss(command), weights_bytes, 0, None)


def loaded_graphs(manifest: Manifest, method: MethodEntry | None) -> list[Graph]:
    """The graphs a run opens: all heavy ones, and the method's own."""
    own = set(method.graphs) if method else set()
    others = {name for entry in manifest.methods for name in entry.graphs} - own
    return [graph for graph in manifest.graphs if graph.name not in others]
