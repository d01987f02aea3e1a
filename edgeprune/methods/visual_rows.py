"""The visual rows of a prompt, wherever they stand in it, and what is left of the prompt when some of them go.

A prompt is rows of text and of pictures in any order. Letters: S rows, V visual ones among them, K of those that are
left, merged ones included, R = S - V + K rows out.
"""

from __future__ import annotations

from typing import Literal

import torch

from edgeprune.methods.selection import by_place, gather_rows, places, read_count, running_count

Positions = Literal["repack", "keep"]
"""Position ids after a cut: numbered anew from 0, or every row keeps its own."""


def read_text_after(text_after: torch.Tensor, hidden: torch.Tensor) -> int:
    """How many rows follow the last visual row of ``hidden`` [B, S, D], at least 1.

    A count of its own: shapes depend on it, and TensorRT takes no shape out of the numbers of the visual rows.
    """
    count = read_count(text_after)
    torch._check(count >= 1)
    torch._check(count < hidden.shape[1])
    return count


def columns(score: torch.Tensor, visual_rows: torch.Tensor) -> torch.Tensor:
    """What the visual rows get of scores [B, S] of all rows, or of [B, H, S]: [B, V] or [B, H, V]."""
    index = visual_rows if score.dim() == 2 else visual_rows[:, None].expand(-1, score.shape[1], -1)
    return score.gather(-1, index)


def positions_of(position_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Positions of ``rows`` [B, n]: from [B, S] or [3, B, S] to [B, n] or [3, B, n]."""
    return position_ids.gather(-1, rows.expand(*position_ids.shape[:-1], -1))


def drop_rows(
    hidden: torch.Tensor,
    position_ids: torch.Tensor | None,
    visual_rows: torch.Tensor,
    kept: torch.Tensor,
    positions: Positions,
    merged: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take the visual rows out that are not kept, and put the merged ones behind where the last visual row was.

    Args:
        hidden: [B, S, D].
        position_ids: [B, S] int64, or [3, B, S] where positions have three axes; None where they are numbered anew.
        visual_rows: [B, V] int64, ascending.
        kept: [B, K] int64, indices into the visual rows: those that stay, ascending, and behind them the row that each
            merged row stands for, whose position it takes where positions are kept.
        positions: policy.
        merged: [B, C, D] new rows; None where there are none.

    Returns:
        hidden [B, R, D]; position ids [B, R] or [3, B, R]; the visual rows [B, K] of these, ascending.
    """
    b, s = hidden.shape[0], hidden.shape[1]
    fused = 0 if merged is None else merged.shape[1]
    rows_out = s - visual_rows.shape[1] + kept.shape[1]
    torch._check(rows_out >= 1)
    torch._check(rows_out <= s + fused)
    torch._check(kept.shape[1] - fused >= 0)
    torch._check(rows_out >= 0)
    torch._check(rows_out <= s + fused)
    source = visual_rows.gather(1, kept)  # [B, K]
    staying = source[:, : kept.shape[1] - fused]
    stays = torch.ones((b, s), dtype=torch.int32, device=hidden.device)
    stays = stays.scatter(1, visual_rows, torch.zeros_like(visual_rows, dtype=torch.int32))
    stays = stays.scatter(1, staying, torch.ones_like(staying, dtype=torch.int32)) > 0

    # The place of every row: rows that go stand behind all others, where they are cut off.
    count = running_count(stays)
    place = places(stays, count)
    visual_out = place.gather(1, staying)
    if merged is not None:
        last = visual_rows[:, -1:]
        row = torch.arange(s, device=hidden.device)
        place = torch.where(stays & (row <= last), place, place + fused)
        behind = count.gather(1, last) + torch.arange(fused, device=hidden.device)
        hidden, place = torch.cat((hidden, merged), dim=1), torch.cat((place, behind), dim=1)
        visual_out = torch.cat((visual_out, behind), dim=1)
    order = by_place(place)[:, :rows_out]
    pruned = gather_rows(hidden, order)

    if positions == "repack":
        return pruned, torch.arange(rows_out, device=hidden.device).expand(b, -1), visual_out
    assert position_ids is not None  # of who keeps them
    if merged is not None:
        own = positions_of(position_ids, source[:, kept.shape[1] - fused :])
        position_ids = torch.cat((position_ids, own), dim=-1)
    return pruned, positions_of(position_ids, order), visual_out
