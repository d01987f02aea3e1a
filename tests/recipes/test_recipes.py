"""Recipes: those that come along load, and a file that says something unknown does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.errors import RecipeError
from edgeprune.recipes import find, model
from edgeprune.recipes.model import ModelRecipe


def _write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_recipes_that_come_along() -> None:
    assert len(model.names()) == 14
    for name in model.names():
        recipe = model.load(name)
        if name != "demo":  # which comes along whole
            assert recipe.vision is not None and recipe.decoder is not None and recipe.dtype == "fp16"
            assert recipe.revision is None
    assert model.load("demo").model == model.DEMO
    assert model.load("llava-1.5-7b") == ModelRecipe(
        name="llava-1.5-7b",
        model="llava-hf/llava-1.5-7b-hf",
        dtype="fp16",
        vision=Vision((24, 24), 1024, 23, 16, 4096, 14),
        decoder=Decoder(32, 4096, 32, 32, 128, 11008, 32064, 4096),
    )
    assert model.load("llava-1.5-13b").dtype == "fp16"


def test_recipe_folders_hold_data_only() -> None:
    for kind in find.KINDS:
        files = {path.name for path in find.folder(kind).iterdir()}
        assert "README.md" in files
        assert all(name == "README.md" or name.endswith((".toml", ".containerfile")) for name in files)


def test_the_readme_names_every_key() -> None:
    table = (find.folder("export") / "README.md").read_text(encoding="utf-8")
    written = tuple(line.split("`")[1] for line in table.splitlines() if line.startswith("| `"))
    assert written == model.KEYS


def test_lookup_prefers_the_folder_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "edgeprune" / "recipes"
    monkeypatch.setattr(find, "__file__", str(package / "find.py"))
    assert find.folder("export") == tmp_path / "site-packages" / "export"
    (package / "export").mkdir(parents=True)
    assert find.folder("export") == package / "export"


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
        model = "org/name"
        revision = "v2"
        family = "llava"
        dtype = "fp16"
        notes = "ours"
        [vision]
        grid = [4, 6]
        width = 8
        layers = 3
        heads = 2
        intermediate = 16
        patch = 14
        [decoder]
        layers = 4
        hidden = 8
        heads = 2
        kv_heads = 1
        head_dim = 4
        intermediate = 16
        vocab = 32
        context = 64
    """
    loaded = model.load(_write(tmp_path, text))
    sizes = (Vision((4, 6), 8, 3, 2, 16, 14), Decoder(4, 8, 2, 1, 4, 16, 32, 64))
    assert loaded == ModelRecipe("mine", "org/name", "v2", "llava", "fp16", "ours", *sizes)
    assert eval(repr(loaded)) == loaded


def test_a_directory_is_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert model.load(_write(tmp_path, 'model = "org/name"')).model == str(tmp_path / "org" / "name")
    assert model.load(_write(tmp_path, 'model = "./absent"')).model == str(tmp_path / "absent")
    assert model.load(_write(tmp_path, 'model = "org/other"')).model == "org/other"
    with pytest.raises(RecipeError, match="revision applies to hub ids only"):
        model.load(_write(tmp_path, 'model = "org/name"\nrevision = "main"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "a/b"', r"unknown key 'modle'; allowed: model, revision, .*did you mean 'model'\?"),
        ('model = "a/b"\nzzz = 1', r"unknown key 'zzz'; allowed: [^;]*$"),
        ('model = "a/b"\ncuts = [8]', r"unknown key 'cuts'; allowed: model, revision"),
        ("", "the key 'model' is missing"),
        ("model = 7", "model = 7; expected a text"),
        ('model = ""', "model = ''; expected a text that is not empty"),
        ('model = "a/b"\nrevision = ""', "revision = ''"),
        ('model = "a/b"\nrevision = 1', "revision = 1"),
        ('model = "demo"\nrevision = "main"', "revision applies to hub ids only"),
        ('model = "a/b"\nfamily = "qwen"', "family = 'qwen'; expected one of internvl, llava"),
        ('model = "a/b"\n[input]\nkind = "tiles"\nruns = 5\ntokens = 9', r"input = .*; expected \[vision\] and \[dec"),
        ('model = "a/b"\n[input]\nkind = "tiles"\nruns = 5', r"\[input\]: key 'tokens' is missing"),
        ('model = "a/b"\ndtype = "fp8"', "dtype = 'fp8'; expected one of fp32, fp16"),
        ('model = "a/b"\nnotes = []', r"notes = \[\]"),
        ("model = ", "is not TOML"),
    ],
)
def test_refuses(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(RecipeError, match=message) as caught:
        model.load(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_unknown_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"known: demo, internvl3-1b.*did you mean 'llava-1.5-7b'\?"):
        model.load("llava-1.5-7")
    with pytest.raises(RecipeError, match=r"no recipe file .*absent\.toml"):
        model.load(str(tmp_path / "absent.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="is not TOML"):
        model.load(str(binary))


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ValueError, match="kind 'models'"):
        find.folder("models")
