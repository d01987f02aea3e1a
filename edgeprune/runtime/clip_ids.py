"""A question as CLIP's text tower reads it: token ids of a fixed length, as Hugging Face's CLIPTokenizer gives them."""

from __future__ import annotations

from edgeprune.bundle.manifest import TextFacts
from edgeprune.bundle.store import Bundle
from edgeprune.runtime.prompt import read_tokenizer


class ClipIds:
    """CLIP's tokenizer of a bundle.

    Args:
        bundle: opened, with facts of CLIP's text.
        facts: these.

    Raises:
        BundleError: the tokenizer cannot be read.
    """

    def __init__(self, bundle: Bundle, facts: TextFacts) -> None:
        self.facts = facts
        self._tokenizer = read_tokenizer(bundle.path(facts.tokenizer))

    def __call__(self, question: str) -> tuple[int, ...]:
        """Start token, the question's tokens as far as they go in, end token, padding."""
        facts = self.facts
        ids = self._tokenizer.encode(question, add_special_tokens=False).ids[: facts.length - 2]
        padding = [facts.pad_id] * (facts.length - 2 - len(ids))
        return (facts.start_id, *ids, facts.end_id, *padding)


def open_clip_ids(bundle: Bundle) -> ClipIds | None:
    """CLIP's tokenizer of a bundle; None where no graph reads its ids."""
    facts = bundle.manifest.text
    return None if facts is None else ClipIds(bundle, facts)
