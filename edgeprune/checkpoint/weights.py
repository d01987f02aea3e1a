"""The tensors of a checkpoint under one spelling, whichever of its spellings the files use.

Opens every header up front, so that a missing or cut shard is found before any work is done; reads tensors
one by one and keeps none. Knows the names, not the architecture: what a model needs, the caller says.

    file (transformers 4)                    file (transformers 5)                 here
    language_model.model.layers.0...         model.language_model.layers.0...      decoder.layers.0...
    model.layers.0... (Qwen2.5-VL)           model.language_model.layers.0...      decoder.layers.0...
    language_model.lm_head.weight            lm_head.weight                        lm_head.weight
    vision_tower.vision_model.encoder...     model.vision_tower.encoder...         vision.encoder...
    visual.blocks.0... (Qwen2.5-VL)          model.visual.blocks.0...              vision.blocks.0...
    image_tower.vision_model.encoder...      model.image_tower.encoder...          image_tower.encoder...
    video_tower.vision_model.encoder...      model.video_tower.encoder...          video_tower.encoder...
    multi_modal_projector.linear_1...        model.multi_modal_projector...        projector.linear_1...
    image_newline                            model.image_newline                   image_newline
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.checkpoint.shard import Entry, Shard, open_shard
from edgeprune.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

_PREFIXES = (  # after a leading "model." is gone; longest first
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "decoder."),
    ("language_model.", "decoder."),
    ("vision_tower.vision_model.", "vision."),
    ("vision_tower.", "vision."),
    ("visual.", "vision."),
    ("image_tower.vision_model.", "image_tower."),
    ("image_tower.", "image_tower."),
    ("video_tower.vision_model.", "video_tower."),
    ("video_tower.", "video_tower."),
    ("multi_modal_projector.", "projector."),
    ("image_newline", "image_newline"),
)
_BARE = ("model.embed_tokens.", "model.layers.", "model.norm.")
"""Of a decoder that a file does not set apart from the rest of the model."""


def canonical(name: str) -> str:
    """The spelling used here for a name in a file; a name of no known part comes back unchanged."""
    rest = name.removeprefix("model.")
    for prefix, replacement in _PREFIXES:
        if rest.startswith(prefix):
            return replacement + rest.removeprefix(prefix)
    return f"decoder.{rest}" if name.startswith(_BARE) else name


class Weights:
    """The tensors of a checkpoint.

    A checkpoint with tied embeddings stores no ``lm_head.weight``, and none is made up here.

    Args:
        folder: a directory with ``model.safetensors``, or ``model.safetensors.index.json`` and its shards.

    Raises:
        CheckpointError: a file is missing or damaged, or two tensors have the same canonical name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, tuple[Shard, str]] = {}
        for shard in _open_shards(folder):
            for name in shard.entries:
                key = canonical(name)
                if key in self._places:
                    other = self._places[key]
                    raise CheckpointError(
                        f"{folder}: {name!r} in {shard.path.name} and {other[1]!r} in {other[0].path.name} "
                        f"are both {key!r}"
                    )
                self._places[key] = (shard, name)

    @property
    def folder(self) -> Path:
        """The checkpoint's directory."""
        return self._folder

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of all tensors, sorted."""
        return tuple(sorted(self._places))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        entries = (shard.entries[name] for shard, name in self._places.values())
        return sum(entry.end - entry.begin for entry in entries)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions as stored: ``[outputs, inputs]`` for a linear layer.

        Raises:
            CheckpointError: there is no such tensor.
        """
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """The stored dtype by torch's name, for example ``"float16"``.

        Raises:
            CheckpointError: there is no such tensor.
        """
        return self._entry(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor (CPU, dtype as stored, memory of its own); nothing else is held.

        Raises:
            CheckpointError: there is no such tensor, or its file changed since it was opened.
        """
        self.missing([name])
        shard, stored = self._places[name]
        return shard.read(stored)

    def missing(self, required: Iterable[str]) -> None:
        """Raises CheckpointError that names the first of the required tensors that is not there."""
        absent = [name for name in required if name not in self._places]
        if absent:
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            raise CheckpointError(f"{self._folder} lacks the tensor {absent[0]!r}{more}, which the model needs")

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises CheckpointError where a tensor is not there or has another shape."""
        stored = self.shape(name)
        if stored != shape:
            raise CheckpointError(
                f"{self._folder}: the tensor {name!r} has shape {list(stored)}, by config.json {list(shape)}"
            )

    def _entry(self, name: str) -> Entry:
        self.missing([name])
        shard, stored = self._places[name]
        return shard.entries[stored]


def _open_shards(folder: Path) -> list[Shard]:
    if (folder / _SINGLE).is_file():  # wins over an index, as in transformers
        return [open_shard(folder / _SINGLE)]
    if not (folder / _INDEX).is_file():
        raise CheckpointError(f"{folder} holds neither {_SINGLE} nor {_INDEX}")
    weight_map = _read_index(folder / _INDEX)
    shards = {file: _open_named(folder, file) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file].entries:
            raise CheckpointError(f"{folder / file} lacks the tensor {name!r} that {_INDEX} places there")
    return list(shards.values())


def _open_named(folder: Path, file: str) -> Shard:
    if Path(file).name != file or not file.endswith(".safetensors"):
        raise CheckpointError(f"{folder / _INDEX} names {file!r}; expected a .safetensors file beside it")
    if not (folder / file).is_file():
        raise CheckpointError(f"{folder / file} is missing, though {_INDEX} names it; download it again")
    return open_shard(folder / file)


def _read_index(path: Path) -> dict[str, str]:
    try:
        index: Any = json.loads(path.read_text(encoding="utf-8"))
        weight_map = index["weight_map"]
        sound = all(isinstance(file, str) for file in weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: no JSON object with a weight_map ({error})") from error
    if not sound or not weight_map:
        raise CheckpointError(f"{path} is damaged: weight_map must map tensor names to file names")
    return dict(weight_map)
