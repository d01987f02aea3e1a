"""Our positions against those of Transformers' Qwen2.5-VL, which reads them off a prompt's token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from edgeprune.runtime.mrope import Grid, Positions, positions, time_interval

START, END, IMAGE, VIDEO = 50, 51, 52, 53
TOKENS_PER_SECOND = 2


@pytest.fixture(scope="module")
def theirs() -> Any:
    text = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "out_hidden_size": 16,
        "fullatt_block_indexes": [0],
        "tokens_per_second": TOKENS_PER_SECOND,
    }
    ids: dict[str, Any] = {
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
    }
    return Qwen2_5_VLModel(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))


def reference(
    model: Any, parts: Sequence[int], grids: Sequence[Grid], seconds: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
    """Positions [3, S] of a whole prompt, which of its tokens are visual, and where the next token stands."""
    token = IMAGE if seconds is None else VIDEO
    ids = [7] * parts[0]
    for length, (frames, rows, columns) in zip(parts[1:], grids, strict=True):
        ids += [token] * (frames * rows * columns) + [7] * length
    is_visual = np.array(ids) == token
    patches = torch.tensor([(frames, 2 * rows, 2 * columns) for frames, rows, columns in grids])
    grid = {"image_grid_thw": patches} if seconds is None else {"video_grid_thw": patches}
    timing = {} if seconds is None else {"second_per_grid_ts": torch.tensor([seconds])}
    kinds = torch.tensor(np.where(is_visual, 1 if seconds is None else 2, 0))[None]
    found, delta = model.get_rope_index(torch.tensor([ids]), mm_token_type_ids=kinds, **grid, **timing)
    return found[:, 0].numpy(), is_visual, len(ids) + int(delta)


def check(found: Positions, expected: NDArray[np.int64], is_visual: NDArray[np.bool_], end: int) -> None:
    assert np.array_equal(found.text, expected[:, ~is_visual])
    assert np.array_equal(found.visual, expected[:, is_visual])
    assert found.end == end
    assert found.text.dtype == found.visual.dtype == np.int64


@pytest.mark.parametrize(
    ("parts", "grids"),
    [
        ((5, 9), [(1, 3, 4)]),
        ((5, 9), [(1, 7, 2)]),
        ((1, 2, 3), [(1, 3, 4), (1, 5, 5)]),
        ((4, 1, 1, 6), [(1, 2, 9), (1, 1, 1), (1, 6, 3)]),
        ((0, 5), [(1, 4, 4)]),  # nothing before
        ((3, 0), [(1, 4, 4)]),  # nothing behind
    ],
)
def test_pictures(theirs: Any, parts: tuple[int, ...], grids: list[Grid]) -> None:
    check(positions(parts, grids), *reference(theirs, parts, grids))


@pytest.mark.parametrize("seconds", [1.0, 4.0])
@pytest.mark.parametrize("grid", [(1, 3, 4), (6, 2, 3), (40, 3, 2)])
def test_video(theirs: Any, grid: Grid, seconds: float) -> None:
    """Of long videos the time is further than the text behind them, and so is the next token."""
    interval = time_interval(TOKENS_PER_SECOND, seconds)
    check(positions((4, 6), [grid], interval), *reference(theirs, (4, 6), [grid], seconds))


@pytest.mark.parametrize("seconds", [0.5, 2 / 3, 0.0833, 1.0344827, 1e-9])
def test_time_is_rounded_down(seconds: float) -> None:
    """As Transformers does since it no longer drops the fraction of the seconds themselves, as 5.17 did."""
    interval = time_interval(TOKENS_PER_SECOND, seconds)
    found = positions((4, 6), [(40, 3, 2)], interval)
    times = (torch.arange(40) * (TOKENS_PER_SECOND * torch.tensor(seconds))).long()
    assert found.visual[0].tolist() == [4 + int(time) for time in times for _ in range(6)]
    assert np.array_equal(found.visual[1:], positions((4, 6), [(40, 3, 2)]).visual[1:])
    assert found.end == max(4 + int(times[-1]), 4 + 3 + 5) + 1


def test_text_alone_counts_from_zero() -> None:
    found = positions((4,), [])
    assert found.text.tolist() == [[0, 1, 2, 3]] * 3 and found.visual.shape == (3, 0) and found.end == 4


@pytest.mark.parametrize(("parts", "grids"), [((4, 2), []), ((4,), [(1, 2, 2)]), ((0,), [])])
def test_what_is_no_prompt(parts: tuple[int, ...], grids: list[Grid]) -> None:
    with pytest.raises(ValueError, match=r"expected|no positions"):
        positions(parts, grids)
