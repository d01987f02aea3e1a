"""Selecting, ordering and merging rows: what token-pruning methods have in common.

Letters: B batch, N rows, K kept rows, M the other rows, C merged rows, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.nn import functional as F

_BLOCKS = 4  # in which all rows are compared with each
_WIDE = 128  # rows of a block that are counted in one product


def read_count(scalar: torch.Tensor) -> int:
    """The value of an int64 scalar, which becomes a symbol when a graph is traced."""
    return cast(int, scalar.item())


def read_keep(keep: torch.Tensor, rows: int) -> int:
    """Rows to keep of ``rows``, at least 1."""
    count = read_count(keep)
    torch._check(count >= 1)
    torch._check(count <= rows)
    return count


def best(score: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """Which rows are the ``count`` with the largest scores; of equal ones the lower rows.

    Counted, not sorted: TopK's order of ties is unspecified outside ONNX Runtime, and TensorRT's takes 3840 rows and no
    more.

    Args:
        score: [B, N], finite.
        count: rows to select, 0..N; or an int64 tensor that broadcasts with [B, 1].

    Returns:
        [B, N] bool.
    """
    sure, tied, left = _classes(score, count)
    return sure | (tied & (running_count(tied) <= left))


def selected_first(score: torch.Tensor, count: int) -> torch.Tensor:
    """Order rows so that the ``count`` best come first, both parts in ascending row order.

    Args:
        score: [B, N], finite.
        count: rows to select, 1..N.

    Returns:
        [B, N] int64 row indices.
    """
    sure, tied, left = _classes(score, count)
    sure_count, tied_count = running_count(torch.stack((sure, tied), dim=1)).unbind(dim=1)
    return _first(sure | (tied & (tied_count <= left)), sure_count + torch.minimum(tied_count, left))


def chosen_first(chosen: torch.Tensor) -> torch.Tensor:
    """Order rows so that the chosen ones come first, both parts in ascending row order.

    Args:
        chosen: [B, N] bool.

    Returns:
        [B, N] int64 row indices.
    """
    return _first(chosen, running_count(chosen))


def top(score: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` best rows of score [B, N], ascending: [B, count] int64; ties go to the lower row."""
    return selected_first(score, count)[:, :count]


def rank(score: torch.Tensor) -> torch.Tensor:
    """The place of every row when rows are ordered by descending score, ties by ascending row.

    For few rows: all pairs are compared at once.

    Args:
        score: [B, N].

    Returns:
        [B, N] int32, a permutation of 0..N-1 per row.
    """
    row = torch.arange(score.shape[1], device=score.device)
    mine, other = score[:, :, None], score[:, None, :]
    earlier = row[None, :] < row[:, None]
    return ((other > mine) | ((other == mine) & earlier)).to(torch.int32).sum(dim=2, dtype=torch.int32)


def running_count(chosen: torch.Tensor) -> torch.Tensor:
    """How many of the rows 0..i are chosen, for every row i.

    By two small triangular products, since TensorRT runs CumSum row by row in versions before 10.8. They are exact: a
    block has 128 rows, and fp32 holds every sum up to 2^24; so does TF32 what enters them.

    Args:
        chosen: [..., N] bool.

    Returns:
        [..., N] int64.
    """
    *axes, n = chosen.shape
    size = n // _WIDE + 1
    lane, number = torch.arange(_WIDE, device=chosen.device), torch.arange(size, device=chosen.device)
    blocks = F.pad(chosen.to(torch.float32), (0, size * _WIDE - n)).reshape(*axes, size, _WIDE)
    inside = torch.matmul(blocks, (lane[:, None] <= lane).to(torch.float32))
    before = torch.matmul((number < number[:, None]).to(torch.float32), inside[..., -1:])
    return (inside + before).reshape(*axes, size * _WIDE)[..., :n].to(torch.int64)


def places(chosen: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Where rows come to stand when the chosen ones come first; ``count`` is their running count: [B, N] int64."""
    row = torch.arange(chosen.shape[1], device=chosen.device)
    # A row that is not chosen comes behind all that are, and behind as many others as there were before it.
    return torch.where(chosen, count - 1, count[:, -1:] + row - count)


def by_place(place: torch.Tensor) -> torch.Tensor:
    """The row that stands at every place: the inverse of a permutation [B, N] int64, [B, N] int64."""
    row = torch.arange(place.shape[1], device=place.device).expand_as(place)
    return torch.zeros_like(place).scatter(1, place, row)


def _first(chosen: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """As ``chosen_first``, where the running count is known."""
    return by_place(places(chosen, count))


def _classes(score: torch.Tensor, count: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows surely among the ``count`` best, rows that tie with the last of them, and how many of these are."""
    beaten = _beaten(score)
    among = beaten < count
    last = torch.where(among, beaten, 0).amax(dim=1, keepdim=True)
    tied = among & (beaten == last)
    return among & ~tied, tied, count - last


def _beaten(score: torch.Tensor) -> torch.Tensor:
    """How many rows have a larger score than each: [B, N] int64.

    Block by block, so that no table of all pairs exists: of 7290 rows it would take a quarter of a GiB.
    """
    b, n = score.shape
    size = n // _BLOCKS + 1
    least = (torch.finfo if score.is_floating_point() else torch.iinfo)(score.dtype).min
    other = F.pad(score, (0, size * _BLOCKS - n), value=least).reshape(b, _BLOCKS, 1, size)
    beaten = torch.zeros_like(score, dtype=torch.int32)
    for rival in other.unbind(dim=1):
        beaten = beaten + (rival > score[:, :, None]).to(torch.int32).sum(dim=2, dtype=torch.int32)
    return beaten.to(torch.int64)


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
