"""From the word a user wrote (a directory or a hub id) to a directory that holds a readable checkpoint.

Downloads through huggingface_hub, whose cache, offline switch and token apply (``HF_HOME``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``). Reads no weights and does not look inside config.json. Pickled weights are
never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import CheckpointError, MissingExtra, UsageError

HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "tokenizer*", "vocab*", "merges.txt")
"""What is downloaded of a hub repository."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine.

    Attributes:
        path: the directory with config.json and the safetensors files.
        id: the hub id (``org/name``), or the name of the directory: what a bundle records as its origin.
        revision: the commit hash of a hub checkpoint; None for a directory.
    """

    path: Path
    id: str
    revision: str | None

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id is empty")


def resolve(
    model: str, revision: str | None = None, *, quiet: bool = False, kind: str = "AutoModelForImageTextToText"
) -> Source:
    """Finds a checkpoint, downloading it where it is a hub id that is not in the cache yet.

    Args:
        model: a directory, or a hub id ``org/name``; a directory of that name wins.
        revision: a branch, tag or commit of a hub id; None means its main branch.
        quiet: whether to hide the download bars.
        kind: transformers' class of such a model, for the advice how to convert one.

    Raises:
        UsageError: a revision was given for a directory.
        CheckpointError: nothing there, not a checkpoint, weights only as pickle, or the hub did not deliver.
        MissingExtra: a hub id without huggingface_hub installed.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UsageError(f"revision {revision!r} applies to hub ids only, and {model!r} is a directory")
        source = Source(path=path, id=path.resolve().name or str(path), revision=None)
    elif path.exists():
        raise CheckpointError(f"{model!r} is a file; expected a checkpoint's directory or a hub id org/name")
    elif _HUB_ID.fullmatch(model):
        path = _download(model, revision, quiet)
        source = Source(path=path, id=model, revision=path.name if _COMMIT.fullmatch(path.name) else revision)
    else:
        raise CheckpointError(f"no directory {model!r}; expected a checkpoint directory or a hub id org/name")
    _check(source, kind)
    return source


def _check(source: Source, kind: str) -> None:
    if not (source.path / "config.json").is_file():
        raise CheckpointError(f"{source.path} is not a checkpoint: it holds no config.json")
    if any(source.path.glob("*.safetensors")) or (source.path / "model.safetensors.index.json").is_file():
        return
    pickles = sorted(found for pattern in _PICKLES for found in source.path.glob(pattern))
    if not pickles:  # of a hub id none are downloaded
        hub = source.revision is not None
        advice = (
            f"; if {source.id} has pickles only, take a revision with safetensors, or convert it with transformers: "
            f"{kind}.from_pretrained({source.id!r}).save_pretrained('converted')"
        )
        raise CheckpointError(
            f"{source.path} holds no weights: expected model.safetensors or its shards{advice if hub else ''}"
        )
    raise CheckpointError(
        f"{pickles[0]} is a pickle, which can run code when opened; only safetensors are read. "
        "If you trust it, convert it with transformers: "
        f"{kind}.from_pretrained({str(source.path)!r}).save_pretrained('converted')"
    )


def _download(model: str, revision: str | None, quiet: bool) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "export", f"downloading {model}") from error

    where = f"{model!r}" if revision is None else f"{model!r} at revision {revision!r}"
    try:
        with _bars(quiet):
            found = snapshot_download(model, revision=revision, allow_patterns=list(HUB_PATTERNS))
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"the hub has no {where}: check the branch, tag or commit") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{where} is gated: ask for access on its hub page, then run 'hf auth login' or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub shows no {where}: check the spelling; if private, run 'hf auth login' or set HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{model!r} is no valid hub id: {_first_line(error)}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(_unreachable(where, error)) from error
    except Exception as error:  # HTTP errors have no common class over the versions of huggingface_hub
        raise CheckpointError(f"could not download {where}: {_first_line(error)}") from error
    return Path(found)


def _unreachable(where: str, error: Exception) -> str:
    """The hub was not asked, or gave no answer, and the cache cannot serve instead."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"{where} is not (completely) in the cache, and HF_HUB_OFFLINE forbids a download: unset it"
    reason = _first_line(error.__cause__ or error)
    return f"could not reach the hub, and {where} is not (completely) in the cache: {reason}"


@contextmanager
def _bars(quiet: bool) -> Iterator[None]:
    import huggingface_hub.utils

    bars: Any = huggingface_hub.utils  # its names are public, but not marked as exported
    if not quiet or bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
