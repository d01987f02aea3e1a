"""The visual rows inside a prompt [text | visual | text], and what is left of the prompt when some of them go."""

from __future__ import annotations

import torch

from edgeprune.methods.selection import gather_rows, read_count


def read_span(hidden: torch.Tensor, span_start: torch.Tensor, span_length: torch.Tensor) -> tuple[int, int]:
    """First visual row and the row after the last one, as symbols when a graph is traced."""
    start, length = read_count(span_start), read_count(span_length)
    torch._check(start >= 0)
    torch._check(length >= 1)
    torch._check(start + length <= hidden.shape[1])
    return start, start + length


def read_keep(keep: torch.Tensor, rows: int) -> int:
    """Rows to keep of ``rows``, at least 1."""
    count = read_count(keep)
    torch._check(count >= 1)
    torch._check(count <= rows)
    return count


def replace_rows(hidden: torch.Tensor, start: int, end: int, rows: torch.Tensor) -> torch.Tensor:
    """Put ``rows`` [B, K, D] where rows start..end-1 of ``hidden`` [B, S, D] were."""
    return torch.cat((hidden[:, :start], rows, hidden[:, end:]), dim=1)


def renumber(hidden: torch.Tensor) -> torch.Tensor:
    """Position ids 0..S'-1 for ``hidden`` [B, S', D]: the policy "repack"."""
    return torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[0], -1)


def keep_rows(
    hidden: torch.Tensor, position_ids: torch.Tensor, start: int, end: int, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop visual rows, and let every row that stays keep its position id: the policy "keep".

    Args:
        hidden: [B, S, D].
        position_ids: [B, S] int64.
        start, end: the visual rows, half open.
        kept: [B, K] int64, ascending, indices into the visual rows.

    Returns:
        hidden [B, S', D] and its position ids [B, S'].
    """
    rows = gather_rows(hidden[:, start:end], kept)
    ids = position_ids[:, start:end].gather(1, kept)
    positions = torch.cat((position_ids[:, :start], ids, position_ids[:, end:]), dim=1)
    return replace_rows(hidden, start, end, rows), positions
