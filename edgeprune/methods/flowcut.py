"""FlowCut: patches leave the encoder while it runs, as many at a time as the class row's attention is focused.

Tong et al., "FlowCut" (NeurIPS 2025), as released for LLaVA-1.5 and LLaVA-NeXT; every prompt has a schedule of its
own.

1. In every layer before the selected one, a patch scores (attention from the class row + likeness of its value to the
   class row's, each as a share of its sum) times the L1 norm of its value; half of that and half of what the layers
   before made is its standing.
2. After every second layer, the last of them the one before the selected layer, the patches of the lowest standing
   leave: of n patches with T to keep and R layers left, (n - T) / sqrt(R) * (1 - h^2), h the attention's entropy;
   with no layer left, all beyond T. Of a prompt's tiles, frames or pictures each loses as many as the one that loses
   most, as released.
3. Of pictures in tiles, that leaves more than the budget, and the rest goes before layer 2 of 32 of the decoder, at the
   same fraction of other depths: by the same score in the layer that just ran, the prompt's last row in the place of
   the class row, softmaxes over visual rows alone, and products of values divided by the root of their size, too.
4. Rows are dropped, not merged. Positions are numbered anew.

Patches that have left stay in the tensors, where nothing sees them, up to the selected layer, which runs on what is
left: shapes may depend on the request but not on the picture.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.errors import UsageError
from edgeprune.layers.attention import attend
from edgeprune.methods.method import Method
from edgeprune.methods.runs import most_of_prompt
from edgeprune.methods.selection import chosen_first, gather_rows, rank, read_keep, top
from edgeprune.methods.visual_rows import Positions, columns, drop_rows
from edgeprune.towers.clip import ClipSettings, ClipTower, Layer

_LEAST = torch.finfo(torch.float32).min
_TINY = 1e-30


class Encoder(nn.Module):
    """CLIP's encoder up to the selected layer, with the cuts inside; parameters are those of ``ClipTower``.

    Args:
        config: the tower's sizes.
        feature_layer: 0-based index of the layer whose output is selected.
        fused: dialect. Layers that must not see every row are in primitive operators in both.

    Raises:
        UsageError: no layer comes before the selected one.
    """

    def __init__(self, config: ClipSettings, feature_layer: int, fused: bool) -> None:
        super().__init__()
        if feature_layer == 0:
            raise UsageError(
                "flowcut prunes in the layers before the one that the model reads, and this model reads the first"
            )
        tower = ClipTower(config, feature_layer, (), fused)
        self.embeddings, self.pre_layrnorm, self.encoder = tower.embeddings, tower.pre_layrnorm, tower.encoder

    def forward(
        self, pixel_values: torch.Tensor, keep: torch.Tensor, runs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode and prune.

        Args:
            pixel_values: [C, 3, h, w].
            keep: int64 scalar K, patches out of a run.
            runs: int64 scalar, how many runs a prompt has.

        Returns:
            features [C, K, Dv] and ``kept`` [C, K] int64 patch indices, ascending; without the class row.
        """
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        count = read_keep(keep, x.shape[1] - 1)
        *layers, selected = self.encoder["layers"].children()
        alive = torch.ones_like(x[:, 1:, 0], dtype=torch.float32) > 0
        standing: torch.Tensor | None = None
        mask: torch.Tensor | None = None  # [B, 1, 1, N + 1] fp32
        for index, layer in enumerate(layers):
            x, attention, score = _run(layer, x, mask)
            standing = score if standing is None else 0.5 * standing + 0.5 * score
            left = len(layers) - 1 - index
            if left % 2 == 0:
                most = _stay(attention, alive, keep, runs, left)
                alive = rank(standing.masked_fill(~alive, -1.0)) < most
                seen = torch.cat((torch.ones_like(alive[:, :1]), alive), dim=1)
                mask = torch.where(seen, 0.0, _LEAST)[:, None, None]
        kept = chosen_first(alive)[:, :count]
        rows, _, _ = selected(torch.cat((x[:, :1], gather_rows(x[:, 1:], kept)), dim=1))
        return rows[:, 1:], kept


