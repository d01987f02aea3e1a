"""Runs a function in a process of its own: native code that crashes there is a reason, not the end of the run.

A process also builds with one TensorRT only, so trying two takes two.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any, TypeVar

from edgeprune.errors import BackendError, EdgePruneError

T = TypeVar("T")


def in_child(function: Callable[..., T], *arguments: object, limit: float | None = None) -> T:
    """Call a function of a module in a new process.

    Args:
        function: found by its name in its module, as pickle does.
        arguments: values that pickle can carry, as must be the result.
        limit: seconds after which the process is killed; None waits.

    Raises:
        BackendError: the function failed, with its own words; or the process died or ran out of time.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()  # ours: the end of the child's must be the end of the pipe
    try:
        if not receiver.poll(limit):
            process.kill()
            raise BackendError(f"stopped after {limit:.0f} s, the end of the time limit")
        done, value = receiver.recv()
    except EOFError as error:
        process.join()
        raise BackendError(f"its process died: {_ending(process.exitcode)}") from error
    finally:
        process.join()
        receiver.close()
    if not done:
        raise BackendError(value)
    result: T = value
    return result


def reason(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, EdgePruneError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _work(sender: Any, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        outcome: tuple[bool, object] = (True, function(*arguments))
    except Exception as error:  # whatever a native library's bindings raise is what is to be reported
        outcome = (False, reason(error))
    sender.send(outcome)
    sender.close()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
