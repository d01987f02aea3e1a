"""The random checkpoints are what transformers takes them for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.random_checkpoint import DTYPES, FAMILIES, main, write_checkpoint

TINY = [name for name in FAMILIES if name.split("-")[0] == "tiny"]
LLAVA = [name for name in TINY if FAMILIES[name].__name__.endswith(".llava")]


def _loaded(path: Path) -> Any:
    """Hugging Face's model of a checkpoint, whose tensors are all that it needs and no more."""
    from transformers import AutoModelForImageTextToText

    loaded: Any = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("shape", TINY)
def test_transformers_loads_it_without_a_difference_and_runs_it(tmp_path: Path, shape: str) -> None:
    import torch
    from PIL import Image

    from edgeprune.eager.model import EagerModel

    model = _loaded(write_checkpoint(shape, tmp_path))
    assert type(model).__name__ == json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    eager = EagerModel(tmp_path, "fp32")
    inputs = eager.prompt(Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)), "What?")
    assert int(eager.visual(inputs["input_ids"]).sum()) == len(eager.see(inputs).rows)
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("shape", LLAVA)
def test_the_processor_loads_and_writes_llavas_prompt(tmp_path: Path, shape: str) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(write_checkpoint(shape, tmp_path))
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(question, add_generation_prompt=True)
    assert text == "USER: <image>\nWhat? ASSISTANT:"
    model = FAMILIES[shape].SHAPES[shape]
    inputs = processor(images=Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)), text=text, return_tensors="pt")
    patches = (model.tower.image_size // model.tower.patch_size) ** 2
    assert int((inputs["input_ids"] == model.image_token_id).sum()) == patches


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
    ("shape", "billions"),
    [
        ("tinyllama-1.1b", 1.41),
        ("llava-1.5-7b", 7.06),
        ("llava-1.5-13b", 13.35),
        ("llava-next-7b", 7.06),
        ("llava-next-mistral-7b", 7.57),
        ("video-llava-7b", 7.37),
        ("onevision-0.5b", 0.89),
        ("onevision-7b", 8.03),
        ("qwen2.5-vl-3b", 3.75),
        ("qwen2.5-vl-7b", 8.29),
    ],
)
def test_real_shapes_have_the_real_number_of_parameters(shape: str, billions: float) -> None:
    """As the hub counts those of the checkpoints that they are named after."""
    module = FAMILIES[shape]
    count = sum(parameter.elements for parameter in module.parameters(module.SHAPES[shape]))
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
