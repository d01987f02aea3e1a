"""config.json as it lies on the disk, and with what it leaves out filled in by transformers.

The file is foreign: keys that mean nothing here are passed over, keys that would change the numbers and are not carried
are refused by name. Code that a checkpoint brings along (``auto_map``) is never imported. Knows no family.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import CheckpointError, MissingExtra, UnsupportedModel

_PARTS = ("vision_config", "text_config")
_TOKENS = ("image_token_index", "image_token_id", "video_token_index", "video_token_id")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ``path`` is a checkpoint's config.json or another file of it.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not a checkpoint: it holds no {path.name}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(raw).__name__}")
    return raw


def part(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object inside config.json; empty where there is none.

    Raises:
        CheckpointError: something else stands there.
    """
    found = raw.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {key} must be an object, not {found!r}")
    return found


def with_defaults(path: Path, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration with transformers' defaults filled in, as plain values.

    The class is named here, not looked up by AutoConfig, so ``auto_map`` has no say.

    Args:
        path: config.json, for messages.
        raw: its content.
        name: transformers' class, such as ``"LlavaConfig"``.

    Raises:
        CheckpointError: transformers refuses the values.
        MissingExtra: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "export", "reading a checkpoint") from error
    try:
        config: Any = getattr(transformers, name).from_dict(copy.deepcopy(dict(raw)))
        filled = dict(config.to_dict())
        filled |= {key: getattr(config, key) for key in _TOKENS if hasattr(config, key)}
        return filled | {key: getattr(config, key).to_dict() for key in _PARTS if hasattr(config, key)}
    except Exception as error:  # validation errors of transformers have no common class over its versions
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not describe a {name.removesuffix('Config')} model: {reason}") from error


def check_unquantized(path: Path, raw: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel for weights that are stored in fewer bits."""
    for holder in (raw, raw.get("text_config") or {}):
        if holder.get("quantization_config") is not None:
            raise UnsupportedModel(
                f"{path}: quantization_config is not supported; export the checkpoint it was quantized from"
            )


def declared_dtype(raw: Mapping[str, Any]) -> str | None:
    """``dtype`` since transformers 5, ``torch_dtype`` before; of the model, else of its decoder."""
    for holder in (raw, raw.get("text_config") or {}):
        value = holder.get("dtype") or holder.get("torch_dtype")
        if value:
            return str(value).removeprefix("torch.")
    return None


def square(path: Path, key: str, value: Any) -> int:
    """The side of a square, from one number or two equal ones.

    Raises:
        UnsupportedModel: two different numbers.
    """
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise unsupported(path, key, value, ("a square",))
    return int(sides.pop())


def token_id(path: Path, key: str, value: Any, vocab: int) -> int:
    """A placeholder's id.

    Raises:
        CheckpointError: it is outside the vocabulary.
    """
    if not 0 <= value < vocab:
        raise CheckpointError(f"{path}: {key} {value} is outside the vocabulary of {vocab}")
    return int(value)


def one_of(path: Path, key: str, value: Any, known: tuple[str, ...]) -> str:
    """The value.

    Raises:
        UnsupportedModel: it is none of ``known``.
    """
    if value not in known:
        raise unsupported(path, key, value, known)
    return str(value)


def unsupported(path: Path, key: str, value: Any, known: tuple[str, ...], hint: str = "") -> UnsupportedModel:
    """The error that names a key, its value and what would be carried."""
    expected = " or ".join(known) + hint
    return UnsupportedModel(f"{path}: {key} = {value!r} is not supported; expected {expected}")
