"""VisionDrop's decoder cuts on packed sequences, so that training meets what pruning does between layers.

The arithmetic is ``edgeprune.methods.visiondrop.DecoderCut``'s, with the gradient flowing through the rows that go
on. Knows where the visual rows start; all of them are seen by every question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgeprune.methods.selection import merge_rest
from tools.demo_training.drop import Cut, selected_first
from tools.demo_training.network import DECODER_HEADS, Rows, heads, rms, rotated, rotation


def cutter(cuts: Sequence[Cut], start: int, count: int) -> Callable[[int, Any, Rows], Rows]:
    """What to call before each decoder layer: drops some of the ``count`` visual rows from ``start`` on."""
    due = {cut.layer: cut for cut in cuts}
    end = start + count

    def before(index: int, layer: Any, rows: Rows) -> Rows:
        nonlocal end
        if index not in due:
            return rows
        rows = _cut(layer, rows, start, end, due[index])
        end = start + due[index].keep
        return rows

    return before


def _cut(layer: Any, rows: Rows, start: int, end: int, cut: Cut) -> Rows:
    """Bring the visual rows from ``start`` to ``end`` down to ``cut.keep``; later positions move up."""
    x, position = rows.hidden, rows.position
    with torch.no_grad():
        score, key = _score(layer, x[:, :end], position[:, :end], start)
        order = selected_first(score, cut.keep - cut.merge)
    visual, _ = merge_rest(x[:, start:end], key, order, cut.keep - cut.merge, cut.merge)
    new_end = start + cut.keep
    # Whichever visual rows leave the mask: all text sees all of them, and they see each other in order.
    mask = torch.cat((rows.mask[..., :new_end], rows.mask[..., end:]), dim=3)
    mask = torch.cat((mask[:, :, :new_end], mask[:, :, end:]), dim=2)
    text = position[:, end:] - (end - new_end)
    return Rows(
        torch.cat((x[:, :start], visual, x[:, end:]), dim=1),
        torch.cat((position[:, :new_end], text), dim=1),
        mask,
    )


def _score(layer: Any, hidden: torch.Tensor, position: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean attention that each visual row receives from all of them [B, v], and their keys [B, v, d]."""
    own = layer.self_attn
    h = rms(hidden, layer.input_layernorm)
    cos, sin = rotation(position)
    k = rotated(heads(own.k_proj(h), DECODER_HEADS), cos, sin)
    q = rotated(heads(own.q_proj(h[:, start:]), DECODER_HEADS), cos[:, :, start:], sin[:, :, start:])
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    row = torch.arange(q.shape[2], device=q.device)[:, None] + start
    later = torch.arange(k.shape[2], device=q.device)[None] > row
    received = logits.masked_fill(later, float("-inf")).softmax(-1).mean(1)[:, :, start:]
    return received.mean(1), k[:, :, start:].mean(1)
