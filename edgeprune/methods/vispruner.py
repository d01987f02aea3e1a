"""VisPruner: half of the rows by the class row's attention, half by dropping what others resemble.

Zhang et al., "Beyond Text-Visual Attention" (ICCV 2025), as released.

1. After the encoder, before the projector. Patches are ordered by the class row's attention in the selected layer; the
   first half of the rows to keep is important.
2. The others, in that order, lose eight rows per round: rows at even places are scored by their highest cosine with
   one at an odd place, and those scored highest go. Then come the even rows that are left, by descending score, and
   behind them the odd ones as they were.
3. The number of other rows is even in every round but the last: where it would be odd, one more row is important.
4. Rows are dropped, not merged.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.bundle.sizes import Vision
from edgeprune.layers.repeat import Repeated
from edgeprune.methods.class_row import without_class_row
from edgeprune.methods.grid import fixed_grid
from edgeprune.methods.method import Method
from edgeprune.methods.selection import chosen_first, gather_rows, rank, read_keep

STEP = 8  # rows that go per round
_NOT_ODD, _NOBODY = -4.0, -8.0  # below any cosine, the second below any sum of a cosine and the first


def drops(tokens: int, keep: int) -> tuple[int, list[int]]:
    """How many rows are important, and how many of the others go in every round.

    With fewer than sixteen rows to keep, a round may have fewer than eight even rows; then all of them go.
    """
    important = keep // 2
    important += (tokens - important) % 2
    left, spread = tokens - important, keep - important
    found = []
    while left > spread:
        found.append(min(STEP, left - spread, (left + 1) // 2))
        left -= found[-1]
    return important, found


class Round(nn.Module):
    """One round; rows that went stand at the end, as nobody."""

    def forward(self, order: torch.Tensor, cosine: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Drop rows.

        Args:
            order: [B, N] int64 patches; nobody is patch N.
            cosine: [B, N + 1, N + 1] fp32.
            count: int32 scalar, how many go, at most as many as there are even rows.

        Returns:
            [B, N] the patches that are left, in their new order.
        """
        n = order.shape[1]
        even, odd = order[:, 0::2], order[:, 1::2]
        bias = torch.full_like(cosine[:, 0], _NOT_ODD).scatter(1, odd, torch.zeros_like(odd, dtype=torch.float32))
        place = rank((gather_rows(cosine, even) + bias[:, None]).amax(dim=2))
        even = torch.where(place < count, n, even)
        both = torch.cat((even, odd), dim=1)
        behind = torch.arange(odd.shape[1], device=odd.device, dtype=torch.int32) + even.shape[1]
        placed = torch.cat((place, behind.expand_as(odd)), dim=1)
        # Rows close up over nobody. Places are distinct, so no tie is left to the runtime.
        placed = torch.where(both == n, placed + n, placed)
        return both.gather(1, torch.topk(placed, n, dim=1, largest=False, sorted=True).indices)


class VisionStage(nn.Module):
    """The encoder stage. Tables of a fixed size stand in for rows that go: one more patch, which resembles none.

    Args:
        vision: the patch grid, and whether the class row is among the features.

    Raises:
        UsageError: pictures have grids of their own.
    """

    counts: torch.Tensor

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        rows, columns = fixed_grid(
            vision, "vispruner", "drops eight patches per round, in as many rounds as the grid asks"
        )
        self.vision, n = vision, rows * columns
        found = [drops(n, max(1, keep))[1] for keep in range(n + 1)]
        self.rounds = max(len(counts) for counts in found)
        table = [counts + [0] * (self.rounds - len(counts)) for counts in found]
        self.register_buffer("counts", torch.tensor(table, dtype=torch.int32), persistent=False)  # [N + 1, rounds]
        state = (torch.int64, ("B", n)), (torch.float32, ("B", n + 1, n + 1)), (torch.int32, ())
        self.round = Repeated(Round(), "round", state)

    def forward(
        self, features: torch.Tensor, cls_attention: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prune the encoder's output.

        Args:
            features: [C, N, Dv], P patches among them.
            cls_attention: [C, P] fp32.
            keep: int64 scalar K, patches out of a run.

        Returns:
            rows [C, K, Dv] and ``kept`` [C, K] int64 patch indices, ascending.
        """
        features = without_class_row(features, self.vision)
        n = features.shape[1]
        important = torch.div(keep, 2, rounding_mode="trunc")
        important = (important + (n - important) % 2).to(torch.int32)
        place = rank(cls_attention)
        is_important = place < important
        # Important patches stand last, as nobody.
        order = torch.topk(torch.where(is_important, place + n, place), n, dim=1, largest=False, sorted=True).indices
        order = torch.where(torch.arange(n, device=order.device) < n - important, order, n)

        unit = features.float()
        unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        cosine = F.pad(torch.matmul(unit, unit.transpose(1, 2)), (0, 1, 0, 1), value=_NOBODY)  # [B, N + 1, N + 1]
        counts = self.counts.index_select(0, keep.reshape(1))[0]
        for done in range(self.rounds):  # those beyond the request's own drop none, and leave its set as it is
            order = self.round(order, cosine, counts[done])

        chosen = torch.zeros((features.shape[0], n + 1), dtype=torch.int32, device=order.device)
        chosen = chosen.scatter(1, order, torch.ones_like(order, dtype=torch.int32))[:, :n]
        kept = chosen_first((chosen > 0) | is_important)[:, : read_keep(keep, n)]
        return gather_rows(features, kept), kept


METHODS = (Method(name="vispruner", vision=VisionStage),)
