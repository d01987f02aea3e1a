"""Where a pruning method's graph stands and what it reads and writes there, in bytes. Conventions: ``cost``."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.estimate import decoder, encoder
from edgeprune.estimate.cost import SIZES, Cost
from edgeprune.estimate.precision import Precision
from edgeprune.estimate.shape import Shape

_SCALARS = 120  # bytes of scalars and shapes among a graph's constants, about; nothing but toy models shows them
_INT = SIZES["int64"]


@dataclass(frozen=True)
class Station:
    """Where a graph stands, and how many rows there are.

    Attributes:
        shape, precision: of the model.
        before, after: text around the pictures.
        visual: visual rows in; in front of the decoder those of one run of the encoder.
        keep: visual rows out, of as many runs, merged ones included.
        merge: how many of them are merged.
        runs: how many go through the graph side by side; 1 inside the decoder.
    """

    shape: Shape
    precision: Precision
    before: int
    after: int
    visual: int
    keep: int
    merge: int
    runs: int = 1

    @property
    def rows(self) -> int:
        """Of the prompt, in front of the graph."""
        return self.before + self.visual + self.after

    def scores(self, queries: int, keys: int) -> int:
        """Products of attention probabilities, without values."""
        return queries * keys * decoder.q_width(self.shape.decoder)

    def cost(self, macs: int, reads: str, writes: str, parameters: int = 0, tables: int = 0, shared: int = 0) -> Cost:
        """A graph's cost.

        Args:
            macs: multiply-accumulates for one run.
            reads, writes: names of its inputs and outputs.
            parameters: elements of its weights.
            tables: bytes of its other constants but scalars.
            shared: multiply-accumulates that are made once, whatever the number of runs.
        """
        sizes, once = self._tensors(), self._of_prompt()
        names = f"{reads} {writes}".split()
        traffic = sum(once[name] if name in once else self.runs * sizes[name] for name in names)
        weights = parameters * self.precision.element + tables + _SCALARS
        return Cost(2 * (self.runs * macs + shared), weights, traffic)

    def _of_prompt(self) -> dict[str, int]:
        """Bytes of what there is once, however many runs go through a graph."""
        return {
            "question": self.after * self.shape.decoder.hidden * self.precision.element,
            "text_ids": self.shape.text_length * _INT,
            "text_embeds": self.shape.text.embed * SIZES["fp32"],
            "scalar": _INT,
        }

    def _tensors(self) -> dict[str, int]:
        """Bytes of every other tensor there may be, for one run."""
        d, v, element, fp32 = self.shape.decoder, self.shape.vision, self.precision.element, SIZES["fp32"]
        left, cells = self.rows - self.visual + self.keep, self.shape.cells
        return {
            "pixel_values": encoder.pixel_bytes(self.shape, self.precision),
            "features": self.visual * v.width * element,
            "features_out": self.keep * v.width * element,
            "cls_feature": v.width * element,
            "cls_attention": cells * fp32,
            "local_attention": cells * fp32,
            "positions": 2 * cells * _INT,
            "pictures": cells * _INT,
            "picture_rows": cells * _INT,
            "mean_key": self.shape.keys * v.head_dim * fp32,
            "visual": self.visual * d.hidden * element,
            "visual_out": self.keep * d.hidden * element,
            "rater": self.after * fp32,
            "kernel": cells**2 * fp32,
            "start": cells * fp32,
            "hidden": self.rows * d.hidden * element,
            "hidden_out": left * d.hidden * element,
            "position_ids": d.axes * self.rows * _INT,
            "position_ids_out": d.axes * left * _INT,
            "visual_rows": self.visual * _INT,
            "visual_rows_out": self.keep * _INT,
            "query": self.rows * decoder.q_width(d) * element,
            "key": self.rows * decoder.kv_width(d) * element,
            "value": self.rows * decoder.kv_width(d) * element,
            "chosen": self.keep * _INT,
            "kept": self.keep * _INT,
        }
