"""A benchmark of a picture in tiles and of a video: what really enters, beside the encoder's share and the memory."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.bench.picture import look
from edgeprune.bench.run import Settings, run_bench
from edgeprune.bench.table import render_runs, render_text
from edgeprune.sweep.axes import Axes, make_cells
from edgeprune.sweep.kept import draw_kept
from tests.families.conformance.case import KINDS, MakeCase, noise

SETTINGS = Settings(
    threads=1,
    warmup=0,
    repeats=1,
    text_tokens=64,
    new_tokens=3,
    memory=False,
    progress=False,
    host_size=(64, 1),
    eager_dtypes=("fp32",),
    predict=False,
)


@pytest.mark.parametrize("name", ["llava_next", "video_llava"])
def test_tiles_and_frames(make_case: MakeCase, name: str) -> None:
    case = make_case(name)
    facts = case.vlm.manifest
    report = run_bench(
        case.vlm.bundle.root,
        case.checkpoint,
        keeps=("all", "64"),
        against="eager",
        methods=["visionzip"],
        settings=SETTINGS,
        check_hashes=False,
    )
    every, pruned, eager = report.variants
    assert report.conditions.runs == facts.image.most_runs > 1
    assert report.conditions.visual_tokens == facts.most_tokens
    assert every.tokens == eager.tokens == (facts.most_tokens,)
    assert sum(pruned.tokens) % facts.image.most_runs == 0  # as many of every run
    assert every.kv_bytes is not None and pruned.kv_bytes is not None and pruned.kv_bytes < every.kv_bytes
    assert 0 < every.vision_share < 1
    prefill = next(c for c in report.comparisons if (c.stage, c.against) == ("prefill", "keep=all"))
    assert prefill.allowed is not None and prefill.allowed > 1
    what = f"1 video of {report.conditions.runs} frames" if name == "video_llava" else "1 picture in "
    for text in (render_text(report), render_runs(report)):
        assert what in text
        assert "The encoder's share of TTFT, and keys and values of the prompt" in text


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl"])
def test_a_sweep_draws_what_is_kept_of_them(make_case: MakeCase, name: str, tmp_path: Path) -> None:
    vlm, photo = make_case(name).vlm, noise(KINDS[name].sizes[0], 0)
    photo.save(tmp_path / "photo.png")
    visual = look(tmp_path / "photo.png", vlm.manifest)
    cells = make_cells(vlm, Axes(("visionzip",), ("30%",)), visual)
    (kept,) = draw_kept(vlm, cells, None, tmp_path / "photo.png", None)
    every, pruned = kept.panels
    assert every.tokens == (visual.tokens,)
    assert pruned.tokens[-1] == pytest.approx(0.3 * visual.tokens, abs=visual.runs)
    seen, drawn = (np.asarray(Image.open(BytesIO(panel.jpeg)).convert("L"), int) for panel in (every, pruned))
    assert seen.shape == drawn.shape and max(seen.shape) <= 960
    dark = (drawn < seen - 40).mean()
    assert 0.4 < dark < 0.9  # what was dropped
