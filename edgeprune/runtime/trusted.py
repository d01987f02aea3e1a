"""The ledger of plans that were built on this machine: one sha256 per line, outside of every bundle.

Plans are native code: ``run`` deserialises only what was built here, or what the user vouches for with
``--trust-plans``. The file is ``$XDG_STATE_HOME/edgeprune/plans`` (default ``~/.local/state``), readable and writable
by its owner alone. What is written here is believed; a bundle that is copied from elsewhere brings no ledger along.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeprune.errors import OutputError
from edgeprune.local import read_ours, state_folder


def ledger() -> Path:
    """Where the ledger is, or would be.

    Raises:
        OutputError: this user has no home directory.
    """
    return state_folder() / "plans"


def remember(sha256: str) -> None:
    """Enter a plan that was just built here.

    One write of one line to a file opened for appending: builders that write at once do not tear each other's lines.

    Args:
        sha256: of the plan, 64 hex digits.

    Raises:
        OutputError: the ledger cannot be written, or others may write to it.
    """
    path = ledger()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            os.fchmod(handle, 0o600)  # a file of somebody else refuses this
            os.write(handle, f"{sha256}\n".encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot enter the plan into {path}: {error.strerror or error}") from error


def is_known(sha256: str) -> bool:
    """Whether a plan was built here; no where the ledger is missing, unreadable, or open to other users."""
    try:
        lines = read_ours(ledger())
    except OutputError:
        return False
    return any(line.strip() == sha256.encode() for line in (lines or b"").splitlines())
