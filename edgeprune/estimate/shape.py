"""A model as its sizes: what costs are counted from, wherever they were read."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.bundle.manifest import Manifest
from edgeprune.bundle.sizes import Decoder, TextTower, Vision

CLIP_LENGTH, CLIP_VOCAB = 77, 49408
CLIP_TEXT = TextTower(layers=12, width=768, heads=12, intermediate=3072, embed=768)
"""Of CLIP ViT-L/14, whose vision tower LLaVA-1.5 has; for methods that read the question with it."""


@dataclass(frozen=True)
class Shape:
    """A model.

    Attributes:
        name: what reports call it.
        vision: the encoder.
        decoder: the language model.
        pictures: encoder runs of one request (the crops of one picture); their rows lie in one visual span.
        text, text_length, text_vocab: CLIP's text tower, the tokens of its text and of its vocabulary, for the methods
            that need one.
    """

    name: str
    vision: Vision
    decoder: Decoder
    pictures: int = 1
    text: TextTower = CLIP_TEXT
    text_length: int = CLIP_LENGTH
    text_vocab: int = CLIP_VOCAB

    @property
    def tokens(self) -> int:
        """Visual tokens without pruning."""
        return self.pictures * self.vision.tokens

    @classmethod
    def of(cls, manifest: Manifest) -> Shape:
        """The model of a bundle."""
        name, text = manifest.model.id, manifest.text
        if text is None:
            return cls(name, manifest.vision, manifest.decoder)
        vocab = 1 + max(text.start_id, text.end_id, text.pad_id)  # the end token is the last of CLIP's
        return cls(name, manifest.vision, manifest.decoder, 1, text.tower, text.length, vocab)
