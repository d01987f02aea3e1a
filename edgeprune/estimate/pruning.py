"""What the graphs of every pruning method take, from counts alone. Conventions: ``cost``.

A method's functions stand side by side, one per graph, and have one shape: products, constants, and the names of what
the graph reads and writes, as its module in ``edgeprune/methods`` has them. A graph without products has 0 FLOPs;
sorting, ranking and gathering are its whole work, and its bytes say what that is at least.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from edgeprune import catalog
from edgeprune.estimate import decoder, encoder
from edgeprune.estimate.cost import SIZES, Cost
from edgeprune.estimate.precision import Precision
from edgeprune.estimate.shape import Shape

_SCALARS = 120  # bytes of scalars and shapes among a graph's constants, about; nothing but toy models shows them
_FOLDED = 512 * 512  # elements of a table up to which the exporter computes it, and beyond which the graph does
_INT = SIZES["int64"]


@dataclass(frozen=True)
class Station:
    """Where a graph stands, and how many rows there are.

    Attributes:
        shape, precision: of the model.
        before, after: text around the picture.
        visual: visual rows in; in front of the decoder those of one picture.
        keep: visual rows out, of as many pictures, merged ones included.
        merge: how many of them are merged.
        pictures: how many go through the graph side by side; 1 inside the decoder.
    """

    shape: Shape
    precision: Precision
    before: int
    after: int
    visual: int
    keep: int
    merge: int
    pictures: int = 1

    @property
    def rows(self) -> int:
        """Of the prompt, in front of the graph."""
        return self.before + self.visual + self.after

    def scores(self, queries: int, keys: int) -> int:
        """Products of attention probabilities, without values."""
        return queries * keys * decoder.q_width(self.shape.decoder)

    def cost(self, macs: int, reads: str, writes: str, parameters: int = 0, tables: int = 0) -> Cost:
        """A graph's cost.

        Args:
            macs: multiply-accumulates for one picture.
            reads, writes: names of its inputs and outputs.
            parameters: elements of its weights.
            tables: bytes of its other constants but scalars.
        """
        sizes = self._tensors()
        traffic = sum(sizes[name] for name in f"{reads} {writes}".split())
        weights = parameters * self.precision.element + tables + _SCALARS
        return Cost(2 * self.pictures * macs, weights, self.pictures * traffic)

    def _tensors(self) -> dict[str, int]:
        """Bytes of every tensor there may be, for one picture."""
        d, v, element, fp32 = self.shape.decoder, self.shape.vision, self.precision.element, SIZES["fp32"]
        left = self.rows - self.visual + self.keep
        return {
            "pixel_values": encoder.pixel_bytes(self.shape, self.precision),
            "features": self.visual * v.width * element,
            "features_out": self.keep * v.width * element,
            "cls_feature": v.width * element,
            "cls_attention": v.tokens * fp32,
            "local_attention": v.tokens * fp32,
            "mean_key": (v.tokens + 1) * v.head_dim * fp32,
            "visual": self.visual * d.hidden * element,
            "visual_out": self.keep * d.hidden * element,
            "after": self.after * d.hidden * element,
            "rater": self.after * fp32,
            "text_ids": self.shape.text_length * _INT,
            "text_embeds": self.shape.text.embed * fp32,
            "kernel": self.visual**2 * fp32,
            "start": self.visual * fp32,
            "hidden": self.rows * d.hidden * element,
            "hidden_out": left * d.hidden * element,
            "position_ids": self.rows * _INT,
            "position_ids_out": left * _INT,
            "query": self.rows * decoder.q_width(d) * element,
            "key": self.rows * decoder.kv_width(d) * element,
            "chosen": self.keep * _INT,
            "kept": self.keep * _INT,
            "scalar": _INT,
        }


Count = Callable[[Station], Cost]


@dataclass(frozen=True)
class Graphs:
    """A method's graphs, each None where it has none; named as in ``methods.method``.

    Attributes:
        encoder: runs in the place of the vision graph.
        vision, projected, cut: prune there.
        kernel: in front of ``vision`` or ``projected``.
        prepare: once, on projected rows and text.
        reads_text: whether ``prepare`` is a text tower.
        reads_query: whether ``cut`` reads the queries of the layer before it.
    """

    encoder: Count | None = None
    vision: Count | None = None
    prepare: Count | None = None
    kernel: Count | None = None
    projected: Count | None = None
    cut: Count | None = None
    reads_text: bool = False
    reads_query: bool = False

    def at(self, place: str | int) -> Count | None:
        """The graph that prunes at a place of the schedule."""
        early = {"encoder": self.encoder, "vision": self.vision, "projected": self.projected}
        return self.cut if isinstance(place, int) else early[place]


def graphs_of(method: str) -> Graphs:
    """A method's graphs.

    Raises:
        UsageError: there is no such method.
    """
    return _GRAPHS[catalog.card(method).name]


# --- what several methods share --------------------------------------------------------------------------------


_SPAN = "scalar scalar scalar"  # span_start, span_length, keep
_CUT = "hidden_out position_ids_out kept"
_ENDED_LAYER = f"hidden position_ids query key {_SPAN}"


def _pairs(rows: int, folded: int, unfolded: int) -> int:
    """Bytes of tables that compare every row with every row: so many where they are folded, else so many of rows."""
    return folded * rows**2 if rows**2 <= _FOLDED else unfolded * rows * _INT


def _order(rows: int) -> int:
    """Bytes of the row numbers that ``selection.chosen_first`` sorts."""
    return 2 * rows * _INT


def _merge(candidates: int, merged: int, key: int, width: int) -> int:
    """``selection.merge_rest``: cosines with the references, then means."""
    return candidates * merged * key + merged * candidates * width


def _next_layer(station: Station) -> int:
    """Parameters of ``attention.NextLayer``: a norm, projections of queries and keys, rotary tables."""
    d = station.shape.decoder
    projections = d.hidden * (decoder.q_width(d) + decoder.kv_width(d))
    return d.hidden + projections + decoder.rotary_parameters(d)


def _class_row(s: Station) -> Cost:
    v, rows = s.shape.vision, s.visual + 1
    macs = _merge(rows - (s.keep - s.merge), s.merge, v.head_dim, v.width)
    reads = "features cls_feature cls_attention mean_key scalar scalar"
    return s.cost(macs, reads, "features_out kept", tables=_pairs(rows, 1, 2) + _order(rows))


def _last_row_by_next_layer(s: Station) -> Cost:
    """Keys of all rows and the query of the last one, by the layer after the cut."""
    d = s.shape.decoder
    macs = s.rows * d.hidden * decoder.kv_width(d) + d.hidden * decoder.q_width(d) + s.scores(1, s.rows)
    return s.cost(macs, f"hidden position_ids {_SPAN}", _CUT, parameters=_next_layer(s))


def _picked(s: Station) -> Cost:
    """Gathers what the host has picked: no products."""
    return s.cost(0, "visual chosen", "visual_out kept")


# --- one method after another, by name ---------------------------------------------------------------------------


def _question_tower(s: Station) -> Cost:
    text, rows = s.shape.text, s.shape.text_length
    macs = text.layers * encoder.layer_macs(rows, text.width, text.intermediate) + text.width * text.embed
    layers = text.layers * encoder.layer_parameters(text.width, text.intermediate)
    embeddings = (s.shape.text_vocab + rows) * text.width
    parameters = embeddings + layers + 2 * text.width + text.width * text.embed
    return s.cost(macs, "text_ids", "text_embeds", parameters, rows**2 * SIZES["fp32"])  # the causal mask


def _clip_kernel(s: Station) -> Cost:
    width, embed, n = s.shape.vision.width, s.shape.text.embed, s.visual
    macs = n * width * embed + n * embed + n * n * s.shape.decoder.hidden
    return s.cost(macs, "visual features text_embeds", "kernel", 2 * width + width * embed)


def _question_kernel(s: Station) -> Cost:
    """The question counts as all the text after the picture, of which it is the most part."""
    n, hidden = s.visual, s.shape.decoder.hidden
    return s.cost(n * hidden + n * n * hidden, "visual after", "kernel")


def _coast(s: Station) -> Cost:
    anchors = 4 * s.keep // 5 + 1 // s.keep
    contrast = (s.visual * anchors + 2 * s.visual) * s.shape.decoder.hidden
    return s.cost(s.scores(s.after, s.rows) + contrast, _ENDED_LAYER, _CUT)


def _fastv(s: Station) -> Cost:
    return s.cost(s.scores(1, s.rows), _ENDED_LAYER, _CUT)


def _flowcut(s: Station) -> Cost:
    """All layers but the selected one on all rows; each scores its rows against the class row twice."""
    v, rows = s.shape.vision, s.shape.vision.tokens + 1
    before = (v.layers - 1) * (encoder.layer_macs(rows, v.width, v.intermediate) + 2 * rows * v.width)
    macs = encoder.embedding_macs(s.shape) + before + encoder.layer_macs(s.keep + 1, v.width, v.intermediate)
    parameters = encoder.parameters(s.shape)
    tables = _pairs(v.tokens, 2, 2) + _order(v.tokens)
    return s.cost(macs, "pixel_values scalar", "features_out kept", parameters, tables)


def _random(s: Station) -> Cost:
    tables = _pairs(s.visual, 1, 2) + _order(s.visual) + s.visual * _INT
    return s.cost(0, "features scalar scalar", "features_out kept", tables=tables)


def _uniform(s: Station) -> Cost:
    return s.cost(0, "features scalar", "features_out kept", tables=s.visual * _INT)


def _raters(s: Station) -> Cost:
    return s.cost(s.visual * s.after * s.shape.decoder.hidden, "visual after", "rater")


def _sparsevlm(s: Station) -> Cost:
    d = s.shape.decoder
    votes = d.heads * s.after * s.visual
    clustered = 3 * (s.visual - (s.keep - s.merge)) // 10 + 1
    clusters = clustered**2 * d.hidden + s.merge * clustered * d.hidden
    reads = f"hidden query key rater {_SPAN} scalar"
    return s.cost(s.scores(s.after, s.rows) + votes + clusters, reads, _CUT)


def _sparsevlm_plus(s: Station) -> Cost:
    d = s.shape.decoder
    votes = d.heads * s.after * s.visual
    gravity = s.after * s.visual * d.head_dim
    chosen = d.heads if d.heads > 14 else 0  # with no more, none is chosen
    macs = s.scores(s.after, s.rows) + votes + gravity + chosen * s.visual
    return s.cost(macs, f"{_ENDED_LAYER} rater", _CUT, decoder.rotary_parameters(d), _pairs(chosen, 1, 2))


def _sts(s: Station) -> Cost:
    """Likeness of all pairs, then rounds that each add the picked rows' repulsion."""
    v, n = s.shape.vision, s.visual
    groups, rounds = _sts_rounds(v.grid)
    cells = (len(groups) * n + 2 * len(groups) + groups[0]) * _INT + n * SIZES["int32"] + _pairs(groups[0], 1, 2)
    macs = n * n * v.width + rounds * n * n
    return s.cost(macs, "features cls_attention scalar", "features_out kept", tables=_places(n) + _order(n) + cells)


