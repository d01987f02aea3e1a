"""``--clip``: CDPruner exported, added, run and verified on the command line, and every way to get it wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.checkpoint.source import resolve
from edgeprune.cli.export import _all
from tests.cli.conftest import Command
from tests.clip import make_cdpruner, make_clip
from tests.conftest import MakeCheckpoint, MakeOnce
from tools.random_checkpoint import Tower, write_clip


@pytest.fixture(scope="session")
def clip(make_once: MakeOnce) -> Path:
    return make_clip(make_once)


@pytest.fixture(scope="session")
def bundle(make_once: MakeOnce, make_checkpoint: MakeCheckpoint) -> Path:
    return make_cdpruner(make_once, make_checkpoint)


def test_run_and_verify(edgeprune: Command, bundle: Path, checkpoint_tiny: Path, clip: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (120, 90), (40, 180, 90)).save(image)
    for method in ("cdpruner", "cdpruner-llm"):
        result = edgeprune("run", bundle, image, "What is it?", "--method", method, "--keep", 12, "--json")
        assert result.code == 0, result.err
        (stage,) = json.loads(result.out.splitlines()[-1])["stages"]
        assert (stage["cut"], stage["visual_tokens_out"], len(stage["kept"])) == ("projected", 12, 12)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    assert edgeprune("verify", copy, "--model", checkpoint_tiny, "-q").line == (
        "edgeprune: error: the bundle's text tower was made from a folder named 'clip-legacy'; give --clip FOLDER"
    )
    assert edgeprune("verify", copy, "--model", checkpoint_tiny, "--clip", clip, "-q").code == 0


def test_add(edgeprune: Command, bundle_tiny: Path, checkpoint_tiny: Path, clip: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle_tiny, tmp_path / "bundle")
    words = ("export", copy, "--add-method", "cdpruner", "--model", checkpoint_tiny, "--json", "-q")
    assert "--clip openai/clip-vit-large-patch14-336" in edgeprune(*words).line
    result = edgeprune(*words, "--clip", clip)
    assert result.code == 0, result.err
    assert json.loads(result.out)["added"] == ["prepare_cdpruner", "kernel_cdpruner", "prune_cdpruner_projected"]


def test_what_cannot_be_exported(edgeprune: Command, checkpoint_tiny: Path, clip: Path, tmp_path: Path) -> None:
    wide = write_clip(tmp_path / "wide", Tower(48, 2, 2, 64, image_size=112, patch_size=14))
    bare = shutil.copytree(clip, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    pickled = shutil.copytree(clip, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")

    def export(method: str, *words: object) -> tuple[int, str]:
        result = edgeprune("export", checkpoint_tiny, "--method", method, "-o", tmp_path / "out", "-q", *words)
        assert not (tmp_path / "out").exists()
        return result.code, result.line.removeprefix("edgeprune: error: ")

    code, line = export("cdpruner")
    assert code == 2
    assert line.startswith("this model cannot carry cdpruner: it reads the question with CLIP's text tower")
    assert line.endswith("or take cdpruner-llm")
    assert export("cdpruner", "--clip", wide) == (
        2,
        "this model cannot carry cdpruner: the encoder of --clip wide is 48 wide, the model's own 32; give the CLIP "
        "model that the encoder comes from",
    )
    assert export("cdpruner", "--clip", bare) == (
        1,
        f"{bare} holds no tokenizer: expected tokenizer.json, or vocab.json and merges.txt",
    )
    assert "CLIPModel.from_pretrained" in export("cdpruner", "--clip", pickled)[1]
    assert "model_type = 'llava' is no CLIP model" in export("cdpruner", "--clip", checkpoint_tiny)[1]
    assert "no directory '/nowhere'" in export("cdpruner", "--clip", "/nowhere")[1]
    assert export("fastv", "--clip", clip) == (2, "--clip clip-legacy has no effect: fastv needs no CLIP checkpoint")


def test_all_leaves_it_out_without_the_checkpoint(
    checkpoint_tiny: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = resolve(str(checkpoint_tiny))
    assert "cdpruner" not in _all("llava", source, "image", None)
    assert "left out: cdpruner, it reads the question with CLIP's text tower" in capfd.readouterr().err
    assert "cdpruner" in _all("llava", source, "image", resolve(str(clip)))
