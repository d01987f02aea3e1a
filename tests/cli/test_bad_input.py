"""Every wrong input: one clear line, the right exit code, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from tools.random_checkpoint import write_checkpoint


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint("tiny", tmp_path / "checkpoint", max_shard_bytes=60_000)


# --- export: the checkpoint


def refuse_export(edgeprune: Command, model: object, tmp_path: Path, *options: object) -> str:
    before = sorted(tmp_path.iterdir())
    result = edgeprune("export", model, "--method", "visiondrop", "-o", tmp_path / "out", *options)
    assert result.code == 1, result
    assert result.out == ""
    assert sorted(tmp_path.iterdir()) == before
    return result.line


def test_not_a_checkpoint(edgeprune: Command, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "config.json" in refuse_export(edgeprune, tmp_path / "folder", tmp_path)


def test_no_such_model_suggests_a_recipe(edgeprune: Command, tmp_path: Path) -> None:
    line = refuse_export(edgeprune, "llava-1.5-7", tmp_path)
    assert line.endswith("no folder here and no hub id org/name; did you mean 'llava-1.5-7b'?")


def test_unsupported_architecture(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"], config["model_type"] = ["GPT2LMHeadModel"], "gpt2"
    (checkpoint / "config.json").write_text(json.dumps(config))
    line = refuse_export(edgeprune, checkpoint, tmp_path)
    assert "GPT2LMHeadModel" in line
    assert "LlavaForConditionalGeneration" in line


def test_missing_shard(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    shard = sorted(checkpoint.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refuse_export(edgeprune, checkpoint, tmp_path)


def test_corrupt_safetensors(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    shard = sorted(checkpoint.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in refuse_export(edgeprune, checkpoint, tmp_path)


def test_pickle_weights(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.glob("model*"):
        path.unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    line = refuse_export(edgeprune, checkpoint, tmp_path)
    assert "pytorch_model.bin" in line
    assert "safetensors" in line


# --- export: the words of the command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "visiondropp"], "unknown method 'visiondropp'; methods: "),
        (["--method", "visiondropp"], "; did you mean 'visiondrop'?"),
        (["--method", "visiondrop,"], "unknown method ''"),
        ([], "--method is missing: edgeprune export"),
        (["--method", "visiondrop", "--model", "."], "--model . has no effect without --add-method"),
        (["--method", "visiondrop,visiondrop"], "names a method twice"),
    ],
)
def test_methods(edgeprune: Command, checkpoint: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = edgeprune("export", checkpoint, "-o", tmp_path / "out", *options)
    assert result.code == 2
    assert message in result.line
    assert not (tmp_path / "out").exists()


def test_an_unknown_option_is_a_usage_error(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    result = edgeprune("export", checkpoint, "--method", "visiondrop", "-o", tmp_path / "out", "--fast")
    assert result.code == 2
    assert "No such option '--fast'" in result.line


def test_output_that_exists(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("keep me")
    assert "exists; give another -o, or --force" in refuse_export(edgeprune, checkpoint, tmp_path)
    assert "is no bundle and is not replaced" in refuse_export(edgeprune, checkpoint, tmp_path, "--force")
    assert (tmp_path / "out/mine").read_text() == "keep me"


# --- run: the bundle


def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def refuse_run(edgeprune: Command, code: int, *arguments: object) -> str:
    result = edgeprune("run", *arguments)
    assert result.code == code, result
    assert result.out == ""
    return result.line


def test_truncated_external_data(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    root = copy(bundle_tiny, tmp_path)
    data = root / "graphs/vision.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    assert "graphs/vision.onnx.data has" in refuse_run(edgeprune, 1, root, photo, "what?")


def test_damaged_weights(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    root = copy(bundle_tiny, tmp_path)
    data = bytearray((root / "graphs/project.onnx.data").read_bytes())
    data[100] ^= 1
    (root / "graphs/project.onnx.data").write_bytes(data)
    assert "project.onnx.data was changed or damaged" in refuse_run(edgeprune, 1, root, photo, "what?")


def test_a_graph_whose_data_lies_outside(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    """An honest hash over a hostile graph: its weights' location leaves the bundle."""
    import onnx

    from edgeprune.bundle import store

    root = copy(bundle_tiny, tmp_path)
    shutil.copy(root / "graphs/project.onnx.data", tmp_path / "secret")
    path = root / "graphs/project.onnx"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../secret"
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((root / "edgeprune.json").read_text())
    graph = next(graph for graph in manifest["graphs"] if graph["name"] == "project")
    graph["file"] |= {"bytes": path.stat().st_size, "sha256": store.sha256(path)}
    (root / "edgeprune.json").write_text(json.dumps(manifest))
    assert "keeps weights in '../../secret'" in refuse_run(edgeprune, 1, root, photo, "what?")


