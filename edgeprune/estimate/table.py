"""Forecasts as text: one in full, several budgets on one machine, or one per machine."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgeprune.estimate.forecast import CONVENTIONS, Figure, Forecast
from edgeprune.estimate.precision import PRECISIONS
from edgeprune.estimate.verdict import Verdict, spell

Row = tuple[Forecast, Verdict]
_LETTERS = {"vision": "v", "text": "t", "prune": "m", "project": "j", "prefill": "p"}
_WORDS = {"v": "encoder", "t": "text tower", "m": "the method's own graphs", "j": "projector", "p": "decoder"}
_BAR = 60  # columns of the longest
WIDTH = 100
"""Columns of a line of words."""


def render_one(rows: Sequence[Row]) -> str:
    """The last row in full, beside the unpruned one before it if there is one."""
    found, verdict = rows[-1]
    lines = [
        f"{_head(found)}, {_asked(found)}",
        f"visual tokens: {_counts(found)}; {found.text_tokens} text tokens, {found.new_tokens} new ones",
        "",
        *_graphs(found),
        "",
        *render_bars([row[0] for row in rows]),
        "",
        *_facts(found),
        "",
        *_wrapped(verdict.lines),
        *_footnotes(rows[-1:]),
    ]
    return "\n".join(lines)


def render_budgets(rows: Sequence[Row]) -> str:
    """Several methods and budgets on one machine, a line and a bar each, then the verdict on the fastest."""
    found, verdict = min(rows, key=lambda row: row[0].ttft_ms.value)
    head = ["method", "keep", "visual tokens", "average", "GFLOP", "TTFT ms", "", "speed-up", "tokens/s", "GB"]
    table = [[*head, "verdict"]] + [
        [
            f.method or "-",
            f.keep,
            _chain(f),
            f"{f.average:.0f}",
            f"{f.flops_total / 1e9:,.0f}",
            spell(f.ttft_ms.value),
            _span(f.ttft_ms),
            f"{f.speedup:.2f}x",
            spell(f.decode.value),
            f"{f.memory.run / 1e9:.3g}",
            judged.memory,
        ]
        for f, judged in rows
    ]
    asked = f"{found.text_tokens} text tokens, {found.new_tokens} new ones"
    bars = render_bars([f for f, _ in rows])
    lines = [f"{_head(found)}; {asked}", "", *_aligned(table, left=3, last=True), "", *bars, ""]
    return "\n".join([*lines, f"the fastest, {_asked(found)}:", *_wrapped(verdict.lines), *_footnotes(rows)])


def render_machines(rows: Sequence[Row]) -> str:
    """One model on several machines: those where it fits first, the fastest first."""
    ordered = sorted(rows, key=lambda row: (not row[0].fits, row[0].ttft_ms.value))
    found, several = rows[0][0], len({(f.method, f.keep) for f, _ in rows}) > 1
    head = ["target", "TTFT ms", "", "speed-up", "at most", "floor", "tokens/s", "GB", "of", "verdict"]
    table = [["asked", *head] if several else head]
    for f, verdict in ordered:
        cells = [
            f.target,
            spell(f.ttft_ms.value),
            _span(f.ttft_ms),
            f"{f.speedup:.2f}x",
            f"{f.limits.most_speedup:.1f}x",
            str(f.limits.tokens),
            spell(f.decode.value),
            f"{f.memory.run / 1e9:.3g}",
            "?" if f.memory_there is None else f"{f.memory_there / 1e9:.3g}",
            verdict.memory,
        ]
        table.append([_asked(f), *cells] if several else cells)
    asked = "" if several else f", {_asked(found)}"
    lines = [
        f"{found.model} in {found.dtype}{asked}; {found.text_tokens} text tokens, {found.new_tokens} new ones",
        "",
        *_aligned(table, left=2 if several else 1, last=True),
        "",
        "speed-up: of TTFT, against keeping all tokens; at most: with a single visual token",
        "floor: fewer visual tokens than these do not help, reading the weights takes as long",
        "GB, of: what running takes, of what the device has for it",
        "one device in full: --target NAME",
        *_footnotes(ordered),
    ]
    return "\n".join(lines)


def render_bars(forecasts: Sequence[Forecast]) -> list[str]:
    """Time to the first token by stage, one bar each; the longest has sixty columns."""
    longest = max(f.ttft_ms.value for f in forecasts)
    labels = [_asked(f) for f in forecasts]
    width, used, lines = max(map(len, labels)), "", []
    for label, f in zip(labels, forecasts, strict=True):
        bar, spent = "", 0.0
        for stage in f.stages:  # each ends where the sum up to it does, so that rounding does not add up
            spent += stage.ms
            bar += _LETTERS[stage.name] * (round(_BAR * spent / longest) - len(bar))
        used += bar
        lines.append(f"{label:<{width}}  {spell(f.ttft_ms.value):>6} ms  {bar}")
    legend = ", ".join(f"{letter} {word}" for letter, word in _WORDS.items() if letter in used)
    return [f"TTFT by stage: {legend}", *lines]


def _asked(found: Forecast) -> str:
    return f"{found.method} keep {found.keep}" if found.method else "keep all"


def _head(found: Forecast) -> str:
    where = "this machine" if found.target == "here" else found.target
    return f"{found.model} in {found.dtype} on {where} ({found.device})"


def _counts(found: Forecast) -> str:
    if not found.counts:
        return f"all {found.tokens}"
    return f"{_chain(found)} of {found.tokens}, {found.average:.4g} on average"


def _chain(found: Forecast) -> str:
    return " > ".join(map(str, found.counts or (found.tokens,)))


def _graphs(found: Forecast) -> list[str]:
    """Every graph of the prompt, their sum, and a step of decoding."""
    entries = [[e.name, f"{e.flops / 1e9:,.1f}", f"{e.bytes / 1e6:,.1f}", f"{e.ms:.2f}", e.bound] for e in found.graphs]
    whole = [
        "prompt",
        f"{found.flops_total / 1e9:,.1f}",
        f"{found.bytes_total / 1e6:,.1f}",
        f"{found.ttft_ms.value:.2f}",
        "",
    ]
    step = [
        "step",
        f"{found.step_flops / 1e9:,.1f}",
        f"{found.step_bytes / 1e6:,.1f}",
        f"{1e3 / found.decode.value:.2f}",
    ]
    return _aligned(
        [["graph", "GFLOP", "MB", "ms", "waits for"], *entries, whole, [*step, found.decode_bound]], left=1, last=True
    )


def _facts(found: Forecast) -> list[str]:
    memory = found.memory
    segments = " + ".join(f"{size / 1e6:.3g}" for size in memory.cache)
    conventions = [f"{getattr(found, key) / 1e12:.4g} T: {how}" for key, how in CONVENTIONS.items()]
    lines = [
        f"TTFT    {spell(found.ttft_ms.value)} ms {_span(found.ttft_ms)}; keeping all {spell(found.unpruned_ms)} ms",
        f"decode  {spell(found.decode.value)} tokens/s {_span(found.decode)}, waits for {found.decode_bound}; "
        f"keeping all {spell(found.decode_unpruned)}",
        f"memory  {memory.run / 1e9:.3g} GB to run: weights {memory.weights / 1e9:.3g}, activations "
        f"{memory.activations / 1e9:.3g}, cache twice {sum(memory.cache) / 1e9:.3g} ({segments} MB by segment); "
        f"token embeddings, {memory.embedding / 1e9:.3g} GB, stay a mapped file",
        *_pruned(found),
        f"build   {memory.build / 1e9:.3g} GB of host memory at its peak, one graph after another",
        *(f"{word:<8}{line}" for word, line in zip(("FLOPs", "", ""), conventions, strict=True)),
    ]
    return _wrapped(lines, " " * 8)


def _pruned(found: Forecast) -> list[str]:
    """The two things side by side that pruning is about, keys and values first; nothing where all is kept."""
    share, unpruned = found.encoder_share, found.limits.encoder_share
    runs = f", {found.runs} runs of the encoder" if found.runs > 1 else ""
    if not found.counts:
        return [f"share   encoder {100 * share:.0f}% of TTFT{runs}"] if runs else []
    kept = sum(found.memory.cache)
    return [
        f"cache   {_megabytes(kept)} pruned, {_megabytes(found.cache_unpruned)} keeping all: "
        f"{100 * kept / found.cache_unpruned:.0f}%",
        f"share   encoder {100 * share:.0f}% of TTFT pruned, {100 * unpruned:.0f}% keeping all{runs}",
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _footnotes(rows: Sequence[Row]) -> list[str]:
    """What holds for all of them."""
    bands = sorted({round(100 * f.band) for f, _ in rows})
    spread = f"{bands[0]}%" if len(bands) == 1 else f"{bands[0]}% to {bands[-1]}%, by the kind of device"
    such = "estimates for other machines" if rows[0][0].target == "here" else "such estimates"
    lines = [f"Ranges are {spread}: the median error of {such} where figures are published."]
    named = {f.dtype for f, _ in rows} | {verdict.memory.removeprefix("needs ") for _, verdict in rows}
    if smaller := " and ".join(name for name in PRECISIONS if name in named and name not in ("fp32", "fp16")):
        lines.append(f"{smaller}: estimated alone, edgeprune itself exports fp32 and fp16.")
    return ["", *_wrapped(lines)]


def _wrapped(lines: Sequence[str], indent: str = "  ") -> list[str]:
    """As wide as a page; what is left of a line is indented."""
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent=indent)]


def _span(figure: Figure) -> str:
    return f"({spell(figure.low)}..{spell(figure.high)})"


def _aligned(table: Sequence[Sequence[str]], left: int, last: bool = False) -> list[str]:
    """Columns of equal width: the first ``left`` ones, and the last if asked, begin where their column does."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            f"{cell:<{width}}" if place < left or (last and place == len(row) - 1) else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
