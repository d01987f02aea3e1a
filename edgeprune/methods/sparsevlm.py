"""SparseVLM: the question's words that regard the image vote on visual rows, in three places of the decoder.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference" (ICML 2025), and
the authors' released code in its versions 1.5 (``sparsevlm``) and 2.0 (``sparsevlm-plus``):

1. Raters, once, at the decoder's input: each visual row's softmax over the text after it, averaged over visual rows;
   words above the mean of that are raters.
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
from edgeprune.methods.attention import probabilities
from edgeprune.methods.method import Method
from edgeprune.methods.selection import chosen_first, gather_rows, rank, read_count, top
from edgeprune.methods.span import keep_rows, read_keep, read_span, renumber, replace_rows

HEADS = 14  # fixed in the code, for any number of heads
# Gravity falls with distance and would change its sign beyond the published prompts (at a distance of 1479 for d =
# 128): it is held at this part of its value at distance 0, so that no probability is divided by nothing.
LEAST_GRAVITY = 0.01


class Raters(nn.Module):
    """Which rows of the text after the image may vote."""

    OUTPUT = ("rater", "fp32", ("B", "t"))

    def forward(self, visual: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Find the raters.

        Args:
            visual: [B, N, D] projected visual rows.
            after: [B, t, D] embedded text after them.

        Returns:
            [B, t] fp32, 1 for a rater and 0 for others; all are raters where none stands out.
        """
        likeness = torch.matmul(visual.float(), after.float().transpose(1, 2))
        relevance = torch.softmax(likeness, dim=2).mean(dim=1)
        rater = (relevance > relevance.mean(dim=1, keepdim=True)).float()
        none = rater.sum(dim=1, keepdim=True) == 0
        return torch.where(none, torch.ones_like(rater), rater)


