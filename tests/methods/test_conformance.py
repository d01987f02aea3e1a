"""What every pruning method must hold, whatever it scores: run over all files of edgeprune/methods."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.budget.schedule import Stage, make_schedule
from edgeprune.methods import method as methods
from edgeprune.methods.method import Method

PATCHES, WIDTH, BEFORE, AFTER, LAYERS = 64, 32, 5, 7, 8
SHAPES = {"mha": 4, "gqa": 2}  # key/value heads


@pytest.fixture(params=methods.names())
def method(request: pytest.FixtureRequest) -> Method:
    return methods.load(request.param)


def config(kv_heads: int) -> Any:
    return SimpleNamespace(
        hidden=WIDTH,
        layers=LAYERS,
        heads=4,
        kv_heads=kv_heads,
        head_dim=8,
        intermediate=64,
        vocab=96,
        context=256,
        norm_eps=1e-5,
        qkv_bias=False,
    )


def fill(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) / 6).to(dtype)
    return module.eval()


def inputs(module: nn.Module, visual: int, stage: Stage, batch: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random tensors for the names that the module's forward takes."""
    generator = torch.Generator().manual_seed(visual)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    rows = BEFORE + visual + AFTER
    known = {
        "features": random(batch, PATCHES, WIDTH).to(dtype),
        "cls_feature": random(batch, 1, WIDTH).to(dtype),
        "cls_attention": random(batch, PATCHES).softmax(-1),
        "key": random(batch, PATCHES + 1, 8),
        "hidden": random(batch, rows, WIDTH).to(dtype),
        "position_ids": torch.arange(rows).expand(batch, -1),
        "span_start": torch.tensor(BEFORE),
        "span_length": torch.tensor(visual),
        "keep": torch.tensor(stage.keep),
        "merge": torch.tensor(stage.merge),
    }
    return {name: known[name] for name in inspect.signature(module.forward).parameters}


def stages(method: Method) -> list[tuple[int, Stage]]:
    """(visual rows in, stage) of a middling budget."""
    schedule = make_schedule(method.name, 30, PATCHES, method.cuts(LAYERS), LAYERS)
    counts = [PATCHES, *(stage.keep for stage in schedule.stages)]
    return list(zip(counts, schedule.stages, strict=False))


def cases(method: Method, dtype: torch.dtype) -> list[tuple[nn.Module, int, Stage]]:
    """Every module of a method, with each kind of attention."""
    found = []
    for visual, stage in stages(method):
        if stage.cut == "vision":
            found.append((method.vision_stage(), visual, stage))
        else:
            for kv_heads in SHAPES.values():
                found.append((fill(method.decoder_cut(config(kv_heads), False), dtype), visual, stage))
    return found


def check_kept(kept: torch.Tensor, visual: int, stage: Stage) -> None:
    for row in kept.tolist():
        selected = row[: stage.keep - stage.merge]
        assert len(set(row)) == len(row) == stage.keep
        assert selected == sorted(selected)
        assert min(row) >= (-1 if stage.cut == "vision" else 0)
        assert max(row) < visual


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_counts_order_and_text(method: Method, dtype: torch.dtype) -> None:
    for module, visual, stage in cases(method, dtype):
        given = inputs(module, visual, stage, 2, dtype)
        out = module(**given)
        check_kept(out[-1], visual, stage)
        rows = out[0]
        assert rows.dtype == dtype
        assert torch.isfinite(rows).all()
        if stage.cut == "vision":
            assert rows.shape == (2, stage.keep, WIDTH)
            continue
        hidden, positions = given["hidden"], out[1]
        assert rows.shape == (2, BEFORE + stage.keep + AFTER, WIDTH)
        assert torch.equal(rows[:, :BEFORE], hidden[:, :BEFORE])
        assert torch.equal(rows[:, -AFTER:], hidden[:, -AFTER:])
        if method.positions == "repack":
            assert positions.tolist() == [list(range(rows.shape[1]))] * 2
        else:
            assert set(positions[0].tolist()) <= set(given["position_ids"][0].tolist())
        selected = out[-1][:, : stage.keep - stage.merge, None].expand(-1, -1, WIDTH)
        kept_rows = rows[:, BEFORE : BEFORE + stage.keep - stage.merge]
        assert torch.equal(kept_rows, hidden[:, BEFORE : BEFORE + visual].gather(1, selected))


def test_rows_of_a_batch_are_independent(method: Method) -> None:
    for module, visual, stage in cases(method, torch.float32):
        given = inputs(module, visual, stage, 2, torch.float32)
        together = module(**given)
        for row in range(2):
            alone = module(**{name: x[row : row + 1] if x.dim() else x for name, x in given.items()})
            for both, one in zip(together, alone, strict=True):
                torch.testing.assert_close(both[row : row + 1], one)