def _run(
    layer: nn.Module, x: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer whose rows see only some keys.

    Args:
        layer: of the tower.
        x: [B, N + 1, Dv].
        mask: [B, 1, 1, N + 1] fp32, added to the logits; None where all keys are seen.

    Returns:
        The layer's output; [B, N] fp32 the class row's attention as shares of its sum; [B, N] fp32 scores.
    """
    assert isinstance(layer, Layer)
    own = layer.self_attn
    normed = layer.layer_norm1(x)
    q, k, v = (own.split(project(normed)) for project in (own.q_proj, own.k_proj, own.v_proj))
    x = x + own.out_proj(attend(q, k, v, mask, own.fused and mask is None))
    x = x + layer.mlp(layer.layer_norm2(x))

    value = v.float()
    attention = _share(q[:, :, :1].float() * (1.0 / math.sqrt(q.shape[-1])), k.float(), mask)
    likeness = _share(value[:, :, :1], value, mask)
    strength = value.mean(dim=1).abs().sum(dim=-1)[:, 1:]
    return x, attention, (attention + likeness) * strength


def _share(row: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax of one row [B, H, 1, d] over rows [B, H, N + 1, d], over heads; of patches, as shares: [B, N] fp32."""
    logits = torch.matmul(row, rows.transpose(2, 3))
    weights = torch.softmax(logits if mask is None else logits + mask, dim=-1).mean(dim=1)[:, 0, 1:]
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(_TINY)


def _stay(
    attention: torch.Tensor, alive: torch.Tensor, keep: torch.Tensor, runs: torch.Tensor, left: int
) -> torch.Tensor:
    """How many patches stay at a cut: of all runs of a prompt as many as of the one that loses most.

    Args:
        attention: [C, N] fp32, shares of the class row's attention.
        alive: [C, N] bool, patches before the cut.
        keep: int64 scalar.
        runs: int64 scalar.
        left: layers before the selected one that come after the cut.

    Returns:
        [C, 1] or a scalar, int64.
    """
    if left == 0:
        return keep
    n = alive.float().sum(dim=1, keepdim=True)
    entropy = -(attention * attention.clamp_min(_TINY).log()).sum(dim=1, keepdim=True)
    focus = (entropy / n.log().clamp_min(1e-6)).clamp(0.0, 1.0)  # a single patch has no entropy: 0 / 0
    go = torch.round((n - keep) * (1.0 / math.sqrt(left)) * (1.0 - focus * focus))
    return torch.maximum((n - most_of_prompt(go, runs)).to(torch.int64), keep)


class DecoderCut(nn.Module):
    """The second cut; it has no weights.

    Args:
        positions: what becomes of position ids.
    """

    def __init__(self, positions: Positions) -> None:
        super().__init__()
        self.positions = positions

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visual_rows: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] with three axes.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            value: [B, G, S, d], of the same layer.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, R, D], R = S - V + K; its position ids [B, R], or [3, B, R]; its visual rows [B, K] int64,
            ascending; and ``kept`` [B, K] int64, indices into the V visual rows, ascending.
        """
        value = value.float()
        attention = _share_of_visual(query[:, :, -1].float(), key.float(), visual_rows)
        likeness = _share_of_visual(value[:, :, -1], value, visual_rows)
        # As many queries read every group: means over groups are those over heads.
        strength = columns(value.mean(dim=1).abs().sum(dim=-1), visual_rows)
        score = (attention + likeness) * strength
        kept = top(score, read_keep(keep, score.shape[1]))
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept


def _share_of_visual(row: torch.Tensor, rows: torch.Tensor, visual_rows: torch.Tensor) -> torch.Tensor:
    """Softmax of one row [B, H, d] over the visual ones of rows [B, G, S, d], over heads, as shares: [B, V] fp32."""
    b, h, d = row.shape
    g, s = rows.shape[1], rows.shape[2]
    scaled = (row * (1.0 / math.sqrt(d))).reshape(b, g, h // g, d)
    logits = torch.matmul(scaled, rows.transpose(2, 3)).reshape(b, h, s)
    weights = torch.softmax(columns(logits, visual_rows), dim=-1).mean(dim=1)
    return weights / weights.sum(dim=1, keepdim=True)


METHODS = (
    Method(
        name="flowcut",
        encoder=Encoder,
        decoder_cut=lambda config, fused, positions: DecoderCut(positions),
    ),
)