class DecoderCut(nn.Module):
    """The cut of version 1.5; it has no weights."""

    def forward(
        self,
        hidden: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        rater: torch.Tensor,
        span_start: torch.Tensor,
        span_length: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows [span_start, span_start + span_length) of ``hidden``.

        Args:
            hidden: [B, S, D]; its last t rows are the text after the image.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            rater: [B, t] fp32, from ``Raters``.
            span_start, span_length: int64 scalars.
            keep: int64 scalar K, visual rows out, clusters included.
            merge: int64 scalar, how many of them are clusters.

        Returns:
            hidden [B, S - v + K, D], in the place of the visual rows the selected ones, ascending, and then the
            clusters; position ids of that length, from 0; ``kept`` [B, K] int64, indices into the v visual rows, a
            cluster by its centre.
        """
        start, end = read_span(hidden, span_start, span_length)
        score = votes(rater, rated(query, key, rater)[:, :, :, start:end]).mean(dim=1)
        rows, kept = recycle(hidden[:, start:end], score, keep, merge)
        pruned = replace_rows(hidden, start, end, rows)
        return pruned, renumber(pruned), kept


class PlusCut(nn.Module):
    """The cut of version 2.0; carries the rotary tables.

    Args:
        config: the decoder's sizes.
        fused: dialect.
    """

    def __init__(self, config: LlamaSettings, fused: bool) -> None:
        super().__init__()
        self.rotary = Rotary(config.head_dim, config.context, fused)

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        rater: torch.Tensor,
        span_start: torch.Tensor,
        span_length: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows [span_start, span_start + span_length) of ``hidden``.

        Args:
            hidden: [B, S, D]; its last t rows are the text after the image.
            position_ids: [B, S] int64.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            rater: [B, t] fp32, from ``Raters``.
            span_start, span_length: int64 scalars.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, S - v + K, D]; the position ids of its rows; ``kept`` [B, K] int64, indices into the v visual
            rows, ascending.
        """
        start, end = read_span(hidden, span_start, span_length)
        words = rater.shape[1]
        attention = rated(query, key, rater)[:, :, :, start:end]
        head = votes(rater, attention / self.gravity(position_ids, words, start, end))
        kept = top(best_heads(head), read_keep(keep, head.shape[2]))
        return *keep_rows(hidden, position_ids, start, end, kept), kept

    def gravity(self, position_ids: torch.Tensor, words: int, start: int, end: int) -> torch.Tensor:
        """What two rotated rows of ones give: 2 / sqrt(d) times the sum of cos((p_i - p_j) theta_f) over frequencies.

        Args:
            position_ids: [B, S] int64.
            words: last rows, which are the queries.
            start, end: the visual rows, half open, which are the keys.

        Returns:
            [B, 1, words, end - start] fp32, positive.
        """
        first = position_ids.shape[1] - words
        cos, sin = (table.float() for table in self.rotary.angles(position_ids))
        total = torch.matmul(cos[:, :, first:], cos[:, :, start:end].transpose(2, 3))
        total = total + torch.matmul(sin[:, :, first:], sin[:, :, start:end].transpose(2, 3))
        frequencies = cos.shape[3]
        return total.clamp_min(LEAST_GRAVITY * frequencies) * (2.0 / math.sqrt(2 * frequencies))


def rated(query: torch.Tensor, key: torch.Tensor, rater: torch.Tensor) -> torch.Tensor:
    """Attention of the text after the image, raters or not, to all rows: [B, H, t, S] fp32.

    How many raters there are is known to no shape, so every word's row is computed and ``votes`` weighs them.
    """
    first = query.shape[2] - rater.shape[1]
    return probabilities(query[:, :, first:], key, first)


def votes(rater: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The mean over raters [B, t] of attention [B, H, t, v]: [B, H, v] fp32."""
    share = rater / rater.sum(dim=1, keepdim=True)
    return torch.matmul(share[:, None, None, :], attention)[:, :, 0]


def best_heads(score: torch.Tensor) -> torch.Tensor:
    """The mean of [B, H, v] over the 14 heads with the largest sums, or over all where there are no more: [B, v]."""
    if score.shape[1] <= HEADS:
        return score.mean(dim=1)
    chosen = (rank(score.sum(dim=2)) < HEADS).float()
    return torch.matmul(chosen[:, None] / HEADS, score)[:, 0]


def recycle(
    x: torch.Tensor, score: torch.Tensor, keep: torch.Tensor, merge: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the ``keep - merge`` best rows and make ``merge`` clusters of the best 30 % of the others.

    Args:
        x: [B, v, D] visual rows.
        score: [B, v] fp32.
        keep: int64 scalar, rows out.
        merge: int64 scalar, clusters among them.

    Returns:
        Rows [B, keep, D], the kept ones ascending and then the clusters, in the dtype of ``x``; and the index [B,
        keep] each came from, a cluster by its centre.
    """
    v = x.shape[1]
    count, clusters = read_keep(keep, v), read_count(merge)
    torch._check(clusters >= 1)
    torch._check(count > clusters)
    dominant = count - clusters
    looked_at = (3 * (v - dominant)) // 10 + 1
    torch._check(clusters <= looked_at)
    torch._check(dominant + looked_at <= v)

    place = rank(score)
    kept = chosen_first(place < dominant)[:, :dominant]
    rest = chosen_first((place >= dominant) & (place < dominant + looked_at))[:, :looked_at]
    merged, centre = cluster(gather_rows(x, rest), clusters)
    rows = torch.cat((gather_rows(x, kept), merged), dim=1)
    return rows, torch.cat((kept, rest.gather(1, centre)), dim=1)


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

    # All are sorted and some taken: at the corners of a TensorRT profile ``count`` may lie beyond the axis.
    nearest = torch.topk(square, t, dim=2, largest=False, sorted=True).values[:, :, :count]
    mean = nearest.mean(dim=2)
    mine, other = mean[:, :, None], mean[:, None, :]
    denser = (other < mine) | ((other == mine) & (row[None, :] < row[:, None]))
    greatest = distance.amax(dim=(1, 2), keepdim=True)
    height = torch.where(denser, distance, greatest).amin(dim=2)
    peak = height.clamp_min(torch.finfo(torch.float32).tiny).log() - mean

    place = rank(peak)
    centre = torch.topk(place, t, dim=1, largest=False, sorted=True).indices[:, :count]
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
    Method(name="sparsevlm", positions="repack", prepare=Raters, decoder_cut=lambda config, fused: DecoderCut()),
    Method(name="sparsevlm-plus", positions="keep", prepare=Raters, decoder_cut=PlusCut),
)
