"""The tokenizer of a checkpoint, as the device needs it.

Read through transformers (locally, no code of the checkpoint) where the checkpoint has older files only. Applies
nothing: the runtime does, without transformers.
"""

from __future__ import annotations

from edgeprune.checkpoint.processor import load_tokenizer
from edgeprune.checkpoint.source import Source
from edgeprune.errors import CheckpointError


def tokenizer_files(source: Source) -> dict[str, bytes]:
    """The tokenizer as files of a bundle: ``{"tokenizer.json": ...}``.

    As the checkpoint has it, byte by byte; where it has older files only, converted by transformers.

    Raises:
        CheckpointError: no tokenizer, or one that has no fast form.
    """
    path = source.path / "tokenizer.json"
    if path.is_file():
        return {path.name: path.read_bytes()}
    tokenizer = load_tokenizer(source.path)
    backend = getattr(tokenizer, "backend_tokenizer", None)  # slow tokenizers have none
    if backend is None:
        raise CheckpointError(
            f"{source.path}: {type(tokenizer).__name__} has no tokenizer.json form; add one to the checkpoint"
        )
    return {path.name: backend.to_str().encode()}


def text_token_ids(source: Source) -> tuple[int, int, int]:
    """The ids that CLIP's tokenizer puts before a text, after it, and then up to a fixed length.

    Raises:
        CheckpointError: no tokenizer, or one without such tokens.
    """
    files = ("tokenizer.json", "vocab.json")  # without either, transformers would make up an empty tokenizer
    if not any((source.path / name).is_file() for name in files):
        raise CheckpointError(
            f"{source.path} holds no tokenizer: expected tokenizer.json, or vocab.json and merges.txt"
        )
    tokenizer = load_tokenizer(source.path)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, token in ids.items():
        if not isinstance(token, int):
            raise CheckpointError(
                f"{source.path}: the tokenizer has no {name}_token, which CLIP's texts are written with"
            )
    return ids["bos"], ids["eos"], ids["pad"]
