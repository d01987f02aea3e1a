"""Which models can carry a method, by the facts of their encoder, and whether its paper says how.

Whether a budget can be had there is the business of ``edgeprune.budget``; whether a checkpoint's weights suit, of an
export.
"""

from __future__ import annotations

import re
from typing import Protocol

from edgeprune.catalog.card import Card

CLIP = "CLIP's"
_TOWERS = {"qwen2_5_vl": "Qwen2.5-VL's own", "internvl": "InternViT"}
_BUILT_AS_CLIP = {"video_llava": "LanguageBind's"}
"""Encoders of CLIP's build, with weights and a space of their own."""

_LINE_ENDS = re.compile(
    r"[,;] (and )?(no |neither )?newline rows( nor unpadding)?( among them)?(, which [^,;:]+)?"
    r"|; the paper has no setting for LLaVA-NeXT"
)


class Encoder(Protocol):
    """What of an encoder's facts counts here; ``bundle.sizes.Vision`` has them."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """Visual tokens of a run, rows and columns; None where every picture has its own."""

    @property
    def class_row(self) -> str:
        """Whether there is one, and where: "apart", "inside" or "none"."""

    @property
    def merge(self) -> int:
        """Patches on a side that make one visual token."""


def tower(family: str, vision: Encoder) -> str:
    """Whose encoder a model has, for messages: that of CLIP, where it is not the family's own, has a class row."""
    return _TOWERS.get(family) or ("SigLIP's" if vision.class_row == "none" else CLIP)


def obstacle(card: Card, vision: Encoder, kind: str, family: str, layers: int) -> str | None:
    """Why a model cannot carry a method; None where it can.

    Args:
        card: of the method.
        vision: the encoder.
        kind: of the processing of pictures: "fixed", "tiles", "frames" or "native".
        family: how the model is put together.
        layers: depth of the decoder.
    """
    encoder, cuts = tower(family, vision), card.cuts(layers, kind)
    if card.clip == "vision" and encoder != CLIP:
        return f"it prunes inside CLIP's encoder, by its class row, and the model's encoder is {encoder}"
    owner = _BUILT_AS_CLIP.get(family, encoder)
    if card.clip == "both" and owner != CLIP:
        return (
            f"it compares patches with the question in the space of CLIP, and the model's encoder is {owner}: "
            "no text tower of CLIP belongs to it"
        )
    if card.grid and (kind == "native" or vision.grid is None):
        return "it is made for a grid that is known at export, and here every picture has a grid of its own"
    if any(not 0 < cut < layers for cut in cuts):
        return f"it cuts before layers {', '.join(map(str, cuts))}, and the decoder has {layers}"
    return None


def generalised(card: Card, vision: Encoder, kind: str, blends: bool, newline: bool) -> tuple[str, ...]:
    """How a method prunes a model beyond one picture of one run, as its card has it; "ours" marks what no paper says.

    Args:
        card: of the method.
        vision: the encoder.
        kind: of the processing of pictures.
        blends: whether the model pools frames or shrinks large mosaics of tiles.
        newline: whether rows end the lines of a picture; what is said of those is left out where there are none.
    """
    there = {kind: True, "blended": blends, "bare": vision.class_row == "none", "merged": vision.merge > 1}
    lines = (card.elsewhere[aspect] for aspect, has in there.items() if has and aspect in card.elsewhere)
    return tuple(line if newline else _LINE_ENDS.sub("", line) for line in lines)
