"""`edgeprune show` on a small bundle: tables, JSON, the picture, and one clear line for every wrong input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def refuse(edgeprune: Command, code: int, *arguments: object) -> str:
    result = edgeprune("show", *arguments)
    assert result.code == code, result
    assert result.out == ""
    return result.line


def test_tables_and_answers(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    words = [bundle_tiny, photo, "what color?", "--keep", 32, "--method", "visiondrop", "--max-new-tokens", 3]
    result = edgeprune("show", *words)
    assert result.code == 0
    lines = result.out.splitlines()
    assert "running visiondrop" in result.err
    (line,) = [line for line in lines if line.split()[:5] == ["visiondrop", "48,", "35,", "26,", "19"]]
    assert line.split()[-2].endswith("%")
    (baseline,) = [line for line in lines if line.startswith("(all patches)")]
    assert baseline.split()[-6:] == ["64", "0", baseline.split()[-4], "0.500", "100.0%", "-"]
    assert any(line.startswith("attention: of the class row in layer ") for line in lines)
    assert any(line.startswith("visiondrop: ") for line in lines)
    assert max(map(len, lines[: lines.index("")])) < 100


def test_json_and_picture(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept.png"
    words = [bundle_tiny, photo, "what color?", "--keep", "50%", "--max-new-tokens", 2, "-q", "-o", target, "--json"]
    result = edgeprune("show", *words)
    assert result.code == 0
    found = json.loads(result.out.splitlines()[-1])
    assert (found["grid"], found["picture"]) == ([8, 8], str(target))
    assert found["attention_output"].startswith("cls_attention_")
    assert found["unpruned"]["vertical_centre"] == pytest.approx(0.5)
    assert found["unpruned"]["attention_share"] == pytest.approx(1)
    names = [one["method"] for one in found["methods"]]
    assert "visiondrop" in names
    for one in found["methods"]:
        measures, answer = one["measures"], one["answer"]
        assert measures["tokens"] == [stage["visual_tokens_out"] for stage in answer["stages"]]
        assert 0 <= measures["gap_first"] <= measures["gap_last"] < 8
        assert 0 <= measures["vertical_centre"] <= 1
        assert 0 < measures["attention_share"] < 1
        assert set(one["overlap"]) == set(names) - {one["method"]}
        assert all(0 <= share <= 1 for share in one["overlap"].values())
    with Image.open(target) as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_every_metric_is_explained(edgeprune: Command) -> None:
    out = edgeprune("show", "--help").out
    for metric in ("tokens", "gap", "diversity", "centre", "attention", "overlap", "TTFT"):
        assert f"\n  {metric} " in out


# --- wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "20", "--method", "nosuch"], "unknown method 'nosuch'; methods: "),
        (["--keep", "20", "--method", "fastv"], "the bundle has no method 'fastv'; it has visiondrop"),
        (["--keep", "20", "--method", "visiondrop,visiondrop"], "names a method twice"),
        (["--keep", "20", "--method", "visiondrop,"], "unknown method ''; methods: "),
        (["--keep", "7", "--method", "visiondrop"], "visiondrop cannot keep 7 visual tokens"),
        (["--keep", "abc"], "'abc' is no budget"),
        (["--keep", "all"], "prunes nothing"),
        (["--keep", "20", "-o", "kept.xyz"], "pictures are not written as '.xyz'"),
    ],
)
def test_options(edgeprune: Command, bundle_tiny: Path, photo: Path, options: list[str], message: str) -> None:
    assert message in refuse(edgeprune, 2, bundle_tiny, photo, "what?", *options)


def test_questions(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    assert "the question is empty" in refuse(edgeprune, 2, bundle_tiny, photo, " ", "--keep", 20)


def test_a_picture_that_is_not_there(edgeprune: Command, bundle_tiny: Path, tmp_path: Path) -> None:
    words = [bundle_tiny, tmp_path / "nowhere.png", "what?", "--keep", 20]
    assert "nowhere.png is not found" in refuse(edgeprune, 1, *words)


def test_outputs_that_cannot_be_written(edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path) -> None:
    words = [bundle_tiny, photo, "what?", "--keep", 20, "-o"]
    assert "there is no folder" in refuse(edgeprune, 1, *words, tmp_path / "nowhere/kept.png")
    (tmp_path / "folder.png").mkdir()
    assert "it is a folder" in refuse(edgeprune, 1, *words, tmp_path / "folder.png")


def test_outputs_that_would_overwrite_an_input(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    before = photo.read_bytes()
    words = [bundle_tiny, photo, "what?", "--keep", 20, "-o"]
    assert f"-o {photo} would overwrite an input" in refuse(edgeprune, 2, *words, photo)
    assert "would overwrite an input" in refuse(edgeprune, 2, *words, bundle_tiny / "kept.png")
    assert photo.read_bytes() == before


def test_without_matplotlib(
    edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "matplotlib" else find(name, *more)
    )
    line = refuse(edgeprune, 1, bundle_tiny, photo, "what?", "--keep", 20, "-o", tmp_path / "kept.png")
    assert "pip install 'edgeprune[show]'" in line


def test_methods_out_of_reach_are_left_out_only_by_default(edgeprune: Command, photo: Path, tmp_path: Path) -> None:
    """The choice alone, on a stand-in for the bundle: FastV cannot go below what its two whole layers see."""
    from types import SimpleNamespace

    from edgeprune.budget.schedule import Site, make_schedule
    from edgeprune.cli.show import _choose
    from edgeprune.errors import BudgetError

    sites = {"visiondrop": Site(576, ("vision", 8, 16, 24), 32), "fastv": Site(576, (2,), 32)}

    def plan(keep: str, name: str, tokens: int, runs: int) -> tuple[object, object]:
        assert (tokens, runs) == (576, 1)
        return sites[name], make_schedule(name, int(keep), sites[name])

    methods = [SimpleNamespace(name=name) for name in sites]
    vlm: object = SimpleNamespace(plan=plan, manifest=SimpleNamespace(methods=methods))
    chosen, left_out = _choose(vlm, "16", None, (576, 1))  # type: ignore[arg-type]
    assert chosen == ("visiondrop",)
    assert left_out == {"fastv": "fastv cannot keep 16 visual tokens on average; it reaches 37..575 of 576, or all"}
    with pytest.raises(BudgetError, match="fastv cannot keep 16"):
        _choose(vlm, "16", "visiondrop,fastv", (576, 1))  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="visiondrop cannot keep 2"):
        _choose(vlm, "2", None, (576, 1))  # type: ignore[arg-type]
