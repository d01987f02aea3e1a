"""The random checkpoints are what transformers takes them for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.random_checkpoint import DTYPES, SHAPES, main, parameters, write_checkpoint

TINY = [name for name in SHAPES if name.split("-")[0] == "tiny"]


@pytest.mark.parametrize("shape", TINY)
def test_transformers_loads_it_without_a_difference_and_runs_it(tmp_path: Path, shape: str) -> None:
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    write_checkpoint(shape, tmp_path)
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info

    processor = AutoProcessor.from_pretrained(tmp_path)
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(question, add_generation_prompt=True)
    assert text == "USER: <image>\nWhat? ASSISTANT:"
    picture = Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8))
    inputs = processor(images=picture, text=text, return_tensors="pt")
    tower = SHAPES[shape].tower
    patches = (tower.image_size // tower.patch_size) ** 2
    assert int((inputs["input_ids"] == SHAPES[shape].image_token_id).sum()) == patches
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_text_survives_the_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    write_checkpoint("tiny", tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Is it 7, or \n A+B?"
    ids = tokenizer.encode(text).ids
    assert ids[0] == 1  # <s>
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<image>", add_special_tokens=False).ids == [94]


def test_shards_hold_the_same_numbers_as_one_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = load_file(write_checkpoint("tiny", tmp_path / "whole", seed=3) / "model.safetensors")
    out = write_checkpoint("tiny", tmp_path / "shards", seed=3, max_shard_bytes=50_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 3
    assert files == sorted(set(index["weight_map"].values()))
    for name, file in index["weight_map"].items():
        assert load_file(out / file)[name].equal(whole[name])
    assert set(index["weight_map"]) == set(whole)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())


def test_the_seed_is_what_differs(tmp_path: Path) -> None:
    written = {
        name: (write_checkpoint("tiny", tmp_path / name, seed=seed) / "model.safetensors").read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    assert written["a"] == written["b"] != written["c"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_stored_and_declared(tmp_path: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    write_checkpoint("tiny", tmp_path, dtype=dtype)
    name = DTYPES[dtype][0]
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "model.safetensors").values()} == {f"torch.{name}"}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == name


@pytest.mark.parametrize(
    ("shape", "billions"), [("tinyllama-1.1b", 1.41), ("llava-1.5-7b", 7.06), ("llava-1.5-13b", 13.35)]
)
def test_real_shapes_have_the_real_number_of_parameters(shape: str, billions: float) -> None:
    count = sum(parameter.elements for parameter in parameters(SHAPES[shape]))
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


def test_refuses_unknown_names_and_full_directories(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown shape 'huge'"):
        write_checkpoint("huge", tmp_path)
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        write_checkpoint("tiny", tmp_path, dtype="int8")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_checkpoint("tiny", tmp_path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--shape", "tiny", "--dtype", "bf16", "--max-shard-size", "50KB", str(out)]
    main(arguments)
    assert len(list(out.glob("*.safetensors"))) > 1
    with pytest.raises(SystemExit):
        main(arguments)
    assert "not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--shape", "tiny", "--max-shard-size", "much", str(out)])
    assert "'much' is no size" in capsys.readouterr().err
