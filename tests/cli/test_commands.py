"""The commands on a small bundle: what they print, in words and in JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgeprune as api
from tests.cli.conftest import Command

FIELDS = [
    "text",
    "finish_reason",
    "method",
    "keep",
    "paper_label",
    "visual_tokens_average",
    "stages",
    "prompt_tokens",
    "generated_tokens",
    "token_ids",
    "ttft_ms",
    "ttft_predicted_ms",
    "itl_ms",
    "timings_ms",
    "backend",
    "dtype",
]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def test_run_streams_and_sums_up(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    result = edgeprune("run", bundle_tiny, photo, "what color?", "--keep", 32, "--max-new-tokens", 3)
    assert result.code == 0
    answer, summary = result.out.splitlines()
    assert answer
    assert summary.startswith("[visual tokens 64 > 48 > 35 > 26 > 19 (average 32.0) | TTFT ")
    assert summary.endswith(" tokens/s | ended by length]")


def test_run_json_has_the_stable_fields(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    result = edgeprune("run", bundle_tiny, photo, "what color?", "--keep", "50%", "--max-new-tokens", 3, "--json")
    answer = json.loads(result.out.splitlines()[-1])
    assert list(answer) == FIELDS
    assert answer["keep"] == 32
    assert answer["paper_label"] is None  # the papers' rows are of 576 patches
    assert answer["visual_tokens_average"] == 32
    assert answer["generated_tokens"] == len(answer["token_ids"]) == 3
    assert [stage["cut"] for stage in answer["stages"]] == ["vision", 1, 2, 3]
    assert set(answer["timings_ms"]) == {"preprocess", "vision", "prune", "project", "prefill", "decode"}
    alive = set(range(-1, 64))
    for stage, count in zip(answer["stages"], (48, 35, 26, 19), strict=True):
        assert len(stage["kept"]) == stage["visual_tokens_out"] == count
        assert stage["kept"] == sorted(set(stage["kept"]))
        assert set(stage["merged"]) <= set(stage["kept"]) <= alive
        alive = set(stage["kept"])
    assert answer["stages"][0]["kept"][0] == -1


def test_run_keep_all_has_no_stages(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    answer = json.loads(edgeprune("run", bundle_tiny, photo, "what?", "--max-new-tokens", 1, "--json").out)
    assert (answer["method"], answer["keep"], answer["stages"], answer["itl_ms"]) == (None, "all", [], None)
    assert answer["visual_tokens_average"] == 64


def test_run_several_pictures(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 40), "navy").save(other)
    words = [bundle_tiny, photo, other, "what?", "--keep", 20, "--max-new-tokens", 3]
    both = json.loads(edgeprune("run", *words, "--json").out)["answers"]
    alone = json.loads(edgeprune("run", bundle_tiny, other, *words[3:], "--json").out)
    assert both[1]["token_ids"] == alone["token_ids"]
    assert both[1]["stages"] == alone["stages"]
    assert both[0]["stages"] != both[1]["stages"]
    assert f"{other}: {both[1]['text']}" in edgeprune("run", *words).out.splitlines()


@pytest.fixture
def pair(photo: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two pictures that are not alike."""
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 40), "navy").save(other)
    return photo, other


def test_pictures_in_the_places_that_the_question_names(
    edgeprune: Command, bundle_tiny: Path, pair: tuple[Path, Path]
) -> None:
    """One prompt and one answer; their order counts, and so does where they stand."""

    def ask(*words: object) -> dict[str, Any]:
        result = edgeprune("run", bundle_tiny, *words, "--max-new-tokens", 3, "--json")
        found: dict[str, Any] = json.loads(result.out.splitlines()[-1])
        return found

    first, second = pair
    named = ask(first, second, "<image> or <image>?")
    assert list(named) == FIELDS
    assert named["visual_tokens_average"] == 128
    before = ask(first, second, "or ?", "--together")
    assert before["visual_tokens_average"] == 128
    text = named["prompt_tokens"] - 128
    assert text == ask(first, second, "<image> or <image>?", "--together")["prompt_tokens"] - 128
    assert named["token_ids"] != ask(second, first, "<image> or <image>?")["token_ids"]
    alone = ask(first, second, "or ?")["answers"]
    assert [answer["visual_tokens_average"] for answer in alone] == [64, 64]
    each = ask(first, second, "is it <image>?")["answers"]  # named once: of every prompt's picture
    assert [answer["visual_tokens_average"] for answer in each] == [64, 64]


def test_pruning_several_pictures_in_one_prompt(edgeprune: Command, bundle_tiny: Path, pair: tuple[Path, Path]) -> None:
    words = ["run", bundle_tiny, *pair, "<image> or <image>?", "--max-new-tokens", 2, "--keep"]
    answer = json.loads(edgeprune(*words, "50%", "--json").out.splitlines()[-1])
    assert answer["keep"] == 64
    first, *inside = answer["stages"]
    assert (first["visual_tokens_in"], first["visual_tokens_out"]) == (128, 96)  # 48 of either
    patches = [place for place in first["kept"] if place >= 0]
    assert sum(place < 64 for place in patches) == sum(place >= 64 for place in patches) == 47  # and two class rows
    assert first["kept"].count(-1) == 2
    alive = set(first["kept"])
    for stage in inside:
        assert len(stage["kept"]) == stage["visual_tokens_out"] < len(alive) + 1
        assert set(stage["kept"]) <= alive
        alive = set(stage["kept"])
    summary = edgeprune(*words, 64).out.splitlines()[-1]
    assert summary.startswith("[visual tokens 128 > 96 > ")


