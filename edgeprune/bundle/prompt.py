"""How a model's prompt is written, as facts a bundle carries beside ``tokenizer.json``.

Knows nothing about tokenizers or templates at work: ``edgeprune.runtime.prompt`` applies these facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.errors import BundleError

Medium = Literal["image", "video"]


@dataclass(frozen=True)
class PromptFacts:
    """The chat template of a model and the tokens that mean something to it.

    Attributes:
        template: the chat template, in Jinja.
        medium: what the placeholder stands for, "image" or "video".
        image_token: the placeholder the template writes where a picture or video goes, such as ``<image>``.
        image_token_id: its token id.
        image_text: what stands for a picture inside of a question: the placeholder and what the template writes around
            it.
        wrap: texts around the placeholder that the processor adds and the template does not write.
        bos_token: the text the template sees as ``bos_token``; None where the model has none.
        eos_token: the text the template sees as ``eos_token``; None where the model has none.
        eos_token_ids: the ids that end an answer, at least one.
        context: the most positions the language model has, in tokens.
        special_tokens: texts a question may not hold, ``image_token`` among them.

    Raises:
        BundleError: a value is of the wrong type or out of range.
    """

    template: str
    medium: Medium
    image_token: str
    image_token_id: int
    image_text: str
    wrap: tuple[str, str]
    bos_token: str | None
    eos_token: str | None
    eos_token_ids: tuple[int, ...]
    context: int
    special_tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(_is_text(self.template), "template", self.template, "a text that is not empty")
        _require(_is_text(self.image_token), "image_token", self.image_token, "a text that is not empty")
        _require(_is_id(self.image_token_id), "image_token_id", self.image_token_id, "an integer from 0")
        _require(self.medium in ("image", "video"), "medium", self.medium, "'image' or 'video'")
        holds = _is_text(self.image_text) and self.image_text.count(self.image_token) == 1
        _require(holds, "image_text", self.image_text, f"a text with {self.image_token!r} in it, once")
        around = isinstance(self.wrap, tuple) and len(self.wrap) == 2 and all(isinstance(t, str) for t in self.wrap)
        _require(around, "wrap", self.wrap, "two texts")
        for name, token in (("bos_token", self.bos_token), ("eos_token", self.eos_token)):
            _require(token is None or _is_text(token), name, token, "a text that is not empty, or null")
        ends = self.eos_token_ids
        is_ends = isinstance(ends, tuple) and len(ends) > 0 and all(map(_is_id, ends))
        _require(is_ends, "eos_token_ids", ends, "one or more integers from 0")
        _require(_is_id(self.context) and self.context > 0, "context", self.context, "a positive integer")
        specials = self.special_tokens
        is_texts = isinstance(specials, tuple) and all(map(_is_text, specials))
        _require(is_texts, "special_tokens", specials, "texts that are not empty")
        is_listed = self.image_token in specials
        _require(is_listed, "special_tokens", specials, f"with {self.image_token!r} among them")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise BundleError(f"prompt: {name}={shown} is not {expected}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
