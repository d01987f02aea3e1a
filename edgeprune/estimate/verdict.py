"""A forecast in words: whether it fits, what pruning gains there, and where it stops gaining."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeprune.estimate.forecast import Forecast
from edgeprune.estimate.memory import memory_of
from edgeprune.estimate.precision import precision
from edgeprune.estimate.request import Request, prompt_costs

SMALLER = ("fp16", "int8", "int4")
"""Precisions that take ever less memory."""
HELPS = 1.05
"""The least speed-up of the first token that counts as one."""


@dataclass(frozen=True)
class Verdict:
    """What to make of a forecast.

    Attributes:
        memory: "fits", "needs fp16", "needs int8", "needs int4" or "does not fit"; "unknown" where the device's memory
            is not known.
        helps: whether the first token comes sooner than without pruning; null where nothing is pruned.
        lines: all of it in sentences.
    """

    memory: str
    helps: bool | None
    lines: tuple[str, ...]


def judge(request: Request, forecast: Forecast) -> Verdict:
    """The verdict on a forecast of that request."""
    memory, line = _memory(request, forecast)
    lines = [line, *_build(forecast)]
    if request.method is not None:
        lines += [_gain(forecast), _decode(forecast)]
    lines += [_ceiling(forecast), _floor(forecast)]
    helps = forecast.speedup >= HELPS if request.method is not None else None
    return Verdict(memory, helps, tuple(lines))


def spell(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _memory(request: Request, forecast: Forecast) -> tuple[str, str]:
    need, there = forecast.memory.run, forecast.memory_there
    if there is None:
        return "unknown", f"memory: running takes {_gb(need)}; how much there is, is not known"
    if need <= there:
        return "fits", f"fits: running takes {_gb(need)} of {_gb(there)}"
    for name in SMALLER:
        held = precision(name)
        if held.weight >= request.precision.weight:
            continue
        smaller = replace(request, precision=held)
        found = memory_of(smaller, prompt_costs(smaller), forecast.cached).run
        if found <= there:
            needs = f"needs {name}"
            return needs, f"{needs}: {forecast.dtype} takes {_gb(need)} of {_gb(there)}, {name} {_gb(found)}"
    return "does not fit", f"does not fit: running takes {_gb(need)} of {_gb(there)}, and no smaller dtype would fit"


def _build(forecast: Forecast) -> list[str]:
    """Said where engines are built in the memory they run in, and it is too small for that."""
    need, there = forecast.memory.build, forecast.build_there
    if there is None or need <= there:
        return []
    return [
        f"building engines takes {_gb(need)} at its peak, more than there is: with swap, or more methods, whose cuts "
        "make smaller segments"
    ]


def _gain(forecast: Forecast) -> str:
    asked = f"{forecast.method} keep {forecast.keep}"
    if forecast.speedup < HELPS:
        return (
            f"will not help: {asked} takes {spell(forecast.ttft_ms.value)} ms to the first token, and all "
            f"{forecast.tokens} visual tokens take {spell(forecast.unpruned_ms)} ms"
        )
    return f"{asked} brings the first token {forecast.speedup:.1f}x sooner than all {forecast.tokens} visual tokens"


def _decode(forecast: Forecast) -> str:
    gain = round(100 * (forecast.decode.value / forecast.decode_unpruned - 1))
    return (
        f"decoding gains {gain}%, {spell(forecast.decode_unpruned)} to {spell(forecast.decode.value)} tokens/s: "
        "of what a step reads only the cache shrinks"
    )


def _ceiling(forecast: Forecast) -> str:
    limits = forecast.limits
    return (
        f"no pruning after the encoder gains more than {limits.most_speedup:.1f}x: the encoder is "
        f"{100 * limits.encoder_share:.0f}% of {spell(forecast.unpruned_ms)} ms, and a single visual token "
        f"would still take {spell(limits.least_ms)} ms"
    )


def _floor(forecast: Forecast) -> str:
    limits = forecast.limits
    read = (
        f"reading the decoder's weights takes {spell(limits.weight_read_ms)} ms, as long as computing "
        f"{limits.rows:,} rows, text included"
    )
    if not limits.tokens:
        return f"every visual token less helps: {read}, and the text alone has {forecast.text_tokens}"
    if limits.tokens >= forecast.tokens:
        return f"fewer visual tokens will not help: {read}"
    here = f"; an average of {forecast.average:.0f} is below" if forecast.average < limits.tokens else ""
    return f"fewer than {limits.tokens} visual tokens will not help: {read}{here}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
