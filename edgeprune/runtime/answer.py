"""What a request returns, and its JSON form, whose field names are stable."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["eos", "length", "context"]


@dataclass(frozen=True)
class StageReport:
    """One pruning stage, as reported.

    Attributes:
        cut: "encoder" (inside it), "vision" (after it), "projected" (after the projector), or the decoder layer before
            which it lies.
        visual_tokens_in, visual_tokens_out: rows before and after.
        kept: patches of the rows out, ascending: of tiles and frames, run * N + patch, where a run has N rows unpruned
            and patches count in raster order; -1 for a class row, -2 for a newline row; a merged row counts as its
            reference patch.
        merged: the part of ``kept`` that are merged by this cut.
    """

    cut: str | int
    visual_tokens_in: int
    visual_tokens_out: int
    kept: tuple[int, ...]
    merged: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """The answer about one image.

    Attributes:
        text: the generated text, without special tokens.
        finish_reason: "eos" (the model ended), "length" (``max_new_tokens``) or "context" (no positions left).
        method: pruning method, None without pruning.
        keep: budget asked for, or chosen for "auto"; "all" without pruning.
        paper_label: what the method's paper calls this budget; None where its labels have no such row.
        visual_tokens_average: visual tokens averaged over the decoder layers.
        stages: what each stage kept; empty without pruning.
        prompt_tokens: text tokens and visual tokens before pruning.
        generated_tokens: length of ``token_ids``.
        token_ids: generated ids, the end token included.
        ttft_ms: from the picture as a file to the first token; for a batch, of all pictures together.
        ttft_predicted_ms: for keep="auto", what nine of ten such requests were expected to stay within; else None.
        itl_ms: mean time between later tokens, None if there was only one.
        timings_ms: time per stage of the chain: preprocess, vision, prune, project, text (a method's text tower),
            prefill, decode; and "trial", what keep="auto" ran in advance, which is no part of ``ttft_ms``.
        backend, dtype: what computed it.
    """

    text: str
    finish_reason: FinishReason
    method: str | None
    keep: int | str
    paper_label: str | None
    visual_tokens_average: float
    stages: tuple[StageReport, ...]
    prompt_tokens: int
    generated_tokens: int
    token_ids: tuple[int, ...]
    ttft_ms: float
    ttft_predicted_ms: float | None
    itl_ms: float | None
    timings_ms: dict[str, float]
    backend: str
    dtype: str

    def to_json(self) -> str:
        """One line of JSON with exactly these fields.

        `edgeprune run --json` prints it for one picture, and ``{"answers": [...]}`` with one per picture for several.
        """
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)
