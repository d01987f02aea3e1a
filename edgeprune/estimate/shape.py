"""A model and the pictures of a request as sizes: what costs are counted from, wherever they were read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, isqrt

from edgeprune.budget.schedule import Site
from edgeprune.bundle.extent import SHRINKS_ABOVE
from edgeprune.bundle.manifest import Manifest, Place
from edgeprune.bundle.prompt import Medium
from edgeprune.bundle.sizes import Decoder, TextTower, Vision
from edgeprune.catalog.carry import tower

CLIP_LENGTH, CLIP_VOCAB = 77, 49408
CLIP_TEXT = TextTower(layers=12, width=768, heads=12, intermediate=3072, embed=768)
"""Of CLIP ViT-L/14, whose vision tower LLaVA-1.5 has; for methods that read the question with it."""
WINDOW = 4
"""Visual tokens on a side of a window in Qwen2.5-VL's encoder: 112 of 28 pixels."""


@dataclass(frozen=True)
class Shape:
    """A model, and what its pictures become.

    Attributes:
        name: what reports call it.
        vision: the encoder.
        decoder: the language model.
        runs: of the encoder in one request: tiles of a picture, frames of a video.
        rows: visual rows that enter the decoder without pruning; None for all that the runs give.
        family: how the model is put together.
        kind: of pixels: "fixed", "tiles", "frames" or "native".
        medium: "image" or "video".
        size: height and width in pixels of a run; None for what its patches have.
        blends: whether rows of the decoder may be blended from several of the encoder.
        shrinks: whether they are, where nothing is pruned before.
        newline: whether the model has a newline row.
        text, text_length, text_vocab: CLIP's text tower, the tokens of its text and of its vocabulary, for the methods
            that need one.
    """

    name: str
    vision: Vision
    decoder: Decoder
    runs: int = 1
    rows: int | None = None
    family: str = "llava"
    kind: str = "fixed"
    medium: Medium = "image"
    size: tuple[int, int] | None = None
    blends: bool = False
    shrinks: bool = False
    newline: bool = False
    text: TextTower = CLIP_TEXT
    text_length: int = CLIP_LENGTH
    text_vocab: int = CLIP_VOCAB

    @property
    def tokens(self) -> int:
        """Visual tokens without pruning."""
        return self.runs * self.vision.tokens if self.rows is None else self.rows

    @property
    def per_run(self) -> int:
        """Rows that a run of the encoder gives."""
        return self.vision.tokens or self.tokens // self.runs

    @property
    def given(self) -> int:
        """Rows of all runs."""
        return self.runs * self.per_run

    @property
    def cells(self) -> int:
        """Those of them that stand for a place."""
        return self.vision.cells or self.per_run

    @property
    def patches(self) -> int:
        """Patches of a run."""
        return self.cells * self.vision.merge**2

    @property
    def class_rows(self) -> int:
        """Class rows of a run: 0 or 1."""
        return int(self.vision.class_row != "none")

    @property
    def keys(self) -> int:
        """Keys of a run that methods compare: of its visual tokens, and of its class row."""
        return self.cells + self.class_rows

    @property
    def tower(self) -> str:
        """Whose encoder it is."""
        return tower(self.family, self.vision)

    @property
    def windows(self) -> int:
        """Windows of a picture of its own size that is as high as wide."""
        return ceil(isqrt(self.cells) / WINDOW) ** 2

    def site(self, places: tuple[Place | int, ...]) -> Site:
        """Where a method with such places prunes."""
        return Site.of(self.vision, self.decoder.layers, self.medium, places, self.tokens, self.runs)

    @classmethod
    def of(cls, manifest: Manifest, tokens: int | None = None, runs: int | None = None) -> Shape:
        """The model of a bundle.

        Args:
            manifest: of the bundle.
            tokens: visual rows of the prompt that enter the decoder without pruning.
            runs: of the encoder; None, as ``tokens``, for the most that one picture or video can have.
        """
        text, layout, native = manifest.text, manifest.layout, manifest.image.kind == "native"
        runs = manifest.image.most_runs if runs is None else runs
        tiles = runs - 1
        found = cls(
            name=manifest.model.id,
            vision=manifest.vision,
            decoder=manifest.decoder,
            runs=runs,
            rows=manifest.most_tokens if tokens is None else tokens,
            family=manifest.model.family,
            kind=manifest.image.kind,
            medium=manifest.prompt.medium,
            size=None if native else manifest.image.size,
            blends=layout.taps > 1,
            shrinks=layout.kind == "pooled" or (layout.limit is not None and tiles > SHRINKS_ABOVE**2 * layout.limit),
            newline=layout.newline,
        )
        if text is None:
            return found
        vocab = 1 + max(text.start_id, text.end_id, text.pad_id)  # the end token is the last of CLIP's
        return replace(found, text=text.tower, text_length=text.length, text_vocab=vocab)