@functools.cache
def _sts_rounds(grid: tuple[int, int]) -> tuple[tuple[int, ...], int]:
    """As ``methods.sts.RoundsStage``: cells of the grid per side that they can have, and rounds."""
    patches, common = grid[0] * grid[1], math.gcd(*grid)
    sides = [side for side in range(2, common + 1) if common % side == 0] or [1]
    groups = tuple(patches // side**2 for side in sides)
    each = (keep // groups[sum(keep < 3 * group for group in groups[:-1])] for keep in range(1, patches + 1))
    return groups, max(each)


def _sts_kernel(s: Station) -> Cost:
    macs = s.visual**2 * s.shape.vision.width
    return s.cost(macs, "features cls_attention scalar", "kernel start", tables=_places(s.visual))


def _sts_greedy(s: Station) -> Cost:
    return s.cost(0, "features chosen", "features_out kept")


def _sts_cut(s: Station) -> Cost:
    return s.cost(s.scores(s.after, s.rows), _ENDED_LAYER, _CUT)


def _places(patches: int) -> int:
    """Bytes of the distances between patches, or of rows and columns where the graph computes them."""
    return SIZES["fp32"] * (patches**2 if patches**2 <= _FOLDED else 4 * patches)


def _visiondrop(s: Station) -> Cost:
    """The next layer's queries of visual rows and keys of rows up to them; text after them is not computed."""
    d, end = s.shape.decoder, s.before + s.visual
    projections = d.hidden * (end * decoder.kv_width(d) + s.visual * decoder.q_width(d))
    merged = _merge(s.visual - (s.keep - s.merge), s.merge, d.head_dim, d.hidden)
    macs = projections + s.scores(s.visual, end) + merged
    return s.cost(macs, f"hidden position_ids {_SPAN} scalar", _CUT, parameters=_next_layer(s))


def _vispruner(s: Station) -> Cost:
    """Cosines of all pairs; the rounds only look them up."""
    n = s.visual
    even = (n + 1) // 2
    rounds = _vispruner_rounds(n)
    counts = ((n + 1) * rounds + n - even) * SIZES["int32"] + rounds * _INT
    tables = counts + _pairs(n, 1, 2) + _order(n) + _pairs(even, 1, 2)
    return s.cost(n * n * s.shape.vision.width, "features cls_attention scalar", "features_out kept", tables=tables)


def _vispruner_rounds(tokens: int) -> int:
    """As ``methods.vispruner.drops``: of the rows that are not important, eight go in a round.

    One row or two to keep, whichever suits whether patches are even in number, take the most rounds.
    """
    most = 0
    for keep in (1, 2):
        important = keep // 2
        important += (tokens - important) % 2
        left, spread, rounds = tokens - important, keep - important, 0
        while left > spread:
            left -= min(8, left - spread, (left + 1) // 2)
            rounds += 1
        most = max(most, rounds)
    return most


def _vscan(s: Station) -> Cost:
    n, hidden = s.visual, s.shape.decoder.hidden
    reads = "visual cls_attention local_attention scalar"
    return s.cost(2 * n * s.keep * hidden, reads, "visual_out kept", tables=_pairs(n, 3, 4) + _order(n))


_GRAPHS = {
    "cdpruner": Graphs(prepare=_question_tower, kernel=_clip_kernel, projected=_picked, reads_text=True),
    "cdpruner-llm": Graphs(kernel=_question_kernel, projected=_picked),
    "coast": Graphs(cut=_coast, reads_query=True),
    "coast-rest": Graphs(cut=_coast, reads_query=True),
    "fastv": Graphs(cut=_fastv, reads_query=True),
    "flowcut": Graphs(encoder=_flowcut),
    "pyramiddrop": Graphs(cut=_last_row_by_next_layer),
    "random": Graphs(vision=_random),
    "sparsevlm": Graphs(prepare=_raters, cut=_sparsevlm, reads_query=True),
    "sparsevlm-plus": Graphs(prepare=_raters, cut=_sparsevlm_plus, reads_query=True),
    "sts": Graphs(vision=_sts, cut=_sts_cut, reads_query=True),
    "sts-greedy": Graphs(kernel=_sts_kernel, vision=_sts_greedy, cut=_sts_cut, reads_query=True),
    "uniform": Graphs(vision=_uniform),
    "visiondrop": Graphs(vision=_class_row, cut=_visiondrop),
    "visionzip": Graphs(vision=_class_row),
    "vispruner": Graphs(vision=_vispruner),
    "vscan": Graphs(projected=_vscan, cut=_last_row_by_next_layer),
}
