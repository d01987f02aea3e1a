"""Selecting, ordering and merging rows: what token-pruning methods have in common.

Letters: B batch, N rows, K kept rows, M the other rows, C merged rows, D width.
"""

from __future__ import annotations

from typing import cast

import torch


def read_count(scalar: torch.Tensor) -> int:
    """The value of an int64 scalar, which becomes a symbol when a graph is traced."""
    return cast(int, scalar.item())


def rank(score: torch.Tensor) -> torch.Tensor:
    """The place of every row when rows are ordered by descending score, ties by ascending row.

    Counted, not sorted: for each row the rows that beat it, which settles ties alike on every runtime; TopK's
    order of ties is unspecified outside ONNX Runtime.

    Args:
        score: [B, N] fp32.

    Returns:
        [B, N] int32, a permutation of 0..N-1 per row.
    """
    row = torch.arange(score.shape[1], device=score.device)
    mine, other = score[:, :, None], score[:, None, :]
    earlier = row[None, :] < row[:, None]
    return ((other > mine) | ((other == mine) & earlier)).to(torch.int32).sum(dim=2, dtype=torch.int32)


def chosen_first(chosen: torch.Tensor) -> torch.Tensor:
    """Order rows so that the chosen ones come first, both parts in ascending row order.

    Sorts distinct integers, where no ties are left.

    Args:
        chosen: [B, N] bool.

    Returns:
        [B, N] int64 row indices.
    """
    n = chosen.shape[1]
    row = torch.arange(n, device=chosen.device)
    order = torch.where(chosen, row, row + n).to(torch.int32)
    return torch.topk(order, n, dim=1, largest=False, sorted=True).indices


def selected_first(score: torch.Tensor, count: int) -> torch.Tensor:
    """Order rows so that the ``count`` best come first, both parts in ascending row order.

    Args:
        score: [B, N] fp32.
        count: rows to select, 1..N.

    Returns:
        [B, N] int64 row indices.
    """
    return chosen_first(rank(score) < count)


def top(score: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` best rows of score [B, N], ascending: [B, count] int64; ties go to the lower row."""
    return selected_first(score, count)[:, :count]


def gather_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows ``index`` [B, K] of ``x`` [B, N, D]: [B, K, D]; one Gather over the flattened batch."""
    b, n, d = x.shape
    start = torch.arange(b, device=x.device)[:, None] * n
    flat = (index + start).reshape(-1)
    return x.reshape(b * n, d).index_select(0, flat).reshape(b, index.shape[1], d)


def merge_rest(
    x: torch.Tensor, key: torch.Tensor, order: torch.Tensor, dominant: int, merged: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the dominant rows and fuse all others into ``merged`` contextual rows (VisionZip's merge).

    1. Among the M other rows, ascending, references stand at 0, step, 2 * step, ... with step = M // merged.
    2. Every other candidate goes to the reference whose key has the highest cosine (the first one on ties).
    3. A contextual row is its reference plus the mean of its candidates, not an average over all of them: norms
       grow, and that is what was published and evaluated.

    Args:
        x: [B, N, D] rows to fuse.
        key: [B, N, d] what similarity is measured on.
        order: [B, N] from ``selected_first``, the ``dominant`` selected rows first.
        dominant: selected rows.
        merged: contextual rows, at least 1.

    Returns:
        Rows [B, dominant + merged, D], dominants first, in the dtype of ``x``; and the index [B, dominant +
        merged] each came from, a contextual row by its reference.
    """
    rest = order[:, dominant:]
    m = rest.shape[1]
    step = m // merged  # at least 1: callers check that merged <= m
    reference_place = torch.arange(merged, device=x.device) * step
    reference = rest.index_select(1, reference_place)
    is_reference = torch.arange(m, device=x.device)[:, None] == reference_place
    candidate = is_reference.to(torch.int32).sum(dim=1) == 0

    unit = key.float()
    unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    cosine = torch.matmul(gather_rows(unit, rest), gather_rows(unit, reference).transpose(1, 2))
    nearest = cosine.argmax(dim=2)  # [B, M]

    member = (nearest[:, :, None] == torch.arange(merged, device=x.device)) & candidate[None, :, None]
    member = member.float()
    share = member / member.sum(dim=1, keepdim=True).clamp_min(1.0)  # divided first: sums cannot overflow in fp16
    mean = torch.matmul(share.transpose(1, 2), gather_rows(x, rest).float())
    contextual = (gather_rows(x, reference).float() + mean).to(x.dtype)

    index = torch.cat((order[:, :dominant], reference), dim=1)
    return torch.cat((gather_rows(x, order[:, :dominant]), contextual), dim=1), index