def test_not_a_bundle(edgeprune: Command, photo: Path, tmp_path: Path) -> None:
    assert "make one with edgeprune export" in refuse_run(edgeprune, 1, tmp_path, photo, "what?")


# --- run: the picture


def test_not_a_picture(edgeprune: Command, bundle_tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    assert "notes.png" in refuse_run(edgeprune, 1, bundle_tiny, path, "what?")
    assert "nowhere.png" in refuse_run(edgeprune, 1, bundle_tiny, tmp_path / "nowhere.png", "what?")


def test_truncated_picture(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:-2000])
    assert "photo.png" in refuse_run(edgeprune, 1, bundle_tiny, photo, "what?")


def test_decompression_bomb(edgeprune: Command, bundle_tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert "bomb.png" in refuse_run(edgeprune, 1, bundle_tiny, path, "what?")


@pytest.mark.parametrize("size", [(1, 1), (200_000, 10)])  # this model reads 112 pixels, not 336
def test_impossible_sizes(edgeprune: Command, bundle_tiny: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "odd.png"
    Image.new("RGB", size).save(path)
    assert str(size[0]) in refuse_run(edgeprune, 1, bundle_tiny, path, "what?")


# --- run: the question and the budget


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "the question is empty"),
        ("   ", "the question is empty"),
        ("<image>", "the question is empty"),
        ("<image> or <image>?", "the question names <image> 2 times and there is 1 picture: name each once, or none"),
        ("what </s> now", "'</s>'"),
        ("word " * 600, "above the model's context"),
    ],
)
def test_questions(edgeprune: Command, bundle_tiny: Path, photo: Path, question: str, message: str) -> None:
    assert message in refuse_run(edgeprune, 2, bundle_tiny, photo, question)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("0", "out of range; there are 64 visual tokens"),
        ("600", "out of range; there are 64 visual tokens"),
        ("7", "it reaches 13..42 of 64, or all"),
        ("50", "it reaches 13..42 of 64, or all"),
        ("abc", "expected a number of tokens (64), a percentage (11.1%), a paper's label (paper:128) or all"),
        ("paper:64", "its labels: none for 64 visual tokens"),
    ],
)
def test_budgets(edgeprune: Command, bundle_tiny: Path, photo: Path, keep: str, message: str) -> None:
    assert message in refuse_run(edgeprune, 2, bundle_tiny, photo, "what?", "--keep", keep)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "fastv"], "has no method 'fastv'; it has visiondrop"),
        (["--top-p", "0.5"], "--top-p has no effect at temperature 0"),
        (["--temperature", "-1"], "--temperature is -1.0"),
        (["--overlay", "kept.png"], "give --keep below all"),
        (["--overlay", "kept.xyz", "--keep", "20"], "pictures are not written as '.xyz'"),
    ],
)
def test_options(edgeprune: Command, bundle_tiny: Path, photo: Path, options: list[str], message: str) -> None:
    assert message in refuse_run(edgeprune, 2, bundle_tiny, photo, "what?", *options)


