"""Tensors under one spelling, read one by one; files that are damaged or missing are found at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgeprune.checkpoint.shard import DTYPES, open_shard
from edgeprune.checkpoint.weights import Weights, canonical
from edgeprune.errors import CheckpointError
from tools.random_checkpoint import SHAPES, parameters, write_checkpoint


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "decoder.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "decoder.layers.0.mlp.up_proj.weight"),
        ("model.language_model.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ("language_model.model.norm.weight", "decoder.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("model.vision_tower.vision_model.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("model.vision_tower.pre_layrnorm.bias", "vision.pre_layrnorm.bias"),
        ("multi_modal_projector.linear_1.weight", "projector.linear_1.weight"),
        ("model.multi_modal_projector.linear_1.weight", "projector.linear_1.weight"),
        ("image_newline", "image_newline"),
        ("model.image_newline", "image_newline"),
        ("image_tower.vision_model.pre_layrnorm.bias", "image_tower.pre_layrnorm.bias"),
        ("model.video_tower.pre_layrnorm.bias", "video_tower.pre_layrnorm.bias"),
        ("vision_tower.encoder.layer.0.lambda_1", "vision.encoder.layer.0.lambda_1"),
        ("visual.blocks.0.norm1.weight", "vision.blocks.0.norm1.weight"),
        ("model.visual.merger.ln_q.weight", "vision.merger.ln_q.weight"),
        ("model.layers.0.mlp.up_proj.weight", "decoder.layers.0.mlp.up_proj.weight"),
        ("model.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ("model.norm.weight", "decoder.norm.weight"),
        ("layers.0.weight", "layers.0.weight"),
        ("model.connector.weight", "model.connector.weight"),
    ],
)
def test_canonical_names(stored: str, name: str) -> None:
    assert canonical(stored) == name


@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen2", "tiny-llama3"])
def test_every_tensor_is_the_one_of_transformers(tmp_path: Path, shape: str) -> None:
    from transformers import LlavaForConditionalGeneration

    weights = Weights(write_checkpoint(shape, tmp_path, dtype="fp16", max_shard_bytes=40_000))
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    expected = {canonical(name): tensor for name, tensor in model.state_dict().items()}
    if SHAPES[shape].decoder.tie_word_embeddings:
        assert "lm_head.weight" not in weights
        del expected["lm_head.weight"]
    assert set(weights.names) == set(expected)
    for name, tensor in expected.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert weights.dtype(name) == "float16"
        assert weights.tensor(name).equal(tensor)
    assert weights.nbytes == sum(tensor.nbytes for tensor in expected.values())


def test_what_transformers_saves_reads_the_same(tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    ours = Weights(write_checkpoint("tiny", tmp_path / "a"))
    LlavaForConditionalGeneration.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    theirs = Weights(tmp_path / "b")
    assert ours.names == theirs.names
    assert all(ours.tensor(name).equal(theirs.tensor(name)) for name in ours.names)


def test_the_newer_spelling_reads_the_same(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    ours = Weights(write_checkpoint("tiny", tmp_path / "a"))
    newer = {
        re.sub(r"^model\.language_model\.lm_head", "lm_head", f"model.{name}")
        .replace("language_model.model.", "language_model.")
        .replace("vision_tower.vision_model.", "vision_tower."): tensor
        for name, tensor in load_file(tmp_path / "a" / "model.safetensors").items()
    }
    assert "model.language_model.layers.0.mlp.up_proj.weight" in newer
    (tmp_path / "b").mkdir()
    save_file(newer, tmp_path / "b" / "model.safetensors")
    theirs = Weights(tmp_path / "b")
    assert ours.names == theirs.names
    assert all(ours.tensor(name).equal(theirs.tensor(name)) for name in ours.names)


def test_a_tensor_outlives_its_file_and_is_writable(tmp_path: Path) -> None:
    weights = Weights(write_checkpoint("tiny", tmp_path))
    tensor = weights.tensor("lm_head.weight")
    before = tensor.clone()
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert tensor.equal(before)
    tensor.zero_()


def test_no_shard_stays_mapped_or_open(tmp_path: Path) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    weights = Weights(write_checkpoint("tiny", tmp_path))
    tensors = [weights.tensor(name) for name in weights.names]
    assert "model.safetensors" not in Path("/proc/self/maps").read_text()
    assert not [link for link in Path("/proc/self/fd").iterdir() if "model.safetensors" in _target(link)]
    assert len(tensors) == len(list(parameters(SHAPES["tiny"])))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # the descriptor that listed the folder
        return ""


def test_every_dtype_of_the_format_that_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.ones(2, 3).to(getattr(torch, name)) for name, _ in DTYPES.values()}
    tensors |= {"scalar": torch.tensor(7.0), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    for name, tensor in tensors.items():
        assert weights.tensor(name).equal(tensor)
        assert weights.tensor(name).dtype == tensor.dtype


def test_missing_names_the_first(tmp_path: Path) -> None:
    weights = Weights(write_checkpoint("tiny", tmp_path))
    weights.missing(["lm_head.weight"])
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'decoder\.x' \(and 1 more\)"):
        weights.missing(["lm_head.weight", "decoder.x", "decoder.y"])
    for read in (weights.tensor, weights.shape, weights.dtype):
        with pytest.raises(CheckpointError, match="lacks the tensor 'absent'"):
            read("absent")


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        Weights(tmp_path)


def test_two_names_that_mean_the_same(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    names = ("lm_head.weight", "language_model.lm_head.weight")
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"are both 'lm_head\.weight'"):
        Weights(tmp_path)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    write_checkpoint("tiny", tmp_path, max_shard_bytes=100_000)
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{lost.name} is missing"):
        Weights(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"weight_map": []}', "is damaged"),
        ('{"weight_map": {}}', "weight_map must map"),
        ('{"weight_map": {"a": 1}}', "weight_map must map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "expected a .safetensors file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "expected a .safetensors file beside it"),
        ('{"weight_map": {"a": "model.bin"}}', "expected a .safetensors file beside it"),
        (
            '{"weight_map": {"a": "one.safetensors"}}',
            "lacks the tensor 'a' that model.safetensors.index.json",
        ),
    ],
)
def test_an_index_that_is_damaged(tmp_path: Path, index: str, message: str) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"b": torch.zeros(1)}, tmp_path / "one.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        Weights(tmp_path)


def _file(header: Any, data: bytes = b"", text: bytes | None = None) -> bytes:
    written = json.dumps(header).encode() if text is None else text
    return len(written).to_bytes(8, "little") + written + data


def _tensor(shape: Any, offsets: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no safetensors file"),
        (b"1234567", "is no safetensors file"),
        (b"\xff" * 16, "is no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is no safetensors file"),
        (_file({}, text=b"{nonsense"), "damaged header"),
        (_file([]), "damaged header"),
        (_file({}, text=b"[" * 100_000), "damaged header"),
        (_file({"a": {}}), "damaged header: 'dtype'"),
        (_file(_tensor([1], [0, 4], "F4"), bytes(4)), "dtype 'F4' is not read"),
        (_file(_tensor([2], [0, 4]), bytes(4)), r"4 bytes cannot be \[2\] of float32"),
        (_file(_tensor([-1], [0, 4]), bytes(4)), "whole numbers"),
        (_file(_tensor([True], [0, 4]), bytes(4)), "whole numbers"),
        (_file(_tensor([1], [4, 8]), bytes(8)), "'a' starts at byte"),
        (_file(_tensor([4], [0, 16]), bytes(15)), "is truncated"),
        (_file(_tensor([4], [0, 16]), bytes(17)), "is longer than its header says"),
        (_file(_tensor([1], [0, 4]) | {"b": _tensor([1], [0, 4])["a"]}, bytes(4)), "'b' starts at byte"),
    ],
)
def test_a_shard_that_is_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Weights(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_shard_cut_after_it_was_opened(tmp_path: Path) -> None:
    weights = Weights(write_checkpoint("tiny", tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read: the file ends"):
        for name in weights.names:
            weights.tensor(name)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        weights.tensor("lm_head.weight")


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        open_shard(tmp_path / "absent.safetensors")
