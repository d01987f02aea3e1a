"""The sizes in a config.json, read without transformers, with its defaults for what the file leaves out.

The LLaVA files on the hub leave out most of the decoder. Only what a cost is counted from is read; whether the model
can be exported is for ``checkpoint``, which fills the gaps through transformers itself and refuses more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.bundle.prompt import Medium
from edgeprune.bundle.sizes import ClassRow, Decoder, Vision
from edgeprune.errors import BundleError, CheckpointError, UnsupportedModel
from edgeprune.estimate.shape import Shape
from edgeprune.recipes.architecture import supported_class

Sizes = Mapping[str, int | None]

_LLAMA: Sizes = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # as many as there are heads
    "head_dim": None,  # width over heads
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
_QWEN2: Sizes = {
    **_LLAMA,
    "num_key_value_heads": 32,
    "intermediate_size": 22016,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
_DECODERS: dict[str, Sizes] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072},
    "qwen2": _QWEN2,
    "qwen2_5_vl_text": {
        **_QWEN2,
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 29568,
        "vocab_size": 152064,
    },
}
"""transformers' configurations of these kinds."""
_CLIP: Sizes = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
}
_LARGE: Sizes = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP ViT-L/14 at 336 pixels."""
_QWEN_NAMES = {"num_hidden_layers": "depth", "num_attention_heads": "num_heads"}
"""What Qwen2.5-VL's encoder calls them."""


@dataclass(frozen=True)
class Build:
    """How a family is put together.

    Attributes:
        family: its name, which is transformers' ``model_type``, too.
        towers: transformers' kinds of encoders that it has, each with its defaults.
        without: the encoder where the file says nothing of one.
        decoders: kinds of decoders, the first where the file says nothing of it.
        layer: of the encoder, whose output is read, where the file does not say.
        class_row, merge: as of ``Vision``.
        kind, runs: of a large picture or of a video.
        medium: what it is mostly asked about.
        newline: whether there are newline rows.
        limit: of tiles, beyond which rows are blended; None where they never are.
    """

    family: str
    towers: Mapping[str, Sizes]
    without: Sizes
    decoders: tuple[str, ...]
    layer: int = -2
    class_row: ClassRow = "apart"
    merge: int = 1
    kind: str = "fixed"
    runs: int = 1
    medium: Medium = "image"
    newline: bool = False
    limit: int | None = None


_SO400M: Sizes = {
    **_LARGE,
    "hidden_size": 1152,
    "num_hidden_layers": 26,
    "intermediate_size": 4304,
    "image_size": 384,
}
_INTERNVIT: Sizes = {**_LARGE, "image_size": 448}
_QWEN_TOWER: Sizes = {**_LARGE, "hidden_size": 3584, "num_hidden_layers": 32, "intermediate_size": 3420}
_LLAMAS = ("llama", "mistral", "qwen2")
BUILDS = {
    "LlavaForConditionalGeneration": Build("llava", {"clip_vision_model": _CLIP}, _LARGE, _LLAMAS),
    "LlavaNextForConditionalGeneration": Build(
        "llava_next", {"clip_vision_model": _CLIP}, _LARGE, _LLAMAS, kind="tiles", runs=5, newline=True
    ),
    "VideoLlavaForConditionalGeneration": Build(
        "video_llava",
        {"clip_vision_model": _CLIP},
        {**_LARGE, "image_size": 224},
        _LLAMAS,
        class_row="inside",
        kind="frames",
        runs=8,
        medium="video",
    ),
    "LlavaOnevisionForConditionalGeneration": Build(
        "llava_onevision",
        {"siglip_vision_model": {**_CLIP, "patch_size": 16}},
        _SO400M,
        ("qwen2", "llama", "mistral"),
        layer=-1,
        class_row="none",
        kind="tiles",
        runs=10,
        newline=True,
        limit=9,
    ),
    "Qwen2_5_VLForConditionalGeneration": Build(
        "qwen2_5_vl",
        {"qwen2_5_vl": _QWEN_TOWER, "qwen2_5_vl_vision": _QWEN_TOWER},
        _QWEN_TOWER,
        ("qwen2_5_vl_text", "qwen2_5_vl", "qwen2"),
        layer=-1,
        class_row="none",
        merge=2,
        kind="native",
    ),
    "InternVLForConditionalGeneration": Build(
        "internvl",
        {"internvl_vision": _INTERNVIT},
        _INTERNVIT,
        ("qwen2", "llama"),
        layer=-1,
        merge=2,
        kind="tiles",
        runs=13,
    ),
}
"""By Hugging Face's class. The runs are those of a large square picture, or of a video."""
NATIVE_TOKENS = 1296
"""Visual tokens of a picture of 1,008 x 1,008 pixels that keeps its size."""


