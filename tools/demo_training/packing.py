"""Pack a picture's questions into one decoder sequence, and the loss of their answers.

The sequence is ``<s> USER:``, the picture's rows, then the questions one after another. A mask lets each question
see the picture and itself only and its positions start where the picture ends, so every question is computed as if
it stood alone - which is how the model is used. Knows nothing of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgeprune.demo.questions import KINDS, Question
from tools.demo_training.cuts import cutter
from tools.demo_training.drop import Cut
from tools.demo_training.network import Rows, decode
from tools.demo_training.words import BOS, EOS, PAD


@dataclass(frozen=True)
class Packed:
    """Questions of B pictures, T tokens each at most. ``question`` numbers all questions of the batch."""

    prefix: torch.Tensor  # [P]
    token: torch.Tensor  # [B, T]
    segment: torch.Tensor  # [B, T], 0 for padding
    offset: torch.Tensor  # [B, T] within the segment
    target: torch.Tensor  # [B, T], the next token where a loss reads it, else -1
    question: torch.Tensor  # [B, T]
    kind: torch.Tensor  # [Q]


def pack(tokenizer: Any, questions: Sequence[Sequence[Question]]) -> Packed:
    """Encode each picture's questions."""
    rows: list[list[tuple[int, int, int, int, int]]] = []
    kinds: list[int] = []
    for asked in questions:
        row: list[tuple[int, int, int, int, int]] = []
        for segment, question in enumerate(asked, start=1):
            ids, answer = encode(tokenizer, question)
            for k, token in enumerate(ids):
                target = ids[k + 1] if len(ids) - len(answer) - 1 <= k < len(ids) - 1 else -1
                row.append((token, segment, k, target, len(kinds)))
            kinds.append(KINDS.index(question.kind))
        rows.append(row)
    longest = max(len(row) for row in rows)
    table = np.array([row + [(PAD, 0, 0, -1, 0)] * (longest - len(row)) for row in rows])
    fields = torch.from_numpy(table).unbind(2)
    prefix = torch.tensor([BOS, *tokenizer.encode("USER:", add_special_tokens=False).ids])
    return Packed(prefix, fields[0], fields[1], fields[2], fields[3], fields[4], torch.tensor(kinds))


def encode(tokenizer: Any, question: Question) -> tuple[list[int], list[int]]:
    """Ids of question and answer together, and of the answer with its end."""
    text = f"\n{question.text} ASSISTANT:"
    asked = tokenizer.encode(text, add_special_tokens=False).ids
    answer = [*tokenizer.encode(question.answer, add_special_tokens=False).ids, EOS]
    return [*asked, *answer], answer


def answer_loss(
    model: Any, rows: torch.Tensor, packed: Packed, cuts: Sequence[Cut] = ()
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross entropy of the answers given visual rows [B, V, D], and the part of each kind answered right.

    ``cuts`` drop visual rows between decoder layers.
    """
    embed = model.model.language_model.embed_tokens
    b, v, _ = rows.shape
    prefix = embed(packed.prefix).expand(b, -1, -1)
    hidden = torch.cat((prefix, rows, embed(packed.token)), dim=1)
    start = packed.prefix.numel()
    seen = start + v
    before = torch.arange(seen, device=rows.device).expand(b, -1)
    position = torch.cat((before, seen + packed.offset), dim=1)
    whole = Rows(hidden, position, _mask(packed, seen, hidden.dtype))
    hidden = decode(model, whole, cutter(cuts, start, v))[:, -packed.token.shape[1] :]

    read = packed.target >= 0
    logits = model.lm_head(hidden[read])
    target = packed.target[read]
    loss = F.cross_entropy(logits, target)
    with torch.no_grad():
        wrong = torch.zeros(packed.kind.numel(), device=rows.device)
        wrong.index_add_(0, packed.question[read], (logits.argmax(-1) != target).float())
        right = (wrong == 0).float()
        figures = {
            kind: float(right[packed.kind == k].mean()) for k, kind in enumerate(KINDS) if (packed.kind == k).any()
        }
    return loss, {"answer": float(loss.detach()), **figures}


def _mask(packed: Packed, seen: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive [B, 1, S, S]: causal over the picture; a question's token sees the picture and its own segment."""
    b, t = packed.token.shape
    size = seen + t
    segment = torch.cat((torch.full((b, seen), -1, device=packed.segment.device), packed.segment), dim=1)
    same = segment[:, :, None] == segment[:, None, :]
    open_ = (same | (segment == -1)[:, None, :]) & torch.ones(
        size, size, dtype=torch.bool, device=segment.device
    ).tril()
    mask = torch.zeros(b, 1, size, size, dtype=dtype, device=segment.device)
    return mask.masked_fill_(~open_[:, None], float("-inf"))
