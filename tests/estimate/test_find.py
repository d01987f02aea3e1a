"""What MODEL may be, and one clear line for what it may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune import demo
from edgeprune.errors import BundleError, CheckpointError, EdgePruneError, RecipeError, UnsupportedModel
from edgeprune.estimate.config import read_shape
from edgeprune.estimate.find import find_model
from edgeprune.recipes import model as recipes
from tools.random_checkpoint import SHAPES, make_config

SIZES = """
[vision]
grid = [24, 24]
width = 1024
layers = 23
heads = 16
intermediate = 4096
patch = 14
[decoder]
layers = 32
hidden = 4096
heads = 32
kv_heads = 32
head_dim = 128
intermediate = 11008
vocab = 32064
context = 4096
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_recipe_and_a_file_of_its_sizes_are_one_model(tmp_path: Path) -> None:
    recipe, sizes = find_model("llava-1.5-7b"), find_model(write(tmp_path, SIZES))
    assert (recipe.shape.vision, recipe.shape.decoder) == (sizes.shape.vision, sizes.shape.decoder)
    assert (recipe.shape.name, recipe.dtype) == ("llava-1.5-7b", "fp16")
    assert (sizes.shape.name, sizes.dtype, sizes.shape.runs) == ("mine", None, 1)


def test_a_recipe_by_its_models_name() -> None:
    for name in recipes.names():
        model = recipes.load(name).model
        assert model == recipes.DEMO or find_model(model) == find_model(name)


def test_a_file_of_sizes_may_say_more(tmp_path: Path) -> None:
    more = 'name = "next"\nfamily = "llava_next"\ndtype = "int4"\nnotes = "5 crops"\n'
    found = find_model(write(tmp_path, f'{more}{SIZES}\n[input]\nkind = "tiles"\nruns = 5\ntokens = 2928\n'))
    assert (found.shape.name, found.shape.tokens, found.dtype) == ("next", 2928, "int4")
    assert (found.shape.runs, found.shape.given, found.shape.newline) == (5, 2880, True)


def test_the_demo_model() -> None:
    found = find_model("demo")
    assert found.shape.decoder == read_shape(demo.CHECKPOINT / "config.json").decoder
    assert found.shape.name == "demo"


def test_config_files_and_checkpoints(tmp_path: Path) -> None:
    word = write(tmp_path, json.dumps(make_config(SHAPES["tiny-gqa"], "float16")), "config.json")
    assert find_model(word) == find_model(str(tmp_path))
    assert find_model(word).shape.decoder.kv_heads == 2


def test_a_recipe_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", json.dumps(make_config(SHAPES["tiny"], "float16")), "config.json")
    found = find_model(write(tmp_path, 'model = "model"\ndtype = "fp32"'))
    assert (found.shape.name, found.shape.decoder.layers, found.dtype) == ("mine", 4, "fp32")


def test_bundles_by_their_manifest_alone(bundle_gqa: Path, tmp_path: Path) -> None:
    found = find_model(str(bundle_gqa))
    assert found.manifest is not None
    assert (found.dtype, found.shape.decoder) == ("fp32", found.manifest.decoder)
    lone = write(tmp_path, (bundle_gqa / "edgeprune.json").read_text(), "edgeprune.json")
    assert find_model(lone) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SIZES.replace("hidden = 4096\n", ""), "[decoder]: key 'hidden' is missing"),
        (SIZES.replace("patch = 14\n", ""), "[vision]: key 'patch' is missing"),
        (SIZES.split("[decoder]")[0], "the key 'decoder' is missing; expected a table: [decoder]"),
        (SIZES.replace("kv_heads", "kv_head"), "[decoder]: unknown key 'kv_head'; did you mean 'kv_heads'?"),
        (SIZES.replace("layers = 32", "layers = 0"), "expected sizes of 1 or more"),
        (SIZES.replace("width = 1024", 'width = "wide"'), "[vision].width is 'wide'; expected int"),
        ('nam = "x"\n' + SIZES, "unknown key 'nam'; allowed: vision, decoder, name"),
        ('dtype = "int3"\n' + SIZES, "unknown precision 'int3'"),
        ('family = "qwen"\n' + SIZES, "family = 'qwen'; expected one of internvl, llava"),
        (SIZES + '[input]\nkind = "tiles"\nruns = 0\ntokens = 9\n', "runs = 0, tokens = 9; expected 1 or more"),
        (SIZES + '[input]\nkind = "crops"\nruns = 1\ntokens = 9\n', "kind = 'crops'; expected one of fixed"),
        (SIZES + '[input]\nkind = "native"\nruns = 1\ntokens = 9\n', "expected kind 'native' where [vision] has no"),
        ("x[", "is not TOML"),
        ('model = "org/name"', "recipe mine has no [vision] and [decoder], and sizes are not downloaded"),
    ],
)
def test_bad_files_are_named_with_what_they_lack(text: str, message: str, tmp_path: Path) -> None:
    word = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        find_model(word)
    assert message in str(caught.value)
    assert "mine" in str(caught.value)


@pytest.mark.parametrize(
    ("word", "kind", "message"),
    [
        ("llava-1.5-7", CheckpointError, "did you mean 'llava-1.5-7b'?"),
        ("llava-hf/bakLlava-v1-hf", CheckpointError, "sizes are not downloaded: give the model's config.json"),
        ("llava-hf/llava-1.5-7b", CheckpointError, "; did you mean 'llava-hf/llava-1.5-7b-hf'?"),
        ("none.toml", CheckpointError, "there is no 'none.toml' here"),
        ("{folder}", CheckpointError, "holds neither edgeprune.json nor config.json"),
        ("{folder}/notes.txt", CheckpointError, "is no model: expected a .toml file of sizes"),
        ("{folder}/gpt/config.json", UnsupportedModel, "model_type = 'gpt2' is not supported"),
        ("{folder}/old", BundleError, "schema 1 is no longer read"),
    ],
)
def test_no_such_model(word: str, kind: type[EdgePruneError], message: str, tmp_path: Path) -> None:
    write(tmp_path, "", "notes.txt")
    for name, file, text in (
        ("gpt", "config.json", '{"model_type": "gpt2"}'),
        ("old", "edgeprune.json", '{"schema": 1}'),
    ):
        (tmp_path / name).mkdir()
        write(tmp_path / name, text, file)
    with pytest.raises(kind) as caught:
        find_model(word.format(folder=tmp_path))
    assert message in str(caught.value)
