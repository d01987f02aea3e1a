"""Sizes from config.json: the same as through transformers, gaps and all, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprune import demo
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.checkpoint.config import read_config
from edgeprune.errors import CheckpointError, UnsupportedModel
from edgeprune.estimate.config import read_shape
from tools.random_checkpoint import SHAPES, make_config

HUB: dict[str, Any] = {  # llava-hf/llava-1.5-7b-hf, as sparse as it was uploaded
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "model_type": "llava",
    "text_config": {"max_position_embeddings": 4096, "model_type": "llama", "vocab_size": 32064},
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
    "vision_feature_layer": -2,
}
BARE: dict[str, Any] = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
SPARSE: dict[str, dict[str, Any]] = {
    "hub": HUB,
    "nothing": {**BARE, "image_token_index": 31999},
    "no decoder": {key: value for key, value in HUB.items() if key != "text_config"} | {"image_token_index": 31999},
    "no tower": {key: value for key, value in HUB.items() if key != "vision_config"},
    "half a tower": {**HUB, "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 6}},
    "qwen2": {**HUB, "text_config": {"model_type": "qwen2"}},
    "other depth": {**HUB, "vision_feature_layer": 3},
    "grouped": {**HUB, "text_config": {"num_key_value_heads": 8, "head_dim": 64, "vocab_size": 32064}},
}


def write(folder: Path, raw: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def through_transformers(path: Path) -> tuple[Vision, Decoder]:
    config = read_config(path.parent)
    v, d, side = config.vision, config.decoder, config.vision.image_size // config.vision.patch_size
    vision = Vision((side, side), v.hidden, config.feature_layer + 1, v.heads, v.intermediate, v.patch_size)
    return vision, Decoder(d.layers, d.hidden, d.heads, d.kv_heads, d.head_dim, d.intermediate, d.vocab, d.context)


@pytest.mark.parametrize("name", SHAPES)
def test_as_transformers_reads_every_shape(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, make_config(SHAPES[name], "float32"))
    shape = read_shape(path)
    assert (shape.vision, shape.decoder) == through_transformers(path)
    assert shape.name == tmp_path.name


@pytest.mark.parametrize("name", SPARSE)
def test_as_transformers_fills_gaps(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, SPARSE[name])
    shape = read_shape(path)
    assert (shape.vision, shape.decoder) == through_transformers(path)


def test_a_linked_file_is_named_by_the_folder_that_it_is_asked_for_in(tmp_path: Path) -> None:
    """As in the hub's cache, where every file is a link to one with a hash for a name."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to(write(tmp_path / "blobs", HUB))
    assert read_shape(tmp_path / "model" / "config.json").name == "model"


def test_the_demo_model() -> None:
    path = demo.CHECKPOINT / "config.json"
    shape = read_shape(path)
    assert (shape.vision, shape.decoder) == through_transformers(path)
    assert shape.tokens == 576


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        ([], CheckpointError, "must hold a JSON object, not a list"),
        ({"model_type": "gpt2"}, UnsupportedModel, "model_type = 'gpt2' is not supported; supported: Llava"),
        ({"architectures": ["InternVLChatModel"]}, UnsupportedModel, "converted form, whose name ends in -hf"),
        ({"model_type": "qwen2_vl"}, UnsupportedModel, "resembles qwen2_5_vl, but is built otherwise; supported"),
        ({**HUB, "text_config": {"model_type": "gemma"}}, UnsupportedModel, "text_config.model_type = 'gemma'"),
        ({**HUB, "text_config": 3}, CheckpointError, "text_config must be an object, not 3"),
        ({**HUB, "text_config": {"hidden_size": "big"}}, CheckpointError, "text_config.hidden_size = 'big'; expected"),
        ({**HUB, "text_config": {"hidden_size": None}}, CheckpointError, "text_config.hidden_size = None; expected"),
        ({**HUB, "text_config": {"num_key_value_heads": 5}}, CheckpointError, "32 heads over 5 kv_heads"),
        ({**HUB, "vision_config": {"model_type": "siglip_vision_model"}}, UnsupportedModel, "'siglip_vision_model'"),
        ({**HUB, "vision_config": {"patch_size": 0}}, CheckpointError, "vision_config.patch_size = 0; expected"),
        ({**HUB, "vision_config": {"num_attention_heads": 5}}, CheckpointError, "width 768 over 5 heads"),
        ({**HUB, "vision_feature_layer": [-2, -5]}, UnsupportedModel, "vision_feature_layer = [-2, -5]"),
        ({**HUB, "vision_feature_layer": 25}, UnsupportedModel, "expected 1..24 or -24..-1"),
    ],
)
def test_refused_by_name(raw: object, kind: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        read_shape(write(tmp_path, raw))
    assert message in str(caught.value)
    assert type(caught.value) is kind


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_shape(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_shape(tmp_path / "config.json")