def test_an_overlay_without_a_folder(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere/kept.png"
    line = refuse_run(edgeprune, 1, bundle_tiny, photo, "what?", "--keep", 20, "--overlay", target)
    assert "there is no folder" in line


def test_pictures_that_do_not_match_the_question(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    line = refuse_run(edgeprune, 2, bundle_tiny, photo, photo, photo, "<image> or <image>?")
    assert "names <image> 2 times and there are 3 pictures: name each once, or none" in line
    line = refuse_run(edgeprune, 2, bundle_tiny, photo, photo, "is it <image>?", "--together")
    assert "names <image> 1 time and there are 2 pictures: name each once, or none" in line


def test_more_pictures_than_the_context_has_room_for(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    line = refuse_run(edgeprune, 2, bundle_tiny, *[photo] * 9, "which?", "--together")
    assert "the pictures 576 and the answer" in line and "above the model's context" in line


def test_a_video_for_a_model_of_pictures(edgeprune: Command, bundle_tiny: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypisom" + bytes(64))
    assert "clip.mp4 is a video, and this model takes pictures" in refuse_run(edgeprune, 1, bundle_tiny, clip, "what?")


def test_a_medium_that_the_family_does_not_take(edgeprune: Command, checkpoint: Path, tmp_path: Path) -> None:
    result = edgeprune("export", checkpoint, "--method", "visiondrop", "-o", tmp_path / "out", "--input", "video", "-q")
    assert result.code == 2
    assert "--input video: a model of the family llava takes image" in result.line
    assert not (tmp_path / "out").exists()


def test_a_question_without_a_picture(edgeprune: Command, bundle_tiny: Path) -> None:
    assert "expected IMAGE... QUESTION" in refuse_run(edgeprune, 2, bundle_tiny, "what?")


# --- words that would otherwise be ignored, and outputs that would destroy inputs


def test_a_method_without_a_budget(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    line = refuse_run(edgeprune, 2, bundle_tiny, photo, "what?", "--method", "visiondrop")
    assert "has no effect at --keep all" in line


def test_an_overlay_over_its_picture(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    before = photo.read_bytes()
    line = refuse_run(edgeprune, 2, bundle_tiny, photo, "what?", "--keep", 20, "--overlay", photo)
    assert "would overwrite an input" in line
    assert photo.read_bytes() == before


def test_more_threads_than_can_help(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    assert "--threads is 5000, expected 1.." in refuse_run(edgeprune, 2, bundle_tiny, photo, "what?", "--threads", 5000)


def test_a_picture_20000_wide_for_a_model_of_336(edgeprune: Command, bundle_demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "banner.png"
    Image.new("RGB", (20_000, 10)).save(path)
    assert "20000x10" in refuse_run(edgeprune, 1, bundle_demo, path, "what?")


def test_keys_and_schemas(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    root = copy(bundle_tiny, tmp_path)
    manifest = json.loads((root / "edgeprune.json").read_text())
    (root / "edgeprune.json").write_text(json.dumps(manifest | {"colour": 1}))
    assert "unknown key 'colour'" in refuse_run(edgeprune, 1, root, photo, "what?")
    (root / "edgeprune.json").write_text(json.dumps(manifest | {"schema": 99}))
    assert "schema 99 is newer" in refuse_run(edgeprune, 1, root, photo, "what?")
    (root / "edgeprune.json").write_text(json.dumps(manifest | {"schema": 3}))
    line = refuse_run(edgeprune, 1, root, photo, "what?")
    assert "schema 3 is no longer read; expected 4: export the model again" in line


def test_paths_and_links_that_leave_the_bundle(
    edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path
) -> None:
    root = copy(bundle_tiny, tmp_path)
    shutil.move(root / "tokenizer.json", tmp_path / "tokenizer.json")
    (root / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    assert "is a link that leaves the bundle" in refuse_run(edgeprune, 1, root, photo, "what?")
    manifest = json.loads((root / "edgeprune.json").read_text())
    manifest["tokenizer"]["path"] = "../tokenizer.json"
    (root / "edgeprune.json").write_text(json.dumps(manifest))
    assert "leaves the bundle" in refuse_run(edgeprune, 1, root, photo, "what?")


def test_a_missing_file(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    root = copy(bundle_tiny, tmp_path)
    (root / "embedding.npy").unlink()
    assert "embedding.npy is missing" in refuse_run(edgeprune, 1, root, photo, "what?")


def test_verify_asks_for_a_folder_it_cannot_know(edgeprune: Command, bundle_tiny: Path) -> None:
    result = edgeprune("verify", bundle_tiny, "-q")
    assert result.code == 2
    assert "made from a folder named 'tiny'; give --model FOLDER" in result.line


def test_a_failure_nobody_foresaw_is_one_line(
    edgeprune: Command, bundle_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("who knows")

    monkeypatch.setattr("edgeprune.bundle.store.open_bundle", fail)
    result = edgeprune("inspect", bundle_tiny)
    assert result.code == 1
    assert "internal error: RuntimeError: who knows; EDGEPRUNE_TRACEBACK=1" in result.line
