"""The plans of a bundle on disk: one folder per target under ``engines/``, each with its ``build.json``.

It reads and writes files; what they say is ``build``'s business, and whether a plan may be loaded the runtime's.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgeprune.bundle.build import FOLDER, NAME, Build, Plan
from edgeprune.errors import BundleError, OutputError

_LIMIT = 16 << 20
"""Bytes of build.json; that of forty graphs has 0.1 MB."""


def plan_folder(root: Path, key: str) -> Path:
    """Where the plans for a target lie; ``key`` is ``<target>@<stack>``."""
    return root / FOLDER / key


def built_keys(root: Path) -> tuple[str, ...]:
    """What plans were built for, sorted."""
    return tuple(sorted(path.parent.name for path in (root / FOLDER).glob(f"*/{NAME}")))


def read_build(folder: Path) -> Build:
    """Read ``build.json`` of a folder of plans; the plans themselves are not touched.

    Raises:
        BundleError: it is missing, leaves the folder, or breaks the specification.
    """
    path = folder / NAME
    if not path.is_file():
        raise BundleError(f"{folder} holds no plans: it has no {NAME}; build them with edgeprune build")
    try:
        if path.stat().st_size > _LIMIT:
            raise BundleError(f"{path} has {path.stat().st_size:,} bytes; expected at most {_LIMIT:,}")
        build = Build.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    for plan in build.plans:
        plan_path(folder, plan)
    return build


def plan_path(folder: Path, plan: Plan) -> Path:
    """Where a plan lies.

    Raises:
        BundleError: not in the folder, links resolved.
    """
    name = plan.file.path
    path = folder / name
    if Path(name).name != name or Path(os.path.realpath(path)).parent != Path(os.path.realpath(folder)):
        raise BundleError(f"{folder / NAME}: plan {name!r} does not lie in the folder itself")
    return path


def write_build(folder: Path, build: Build) -> None:
    """Replace ``build.json`` in one step.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_whole(folder / NAME, lambda path: path.write_text(build.to_json(), encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there when it is whole and on disk.

    Raises:
        OutputError: it cannot be written; what was there is untouched.
    """
    work: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        work = Path(name)
        os.close(handle)
        write(work)
        with work.open("rb") as stream:
            os.fsync(stream.fileno())
        work.chmod(0o644)  # temporary files are private
        work.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if work is not None:
            with contextlib.suppress(OSError):
                work.unlink(missing_ok=True)
