"""Softmax attention over grouped key/value heads, and the causal mask of rows that follow a cache."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def causal_mask(rows: torch.Tensor, past: torch.Tensor, fused: bool) -> torch.Tensor:
    """Mask [S, T] of S new rows after P cached ones: row i sees keys 0..P+i.

    Built from row numbers, not from position ids, which may have gaps after pruning. Additive fp32 in `base`,
    boolean in `fused`; never the operator's own ``is_causal``, whose alignment differs between runtimes.

    Args:
        rows: [B, S, ...], only its length is read.
        past: [B, G, P, d], only its length is read.
    """
    s, p = rows.shape[1], past.shape[2]
    query = torch.arange(s, device=rows.device)[:, None] + p
    key = torch.arange(p + s, device=rows.device)[None, :]
    seen = key <= query
    if fused:
        return seen
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, fused: bool) -> torch.Tensor:
    """Attention of q [B, H, S, d] over k, v [B, G, T, d], H a multiple of G; returns [B, S, H * d].

    Softmax in fp32. The query heads of a group are folded into its rows, so that keys and values are read as
    they lie in the cache and never repeated H / G times.
    """
    b, h, s, d = q.shape
    if fused:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=k.shape[1] != h)
        return out.transpose(1, 2).reshape(b, s, h * d)
    g = k.shape[1]
    q = q * (1.0 / math.sqrt(d))
    scores = torch.matmul(q.reshape(b, g, (h // g) * s, d), k.transpose(2, 3)).float()
    scores = scores.reshape(b, h, s, k.shape[2])
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    out = torch.matmul(weights.reshape(b, g, (h // g) * s, k.shape[2]), v)
    return out.reshape(b, h, s, d).transpose(1, 2).reshape(b, s, h * d)
