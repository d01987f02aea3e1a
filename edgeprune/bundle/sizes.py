"""How large a model's parts are: what a manifest, a recipe and a config.json all say, and costs are counted from."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Literal, get_args

from edgeprune.bundle.codec import MAY_LACK
from edgeprune.errors import BundleError

ClassRow = Literal["apart", "inside", "none"]


@dataclass(frozen=True)
class Vision:
    """The encoder, and the visual tokens of one of its runs: a picture, a tile of one, or a frame of a video.

    Attributes:
        grid: visual tokens of a run, rows and columns; None where every picture has a grid of its own.
        width: of a row of its features, which are the patches that make one visual token side by side.
        layers: how many run; those behind the one whose output is taken do not count.
        heads: attention heads.
        intermediate: width of the feed-forward.
        patch: pixels on a side.
        class_row: "apart": there is one, and it is no visual token; "inside": it is the first row of the features, and
            enters the decoder with them; "none".
        merge: patches on a side that make one visual token.
    """

    grid: tuple[int, int] | None = field(metadata=MAY_LACK)
    width: int
    layers: int
    heads: int
    intermediate: int
    patch: int
    class_row: ClassRow = field(default="apart", metadata=MAY_LACK)
    merge: int = field(default=1, metadata=MAY_LACK)

    def __post_init__(self) -> None:
        sizes = (*(self.grid or ()), self.width, self.layers, self.heads, self.intermediate, self.patch, self.merge)
        if min(sizes) < 1:
            raise BundleError(f"{self}; expected sizes of 1 or more")
        if self.class_row not in get_args(ClassRow):
            raise BundleError(f"vision has class_row {self.class_row!r}; expected {', '.join(get_args(ClassRow))}")
        if self.width % self.merge**2:
            raise BundleError(f"vision has width {self.width} of {self.merge**2} merged patches; expected a multiple")
        if self.hidden % self.heads:
            raise BundleError(f"vision has width {self.hidden} over {self.heads} heads; expected a multiple")

    @property
    def cells(self) -> int:
        """Visual tokens of one run that stand for a place in it; 0 where every picture has a grid of its own."""
        return self.grid[0] * self.grid[1] if self.grid else 0

    @property
    def tokens(self) -> int:
        """Rows of the features of one run, which are its visual tokens without pruning."""
        return self.cells + (self.class_row == "inside")

    @property
    def patches(self) -> int:
        """Patches of one run."""
        return self.cells * self.merge**2

    @property
    def hidden(self) -> int:
        """Width of a patch inside the encoder."""
        return self.width // self.merge**2

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Decoder:
    """Sizes of the language model.

    Attributes:
        context: the longest sequence it has positions for.
        axes: of a position: 1, or 3 where time, height and width turn different planes of the rotary embedding.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    axes: int = field(default=1, metadata=MAY_LACK)

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise BundleError(f"{self}; expected sizes of 1 or more")
        if self.axes not in (1, 3):
            raise BundleError(f"decoder has positions of {self.axes} axes; expected 1 or 3")
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
