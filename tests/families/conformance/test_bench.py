"""A benchmark of a picture in tiles and of a video: what really enters, beside the encoder's share and the memory."""

from __future__ import annotations

import pytest

from edgeprune.bench.run import Settings, run_bench
from edgeprune.bench.table import render_runs, render_text
from tests.families.conformance.case import MakeCase

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
