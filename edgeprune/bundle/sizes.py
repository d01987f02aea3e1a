"""How large a model's parts are: what a manifest, a recipe and a config.json all say, and costs are counted from."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from edgeprune.errors import BundleError


@dataclass(frozen=True)
class Vision:
    """The encoder.

    Attributes:
        grid: patches of a picture, rows and columns.
        width: of its features.
        layers: how many run; those behind the one whose output is taken do not count.
        heads: attention heads.
        intermediate: width of the feed-forward.
        patch: pixels on a side.
    """

    grid: tuple[int, int]
    width: int
    layers: int
    heads: int
    intermediate: int
    patch: int

    def __post_init__(self) -> None:
        sizes = (*self.grid, self.width, self.layers, self.heads, self.intermediate, self.patch)
        if min(sizes) < 1:
            raise BundleError(f"{self}; expected sizes of 1 or more")
        if self.width % self.heads:
            raise BundleError(f"vision has width {self.width} over {self.heads} heads; expected a multiple")

    @property
    def tokens(self) -> int:
        """Patches of one picture, which are its visual tokens without pruning."""
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.heads


@dataclass(frozen=True)
class Decoder:
    """Sizes of the language model; ``context`` is the longest sequence it has positions for."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise BundleError(f"{self}; expected sizes of 1 or more")
        if self.heads % self.kv_heads:
            raise BundleError(f"decoder has {self.heads} heads over {self.kv_heads} kv_heads; expected a multiple")


@dataclass(frozen=True)
class TextTower:
    """CLIP's text tower, and the width ``embed`` of the space that both towers are projected into."""

    layers: int
    width: int
    heads: int
    intermediate: int
    embed: int

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise BundleError(f"{self}; expected sizes of 1 or more")
