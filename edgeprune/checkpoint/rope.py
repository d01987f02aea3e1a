"""The rotary embedding of a decoder, from the spellings that configurations have had.

``rope_parameters`` holds everything since transformers 5; ``rope_theta`` beside ``rope_scaling`` is older. Two kinds
are others under another name: "dynamic" changes frequencies only beyond ``max_position_embeddings``, where nothing here
goes, and "mrope" is the default with positions of three axes, which other decoders than Qwen2.5-VL's do not have. Knows
no angles: ``layers`` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import CheckpointError, UnsupportedModel

KINDS = ("default", "linear", "llama3")
_THREE_AXES = "qwen2_5_vl_text"
_ALIASES = {"dynamic": "default", "mrope": "default"}


@dataclass(frozen=True)
class Rope:
    """A rotary embedding.

    Attributes:
        theta: base of the frequencies.
        kind: one of ``KINDS``; the fields below say nothing where the kind does not use them.
        factor: linear, llama3: how many times longer the context became.
        low_freq_factor: llama3: wavelengths above original_context / this are scaled by the factor.
        high_freq_factor: llama3: wavelengths below original_context / this are left alone.
        original_context: llama3: the context before it was stretched, in tokens; 0 for the other kinds.
        sections: rotation planes per axis (time, row, column) where positions have three; empty where they have one.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context: int = 0
    sections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.theta <= 0 or self.factor <= 0:
            raise ValueError(f"theta {self.theta} and factor {self.factor} must be positive")
        ordered = self.low_freq_factor < self.high_freq_factor
        if self.kind == "llama3" and not (ordered and self.original_context > 0):
            raise ValueError(
                f"llama3 needs low_freq_factor {self.low_freq_factor} below high_freq_factor "
                f"{self.high_freq_factor}, and original_context {self.original_context} above 0"
            )


def check_kind(path: Path, text: Mapping[str, Any]) -> str:
    """The kind a text_config asks for, whether or not its defaults are filled in.

    Raises:
        UnsupportedModel: it is none of ``KINDS``.
    """
    values = _values(text)
    kind = values.get("rope_type") or values.get("type") or "default"
    kind = _ALIASES.get(kind, kind)
    if kind not in KINDS:
        raise UnsupportedModel(f"{path}: rope type {kind!r} is not supported; expected {' or '.join(KINDS)}")
    return str(kind)


def read_rope(path: Path, text: Mapping[str, Any], head_dim: int) -> Rope:
    """Reads the rotary embedding.

    Args:
        path: config.json, for messages.
        text: text_config with its defaults filled in.
        head_dim: width of a head, twice its rotation planes.

    Raises:
        UnsupportedModel: a kind other than ``KINDS``, or a part of the head only.
        CheckpointError: a value the kind needs is missing or out of range.
    """
    values = _values(text)
    kind = check_kind(path, text)
    part = values.get("partial_rotary_factor", text.get("partial_rotary_factor", 1.0))
    if part not in (None, 1.0):
        raise UnsupportedModel(f"{path}: partial_rotary_factor = {part} is not supported; expected 1.0")
    theta = float(values.get("rope_theta") or text.get("rope_theta") or 10000.0)
    try:
        if kind == "default":
            return Rope(theta, sections=_sections(path, values, head_dim) if text["model_type"] == _THREE_AXES else ())
        if kind == "linear":
            return Rope(theta, kind, factor=float(values["factor"]))
        return Rope(
            theta,
            kind,
            factor=float(values["factor"]),
            low_freq_factor=float(values["low_freq_factor"]),
            high_freq_factor=float(values["high_freq_factor"]),
            original_context=int(values["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: rope type {kind!r} lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: rope type {kind!r}: {error}") from error


def _sections(path: Path, values: Mapping[str, Any], head_dim: int) -> tuple[int, ...]:
    sections = tuple(values.get("mrope_section") or ())
    if sections and (len(sections) != 3 or min(sections) < 1 or 2 * sum(sections) != head_dim):
        raise CheckpointError(
            f"{path}: mrope_section {list(sections)} must be three numbers that add up to {head_dim // 2}, "
            f"half the width of a head"
        )
    return sections


def _values(text: Mapping[str, Any]) -> Mapping[str, Any]:
    values = text.get("rope_parameters") or text.get("rope_scaling")
    return values if isinstance(values, Mapping) else {}
