"""SparseVLM: the question's words that regard the image vote on visual rows, in three places of the decoder.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference" (ICML 2025), and
the authors' released code in its versions 1.5 (``sparsevlm``) and 2.0 (``sparsevlm-plus``):

1. Raters, once, at the decoder's input: each visual row's softmax over the text behind the last visual row, averaged
   over visual rows; words above the mean of that are raters.
2. Cuts before layers 3, 7 and 16 of 32, at the same fractions of other depths. A visual row scores the attention it
   gets from the raters in the layer that just ran, averaged over heads and raters.
3. 1.5: of the rows that were not selected, the best 30 % are clustered (DPC-kNN) and every cluster gives one row, the
   mean of its members. Positions are numbered anew.
4. 2.0: attention is divided by what the rotary embedding alone gives at that distance ("gravity"), only the 14 heads
   that attend most are averaged, nothing is recycled, and rows keep their positions.

The code adds noise to break ties of the densities; here the lower row counts as denser.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.decoders.llama import LlamaSettings
from edgeprune.layers.rotary import Rotary
from edgeprune.methods.attention import last_rows
from edgeprune.methods.method import Method
from edgeprune.methods.selection import best, by_place, chosen_first, gather_rows, rank, read_count, read_keep, top
from edgeprune.methods.visual_rows import Positions, columns, drop_rows, read_text_after

HEADS = 14  # fixed in the code, for any number of heads
# Gravity falls with distance and would change its sign beyond the published prompts (at a distance of 1479 for d =
# 128): it is held at this part of its value at distance 0, so that no probability is divided by nothing.
LEAST_GRAVITY = 0.01


class Raters(nn.Module):
    """Which rows of the text after the last visual row may vote."""

    OUTPUT = ("rater", "fp32", ("B", "t"))

    def forward(self, hidden: torch.Tensor, visual_rows: torch.Tensor, text_after: torch.Tensor) -> torch.Tensor:
        """Find the raters.

        Args:
            hidden: [B, S, D] the decoder's input.
            visual_rows: [B, V] int64, which of its rows are visual.
            text_after: int64 scalar t, rows behind the last of them, which may be raters.

        Returns:
            [B, t] fp32, 1 for a rater and 0 for others; all are raters where none stands out.
        """
        first = hidden.shape[1] - read_text_after(text_after, hidden)
        visual, after = gather_rows(hidden, visual_rows).float(), hidden[:, first:].float()
        likeness = torch.matmul(visual, after.transpose(1, 2))
        relevance = torch.softmax(likeness, dim=2).mean(dim=1)
        rater = (relevance > relevance.mean(dim=1, keepdim=True)).float()
        none = rater.sum(dim=1, keepdim=True) == 0
        return torch.where(none, torch.ones_like(rater), rater)


class DecoderCut(nn.Module):
    """The cut of version 1.5, which numbers positions anew; it has no weights."""

    def forward(
        self,
        hidden: torch.Tensor,
        visual_rows: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        rater: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D]; its last t rows are the text behind the last visual row.
            visual_rows: [B, V] int64, ascending, which of its rows are visual.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            rater: [B, t] fp32, from ``Raters``.
            keep: int64 scalar K, visual rows out, clusters included.
            merge: int64 scalar, how many of them are clusters.

        Returns:
            hidden [B, R, D], R = S - V + K, the clusters behind where the last visual row was; its position ids [B, R]
            from 0; its visual rows [B, K] int64, ascending; and ``kept`` [B, K] int64, indices into the V visual rows,
            a cluster by its centre.
        """
        clusters, kept = self._recycle(hidden, visual_rows, query, key, rater, keep, merge)
        return *drop_rows(hidden, None, visual_rows, kept, "repack", clusters), kept

    def _recycle(
        self,
        hidden: torch.Tensor,
        visual_rows: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        rater: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clusters [B, merge, D], and which visual rows [B, keep] stay or are a cluster's centre."""
        score = columns(votes(rater, rated(query, key, rater)).mean(dim=1), visual_rows)
        return recycle(gather_rows(hidden, visual_rows), score, keep, merge)


class KeepingCut(DecoderCut):
    """The same where rows keep their positions; a cluster takes its centre's."""

    def forward(  # type: ignore[override]
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        visual_rows: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        rater: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``DecoderCut``, with ``position_ids`` [B, S] or [3, B, S] int64 in and [B, R] or [3, B, R] out."""
        clusters, kept = self._recycle(hidden, visual_rows, query, key, rater, keep, merge)
        return *drop_rows(hidden, position_ids, visual_rows, kept, "keep", clusters), kept


class PlusCut(nn.Module):
    """The cut of version 2.0; carries the rotary tables.

    Args:
        config: the decoder's sizes.
        fused: dialect.
        positions: what becomes of position ids.
    """

    def __init__(self, config: LlamaSettings, fused: bool, positions: Positions) -> None:
        super().__init__()
        self.rotary, self.positions = Rotary(config, fused), positions

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        visual_rows: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        rater: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D]; its last t rows are the text behind the last visual row.
            position_ids: [B, S] int64, or [3, B, S] with three axes.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            rater: [B, t] fp32, from ``Raters``.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, R, D], R = S - V + K; its position ids [B, R], or [3, B, R]; its visual rows [B, K] int64,
            ascending; and ``kept`` [B, K] int64, indices into the V visual rows, ascending.
        """
        corrected = rated(query, key, rater) / self.gravity(position_ids, rater.shape[1])
        head = columns(votes(rater, corrected), visual_rows)
        kept = top(best_heads(head), read_keep(keep, head.shape[2]))
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept

    def gravity(self, position_ids: torch.Tensor, words: int) -> torch.Tensor:
        """What two rotated rows of ones give: 2 / sqrt(d) times the sum of cos((p_i - p_j) theta_f) over frequencies.

        Args:
            position_ids: [B, S] int64; [3, B, S] with three axes, where every frequency takes its own axis.
            words: last rows, which are the queries; all rows are keys.

        Returns:
            [B, 1, words, S] fp32, positive.
        """
        cos, sin = (table.float() for table in self.rotary.angles(position_ids))
        first = cos.shape[2] - words
        total = torch.matmul(cos[:, :, first:], cos.transpose(2, 3))
        total = total + torch.matmul(sin[:, :, first:], sin.transpose(2, 3))
        frequencies = cos.shape[3]
        return total.clamp_min(LEAST_GRAVITY * frequencies) * (2.0 / math.sqrt(2 * frequencies))


def rated(query: torch.Tensor, key: torch.Tensor, rater: torch.Tensor) -> torch.Tensor:
    """Attention of the text behind the last visual row, raters or not, to all rows: [B, H, t, S] fp32.

    How many raters there are is known to no shape, so every word's row is computed and ``votes`` weighs them.
    """
    return last_rows(query, key, rater.shape[1])


def votes(rater: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The mean over raters [B, t] of attention [B, H, t, S]: [B, H, S] fp32."""
    share = rater / rater.sum(dim=1, keepdim=True)
    return torch.matmul(share[:, None, None, :], attention)[:, :, 0]


def best_heads(score: torch.Tensor) -> torch.Tensor:
    """The mean of [B, H, V] over the 14 heads with the largest sums, or over all where there are no more: [B, V]."""
    if score.shape[1] <= HEADS:
        return score.mean(dim=1)
    chosen = (rank(score.sum(dim=2)) < HEADS).float()
    return torch.matmul(chosen[:, None] / HEADS, score)[:, 0]


def recycle(
    x: torch.Tensor, score: torch.Tensor, keep: torch.Tensor, merge: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the ``keep - merge`` best rows and make ``merge`` clusters of the best 30 % of the others.

    Args:
        x: [B, V, D] visual rows.
        score: [B, V] fp32.
        keep: int64 scalar, rows out.
        merge: int64 scalar, clusters among them.

    Returns:
        The clusters [B, merge, D] in the dtype of ``x``; and [B, keep] int64, the rows that are kept, ascending, and
        then the centres of the clusters.
    """
    v = x.shape[1]
    count, clusters = read_keep(keep, v), read_count(merge)
    torch._check(clusters >= 1)
    torch._check(count > clusters)
    dominant = count - clusters
    torch._check(dominant <= v)
    looked_at = (3 * (v - dominant)) // 10 + 1
    torch._check(clusters <= looked_at)
    torch._check(dominant + looked_at <= v)

    selected = best(score, dominant)
    kept = chosen_first(selected)[:, :dominant]
    rest = chosen_first(best(score, dominant + looked_at) & ~selected)[:, :looked_at]
    merged, centre = cluster(gather_rows(x, rest), clusters)
    return merged, torch.cat((kept, rest.gather(1, centre)), dim=1)


def cluster(x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Density-peak clustering with k nearest neighbours, k being the number of clusters.

    1. A row's density is exp(-m), m the mean of its ``count`` smallest squared distances, its own included.
    2. Its height is the least distance to a denser row, the greatest distance of all where there is none.
    3. Centres are the rows with the largest density times height; every other row goes to its nearest centre.

    Densities are compared by m, and the product by its logarithm: that is the same order, and it survives where exp(-m)
    underflows.

    Args:
        x: [B, T, D].
        count: clusters C, 1..T.

    Returns:
        The clusters' means [B, C, D] in the dtype of ``x``, and their centres [B, C] int64, the highest product first.
    """
    t = x.shape[1]
    row = torch.arange(t, device=x.device)
    square = squared_distances(x.float()) / x.shape[2]
    distance = square.sqrt()

    # At the corners of a TensorRT profile ``count`` may lie beyond the axis. Otherwise it is a tenth of the axis, which
    # TensorRT can sort.
    mean = torch.topk(square, torch.sym_min(count, t), dim=2, largest=False, sorted=True).values.mean(dim=2)
    mine, other = mean[:, :, None], mean[:, None, :]
    denser = (other < mine) | ((other == mine) & (row[None, :] < row[:, None]))
    greatest = distance.amax(dim=(1, 2), keepdim=True)
    height = torch.where(denser, distance, greatest).amin(dim=2)
    peak = height.clamp_min(torch.finfo(torch.float32).tiny).log() - mean

    place = rank(peak)
    centre = by_place(place.to(torch.int64))[:, :count]
    to_centre = gather_rows(distance, centre).transpose(1, 2)  # [B, T, C]: distances are symmetric
    # A centre may stand on another one: it stays in its own cluster.
    mine_is = torch.where(place < count, place.to(torch.int64), to_centre.argmin(dim=2))
    member = (mine_is[:, :, None] == torch.arange(count, device=x.device)).float()
    share = member / (member.sum(dim=1, keepdim=True) + 1e-6)  # divided first: sums cannot overflow in fp16
    return torch.matmul(share.transpose(1, 2), x.float()).to(x.dtype), centre


def squared_distances(x: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances among the rows of x [B, T, D] fp32: [B, T, T], symmetric to the last bit.

    By products, since differences of all pairs would take T x T x D; around the mean, so that less cancels.
    """
    t = x.shape[1]
    row = torch.arange(t, device=x.device)
    x = x - x.mean(dim=1, keepdim=True)
    norm = (x * x).sum(dim=2)
    product = torch.matmul(x, x.transpose(1, 2))
    square = (norm[:, :, None] + norm[:, None, :]) - (product + product.transpose(1, 2))
    return torch.where(row[:, None] == row, 0.0, square.clamp_min(0.0))


METHODS = (
    Method(
        name="sparsevlm",
        positions="repack",
        prepare=Raters,
        decoder_cut=lambda config, fused, positions: DecoderCut() if positions == "repack" else KeepingCut(),
    ),
    Method(name="sparsevlm-plus", positions="keep", prepare=Raters, decoder_cut=PlusCut),
)
