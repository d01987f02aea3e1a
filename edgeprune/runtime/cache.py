"""Keys and values of one request, segment by segment.

Segments before a cut saw more rows than those after it, so each has its own length; nothing is ever evicted.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.bundle.manifest import Graph
from edgeprune.runtime.backend import Array


@dataclass
class SegmentCache:
    """Keys and values of one segment's layers.

    Attributes:
        arrays: by the name the segment takes them under, ``past_key_<l>`` and ``past_value_<l>`` [B, G, P, d].
        length: P.
    """

    arrays: dict[str, Array]
    length: int

    def grow(self, outputs: dict[str, Array], rows: int) -> None:
        """Take over a segment's ``present_*`` outputs after it ran on ``rows`` more rows."""
        for name in self.arrays:
            self.arrays[name] = outputs[name.replace("past_", "present_", 1)]
        self.length += rows


@dataclass
class Cache:
    """What a request carries from one token to the next.

    Attributes:
        segments: one cache per segment, in order.
        prompt: position of what follows the prompt, without any cut inside the decoder: its length, but for
            decoders whose positions have several axes.
        generated: tokens fed back so far.
        repack: whether positions are numbered anew after every cut.
    """

    segments: list[SegmentCache]
    prompt: int
    generated: int
    repack: bool

    def position(self, index: int) -> int:
        """Position id of the next token in segment ``index``."""
        return self.segments[index].length if self.repack else self.prompt + self.generated

    @property
    def longest(self) -> int:
        """Rows in the longest segment, or the next position where that is further: what the context limits."""
        rows = max(segment.length for segment in self.segments)
        return rows if self.repack else max(rows, self.prompt + self.generated)


def cache_names(segment: Graph) -> list[str]:
    """Inputs of a segment that hold its cache."""
    return [tensor.name for tensor in segment.inputs if tensor.name.startswith("past_")]