def test_run_overlay(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    words = ["what?", "--keep", 20, "--max-new-tokens", 1, "--overlay", tmp_path / "kept.png"]
    assert edgeprune("run", bundle_tiny, photo, *words).code == 0
    with Image.open(tmp_path / "kept.png") as picture:
        assert picture.size[0] > 500
    assert edgeprune("run", bundle_tiny, photo, photo, *words).code == 0
    assert (tmp_path / "kept-1.png").exists()
    assert (tmp_path / "kept-2.png").exists()
    (tmp_path / "kept.png").unlink()
    assert edgeprune("run", bundle_tiny, photo, photo, *words, "--together").code == 0
    with Image.open(tmp_path / "kept.png") as together:
        assert together.size != picture.size  # both pictures are on it


def test_sampling_is_repeatable(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    words = ["run", bundle_tiny, photo, "what?", "--max-new-tokens", 12, "--temperature", 5, "--json"]
    ids = [json.loads(edgeprune(*words, "--seed", seed).out)["token_ids"] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_inspect_draws_the_chain(edgeprune: Command, bundle_tiny: Path) -> None:
    out = edgeprune("inspect", bundle_tiny).out
    for part in ("8 x 8 patches = 64 visual tokens", "■ vision", "├─◇ prune_visiondrop_2", "■ segment_3_4", "4 layers"):
        assert part in out
    manifest = json.loads(edgeprune("inspect", bundle_tiny, "--json").out)
    assert manifest["schema"] == 4
    assert manifest["methods"][0]["name"] == "visiondrop"


def test_methods_are_added_in_place(
    edgeprune: Command, bundle_tiny: Path, checkpoint_tiny: Path, photo: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundle_tiny, tmp_path / "bundle"))
    words = ["export", bundle, "--add-method", "fastv", "--model", checkpoint_tiny]
    told = json.loads(edgeprune(*words, "--json", "-q").out)
    assert told["methods"] == ["fastv"]
    assert (told["added"], told["rewritten"], told["removed"]) == (["prune_fastv_1"], ["segment_0_1"], [])
    assert [graph["name"] for graph in told["graphs"]] == ["segment_0_1", "prune_fastv_1"]
    methods = json.loads(edgeprune("inspect", bundle, "--json").out)["methods"]
    assert [method["name"] for method in methods] == ["visiondrop", "fastv"]
    answer = edgeprune(
        "run", bundle, photo, "what?", "--keep", 30, "--method", "fastv", "--json", "--max-new-tokens", 2
    )
    assert json.loads(answer.out.splitlines()[-1])["method"] == "fastv"
    again = edgeprune(*words, "-q")
    assert again.code == 2
    assert "--add-method fastv: the bundle has it already; it has visiondrop, fastv" in again.line
    line = edgeprune("run", bundle, photo, "what?", "--keep", 30).line
    assert line.endswith("--method is needed with --keep 30: the bundle has visiondrop, fastv")


@pytest.mark.parametrize(
    "options", [("--force",), ("--dtype", "fp16"), ("-o", "out"), ("--method", "fastv"), ("--input", "image")]
)
def test_words_that_adding_has_no_use_for(edgeprune: Command, bundle_tiny: Path, options: tuple[str, ...]) -> None:
    result = edgeprune("export", bundle_tiny, "--add-method", "fastv", *options)
    assert (result.code, result.out) == (2, "")
    assert f"{options[0]} has no effect with --add-method" in result.line


def test_help_and_version(edgeprune: Command) -> None:
    for command in ("demo", "export", "inspect", "run", "show", "verify", "bench", "list"):
        assert command in edgeprune("--help").out
        assert edgeprune(command, "--help").out.startswith(f"Usage: edgeprune {command}")
    assert edgeprune("--version").out.startswith(f"edgeprune {api.__version__}")


def test_the_python_api(bundle_tiny: Path, photo: Path) -> None:
    with api.open(bundle_tiny) as vlm:
        answer = vlm.generate("what color?", images=[photo], keep=20, max_new_tokens=4)
        stream = vlm.stream("what color?", images=[str(photo)], keep=20, max_new_tokens=4)
        with pytest.raises(api.EdgePruneError, match="has not ended"):
            _ = stream.answer
        assert "".join(stream) == answer.text == stream.answer.text
        assert stream.answer.stages == answer.stages
        several = vlm.generate("<image> or <image>?", images=[photo, photo], max_new_tokens=1)
        assert several.visual_tokens_average == 2 * 64
        with pytest.raises(api.EdgePruneError, match="got no image, expected 1 or more"):
            vlm.generate("what?", images=[])
