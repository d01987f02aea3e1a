"""The files of a checkpoint's processor: its tokenizer, its own settings, and those of its image or video processor.

Tokenizers are loaded through transformers (locally, no code of the checkpoint). The rest is read as it lies on the
disk: transformers' video processors, and so the processors that have one, do not load without torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.errors import CheckpointError, MissingExtra

_NESTED = "processor_config.json"
_FILES = {"image": "preprocessor_config.json", "video": "video_preprocessor_config.json"}


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
        MissingExtra: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "export", "reading a checkpoint") from error
    try:
        with _quiet():
            load: Callable[..., Any] = transformers.AutoTokenizer.from_pretrained
            # Absolute, and so never ``org/name``, which transformers would look up on the hub where a file is missing.
            return load(str(folder.resolve()), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file surfaces as whatever its parser raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{folder}: no usable tokenizer: {reason}") from error


def settings(folder: Path) -> Mapping[str, Any]:
    """The processor's own settings; empty where there is no processor_config.json."""
    return _object(folder / _NESTED) if (folder / _NESTED).is_file() else {}


def pixel_settings(folder: Path, medium: str) -> tuple[str, Mapping[str, Any]]:
    """The settings of the image or the video processor, and the file they are from, for messages.

    Inside processor_config.json since transformers 5, which wins; in a file of their own before.

    Args:
        folder: the checkpoint's.
        medium: "image" or "video"; the video processor's, if it has none of its own, are the image processor's.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    nested = settings(folder)
    for kind in dict.fromkeys((medium, "image")):
        found = nested.get(f"{kind}_processor")
        if isinstance(found, dict):
            return f"{folder / _NESTED}", found
        if (folder / _FILES[kind]).is_file():
            return f"{folder / _FILES[kind]}", _object(folder / _FILES[kind])
    raise CheckpointError(f"{folder} does not say how pictures are prepared: it holds no {_FILES['image']}")


def templates(folder: Path, tokenizer: Any) -> Iterator[str]:
    """The chat templates of a checkpoint, in the order in which transformers prefers them."""
    json_file, jinja_file = folder / "chat_template.json", folder / "chat_template.jinja"
    holders = [
        settings(folder).get("chat_template"),
        _object(json_file).get("chat_template") if json_file.is_file() else None,
        jinja_file.read_text(encoding="utf-8") if jinja_file.is_file() else None,
        tokenizer.chat_template,
    ]
    for template in holders:
        found = template.get("default") if isinstance(template, dict) else template  # several, by name
        if isinstance(found, str) and found:
            yield found


def end_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end an answer: generation_config.json's, else the tokenizer's.

    Raises:
        CheckpointError: neither has one.
    """
    path = folder / "generation_config.json"
    ends = _object(path).get("eos_token_id") if path.is_file() else None
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise CheckpointError(f"{folder}: neither generation_config.json nor the tokenizer has eos_token_id")
    return tuple(ends) if isinstance(ends, list) else (ends,)


def _object(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object, but a {type(found).__name__}")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hushes what transformers logs, not what it warns."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