def read_shape(path: Path) -> Shape:
    """The sizes of a model, and what a large picture, or a video, becomes.

    Args:
        path: a config.json; the name of its folder becomes the model's.

    Raises:
        CheckpointError: the file cannot be read, is no JSON, or holds something that is no size.
        UnsupportedModel: another kind of model.
    """
    raw = _read(path)
    build = BUILDS[supported_class(path, raw)]
    tower, text = _part(path, raw, "vision_config"), _part(path, raw, "text_config")
    if build.family == "qwen2_5_vl" and "text_config" not in raw:
        text = {key: value for key, value in raw.items() if key in _LLAMA}  # as its first files have it
    kind = text.get("model_type", build.decoders[0])
    if kind not in build.decoders:
        raise _unsupported(path, "text_config.model_type", kind, " or ".join(build.decoders))
    try:
        vision = _vision(path, build, tower, raw.get("vision_feature_layer", build.layer))
        sizes = _DECODERS.get(kind, _DECODERS["qwen2_5_vl_text"])
        decoder = _decoder(_filled(path, "text_config", text, sizes), 3 if build.kind == "native" else 1)
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return _with_input(build, Shape(path.parent.resolve().name, vision, decoder))


def _with_input(build: Build, shape: Shape) -> Shape:
    """What a large picture, or a video, becomes."""
    rows = NATIVE_TOKENS if build.kind == "native" else build.runs * shape.vision.tokens
    if build.newline:  # one behind every line of the square mosaic; the whole picture has none
        side = round((build.runs - 1) ** 0.5)
        rows += side * (shape.vision.grid or (0, 0))[0]
    return replace(
        shape,
        runs=build.runs,
        rows=rows,
        family=build.family,
        kind=build.kind,
        medium=build.medium,
        blends=build.limit is not None,
        newline=build.newline,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(raw).__name__}")
    return raw


def _part(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = raw.get(key)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise CheckpointError(f"{path}: {key} must be an object, not {part!r}")
    return part


def _filled(path: Path, part: str, given: Mapping[str, Any], defaults: Sizes) -> dict[str, Any]:
    """The sizes that the defaults name, each as the file has it, else by default."""
    sizes = {key: given.get(key, value) for key, value in defaults.items()}
    for key, value in sizes.items():
        may_lack = value is None and defaults[key] is None
        if not may_lack and (type(value) is not int or value < 1):
            raise CheckpointError(f"{path}: {part}.{key} = {value!r}; expected a whole number from 1 on")
    return sizes


def _vision(path: Path, build: Build, tower: Mapping[str, Any], layer: object) -> Vision:
    first = next(iter(build.towers))
    kind = tower.get("model_type", first)
    if kind not in build.towers:
        raise _unsupported(path, "vision_config.model_type", kind, " or ".join(build.towers))
    if build.kind == "native":
        named = {name: tower[theirs] for name, theirs in _QWEN_NAMES.items() if theirs in tower}
        tower = {**tower, **named}
    given = {key: value[0] if isinstance(value, list) and value else value for key, value in tower.items()}
    t = _filled(path, "vision_config", given, build.towers[kind] if tower else build.without)
    layers, merge = t["num_hidden_layers"], build.merge
    if type(layer) is not int or layer == 0 or not -layers <= layer <= layers:
        raise _unsupported(path, "vision_feature_layer", layer, f"1..{layers} or -{layers}..-1")
    side = t["image_size"] // t["patch_size"] // merge
    return Vision(
        grid=None if build.kind == "native" else (side, side),
        width=t["hidden_size"] * merge**2,
        layers=layer if layer > 0 else layers + layer + 1,
        heads=t["num_attention_heads"],
        intermediate=t["intermediate_size"],
        patch=t["patch_size"],
        class_row=build.class_row,
        merge=merge,
    )


def _decoder(text: Mapping[str, Any], axes: int) -> Decoder:
    heads = text["num_attention_heads"]
    return Decoder(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        heads=heads,
        kv_heads=text["num_key_value_heads"] or heads,
        head_dim=text["head_dim"] or text["hidden_size"] // heads,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
        axes=axes,
    )


def _unsupported(path: Path, key: str, value: object, expected: str) -> UnsupportedModel:
    return UnsupportedModel(f"{path}: {key} = {value!r} is not supported; expected {expected}")
