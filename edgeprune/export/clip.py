"""A CLIP checkpoint beside the model's own: for methods that compare the picture with the question in CLIP's space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgeprune.bundle.manifest import TextFacts
from edgeprune.bundle.sizes import TextTower
from edgeprune.bundle.store import describe
from edgeprune.checkpoint import facts
from edgeprune.checkpoint.clip import ClipConfig, read_clip_config
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import CheckpointError
from edgeprune.families.part import Part

TOKENIZER = "text_tokenizer.json"


@dataclass(frozen=True)
class Clip:
    """An opened CLIP checkpoint.

    Attributes:
        source: where it is.
        config: its sizes.
        weights: its tensors.
    """

    source: Source
    config: ClipConfig
    weights: Weights

    def part(self, module: nn.Module) -> Part:
        """A module whose parameters carry the checkpoint's own names."""
        return Part(module, self.weights, str)

    def write_facts(self, work: Path) -> TextFacts:
        """Write the tokenizer into a bundle's folder, and say how texts are tokenised.

        Raises:
            CheckpointError: there is no tokenizer, or one of another vocabulary.
        """
        start, end, pad = facts.text_token_ids(self.source)
        if max(start, end, pad) >= self.config.text.vocab:
            raise CheckpointError(
                f"{self.source.path}: the tokenizer has the id {max(start, end, pad)}, and the text tower "
                f"{self.config.text.vocab} of them; give a checkpoint with its own tokenizer"
            )
        path = work / TOKENIZER
        path.write_bytes(facts.tokenizer_files(self.source)["tokenizer.json"])
        text = self.config.text
        tower = TextTower(text.layers, text.hidden, text.heads, text.intermediate, self.config.embed)
        tokenizer = describe(work, path)
        return TextFacts(self.source.id, self.source.revision, tokenizer, text.length, start, end, pad, tower)


def open_clip(source: Source) -> Clip:
    """Open a CLIP checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is no CLIP model.
    """
    return Clip(source, read_clip_config(source.path), Weights(source.path))
