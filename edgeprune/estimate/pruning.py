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
from edgeprune.estimate.station import Station

_FOLDED = 512 * 512  # elements of a table up to which the exporter computes it, and beyond which the graph does
_INT = SIZES["int64"]
_WIDE = 128  # as ``methods.selection``: rows that are counted in one product
_TRIANGLE = _WIDE**2  # bytes of the table for that
_BEST = _CHOSEN_FIRST = 1  # rows of flags that these functions of ``methods.selection`` give one running count
_SELECTED_FIRST = 2  # what is surely selected and what ties, side by side

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


_CUT = "hidden_out position_ids_out visual_rows_out kept"
_PROMPT = "hidden position_ids visual_rows scalar"  # and keep
_ENDED_LAYER = f"{_PROMPT} query key"


def _compared(rows: int, times: int = 1) -> int:
    """Bytes of tables that say something of all pairs of a fixed number of rows, ``times`` the same.

    Where they are folded, every one is there by itself; else they are made from one pair of lists of numbers.
    """
    return times * rows**2 if rows**2 <= _FOLDED else 2 * rows * _INT


def _counting(rows: int) -> int:
    """``selection.running_count``: products with two triangles."""
    blocks = rows // _WIDE + 1
    return blocks * _WIDE**2 + blocks**2


def _counting_of_cut(s: Station, *counts: int) -> tuple[int, int]:
    """Products of the running counts of a cut in the decoder, and bytes of their tables.

    One is in ``visual_rows.drop_rows``, over the rows of the prompt; ``counts`` says of each of the others, over visual
    rows, how many rows of flags it takes.
    """
    return _counting(s.rows) + sum(counts) * _counting(s.visual), (1 + len(counts)) * _TRIANGLE


def _ordered(rows: int, sizes: int = 2 * 2 + 3) -> int:
    """Bytes of the tables of ``selection.chosen_first`` for a fixed number of rows: both triangles, row numbers, sizes.

    ``sizes`` are how flags are padded, two for each axis, and how they are split into blocks, one for each axis then.
    """
    blocks = rows // _WIDE + 1
    return _TRIANGLE + blocks**2 * SIZES["fp32"] + (rows + sizes) * _INT


def _selected(s: Station, rows: int) -> int:
    """Bytes of the tables of ``selection.selected_first`` in front of the decoder; few where no number is fixed."""
    if s.shape.vision.grid is None:
        return _TRIANGLE
    scores, flags = 2 * 2 + 4, 2 * 3 + 4 + 3  # two rows of flags, side by side, are put together again
    return _ordered(rows, scores + flags)


def _merge(candidates: int, merged: int, key: int, width: int) -> int:
    """``selection.merge_rest``: cosines with the references, then means."""
    return candidates * merged * key + merged * candidates * width


def _next_layer(station: Station, rotates: bool = True) -> int:
    """Parameters of ``attention.NextLayer``: a norm, projections of queries and keys, rotary tables if it rotates."""
    d = station.shape.decoder
    projections = d.hidden * (decoder.q_width(d) + decoder.kv_width(d))
    return d.hidden + projections + (decoder.rotary_parameters(d) if rotates else 0)


def _class_row(s: Station) -> Cost:
    v, rows = s.shape.vision, s.shape.keys
    macs = _merge(rows - (s.keep - s.merge), s.merge, v.head_dim, v.width)
    macs += _SELECTED_FIRST * _counting(rows)
    apart = "cls_feature " if v.class_row == "apart" else ""
    reads = f"features {apart}cls_attention mean_key scalar scalar"
    return s.cost(macs, reads, "features_out kept", tables=_selected(s, rows))


def _last_row_by_next_layer(s: Station, rotates: bool = True) -> Cost:
    """Keys of all rows and the query of the last one, by the layer after the cut."""
    d = s.shape.decoder
    macs = s.rows * d.hidden * decoder.kv_width(d) + d.hidden * decoder.q_width(d) + s.scores(1, s.rows)
    counting, tables = _counting_of_cut(s, _SELECTED_FIRST)
    return s.cost(macs + counting, _PROMPT, _CUT, parameters=_next_layer(s, rotates), tables=tables)


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
    width, embed, n = s.shape.vision.width, s.shape.text.embed, s.shape.cells
    macs = n * width * embed + n * embed + n * n * s.shape.decoder.hidden
    return s.cost(macs, "visual features text_embeds scalar", "kernel", 2 * width + width * embed)


def _question_kernel(s: Station) -> Cost:
    """The question counts as all the text after the picture, of which it is the most part."""
    n, hidden = s.shape.cells, s.shape.decoder.hidden
    return s.cost(n * hidden + n * n * hidden, "visual question scalar", "kernel")


def _coast(s: Station) -> Cost:
    anchors = 4 * s.keep // 5 + 1 // s.keep
    contrast = (s.visual * anchors + 2 * s.visual) * s.shape.decoder.hidden
    # The best are anchors, references, those like the anchors and those unlike; in order come anchors and what is kept.
    counting, tables = _counting_of_cut(s, *4 * [_BEST], *2 * [_CHOSEN_FIRST])
    macs = s.scores(s.after, s.rows) + contrast + counting
    return s.cost(macs, f"{_ENDED_LAYER} scalar", _CUT, tables=tables)


def _fastv(s: Station) -> Cost:
    counting, tables = _counting_of_cut(s, _SELECTED_FIRST)
    return s.cost(s.scores(1, s.rows) + counting, _ENDED_LAYER, _CUT, tables=tables)


def _flowcut(s: Station) -> Cost:
    """All layers but the selected one on all rows; each scores its rows against the class row twice."""
    v, rows = s.shape.vision, encoder.tower_rows(s.shape)
    before = (v.layers - 1) * (encoder.layer_macs(rows, v.width, v.intermediate) + 2 * rows * v.width)
    macs = encoder.embedding_macs(s.shape) + before + encoder.layer_macs(s.keep + 1, v.width, v.intermediate)
    parameters, n = encoder.parameters(s.shape), s.shape.cells
    cuts = v.layers // 2  # each ranks patches; one follows every second layer before the selected one
    tables = _compared(n, cuts) + _ordered(n)
    return s.cost(macs + _counting(n), "pixel_values scalar scalar", "features_out kept", parameters, tables)


def _flowcut_cut(s: Station) -> Cost:
    """The last row against all rows twice: its query with keys, and its values with values."""
    counting, tables = _counting_of_cut(s, _SELECTED_FIRST)
    macs = s.scores(1, s.rows) + s.rows * decoder.kv_width(s.shape.decoder) + counting
    return s.cost(macs, f"{_ENDED_LAYER} value", _CUT, tables=tables)


def _random(s: Station) -> Cost:
    n = s.shape.cells
    # One row of numbers for all runs: what others make from the batch is here a table.
    tables = _selected(s, n) + (3 * _INT + SIZES["int32"]) * s.shape.vision.cells
    counting = _SELECTED_FIRST * _counting(n)
    return s.cost(0, "features scalar scalar", "features_out kept", tables=tables, shared=counting)


def _uniform(s: Station) -> Cost:
    return s.cost(0, "features scalar", "features_out kept", tables=s.shape.vision.cells * _INT)


def _raters(s: Station) -> Cost:
    return s.cost(s.visual * s.after * s.shape.decoder.hidden, "hidden visual_rows scalar", "rater")


def _sparsevlm(s: Station) -> Cost:
    d = s.shape.decoder
    votes = d.heads * s.after * s.rows
    clustered = 3 * (s.visual - (s.keep - s.merge)) // 10 + 1
    clusters = clustered**2 * d.hidden + s.merge * clustered * d.hidden
    # Twice, for the rows that stay and for those that are clustered: which are the best, and their order.
    counting, tables = _counting_of_cut(s, *2 * [_BEST, _CHOSEN_FIRST])
    macs = s.scores(s.after, s.rows) + votes + clusters + counting
    places = "position_ids " if d.axes > 1 else ""  # elsewhere they are numbered anew
    return s.cost(macs, f"hidden {places}visual_rows query key rater scalar scalar", _CUT, tables=tables)


def _sparsevlm_plus(s: Station) -> Cost:
    d = s.shape.decoder
    votes = d.heads * s.after * s.rows
    gravity = s.after * s.rows * d.head_dim
    chosen = d.heads if d.heads > 14 else 0  # with no more, none is chosen
    counting, tables = _counting_of_cut(s, _SELECTED_FIRST)
    macs = s.scores(s.after, s.rows) + votes + gravity + chosen * s.visual + counting
    parameters = decoder.rotary_parameters(d)
    return s.cost(macs, f"{_ENDED_LAYER} rater", _CUT, parameters, tables + _compared(chosen))


def _sts(s: Station) -> Cost:
    """Likeness of all pairs, then rounds that each add the picked rows' repulsion."""
    v, n = s.shape.vision, s.shape.cells
    assert v.grid is not None  # the request checked it
    groups, rounds = _sts_rounds(v.grid)
    cells = (len(groups) * n + 2 * len(groups) + groups[0]) * _INT + n * SIZES["int32"] + _compared(groups[0])
    macs = n * n * v.width + rounds * n * n + _counting(n)
    return s.cost(macs, "features cls_attention scalar", "features_out kept", tables=_places(n) + _ordered(n) + cells)


@functools.cache
def _sts_rounds(grid: tuple[int, int]) -> tuple[tuple[int, ...], int]:
    """As ``methods.sts.RoundsStage``: cells of the grid per side that they can have, and rounds."""
    patches, common = grid[0] * grid[1], math.gcd(*grid)
    sides = [side for side in range(2, common + 1) if common % side == 0] or [1]
    groups = tuple(patches // side**2 for side in sides)
    each = (keep // groups[sum(keep < 3 * group for group in groups[:-1])] for keep in range(1, patches + 1))
    return groups, max(each)


def _sts_kernel(s: Station) -> Cost:
    n = s.shape.cells
    macs = n**2 * s.shape.vision.width
    return s.cost(macs, "features cls_attention scalar", "kernel start", tables=_places(n))


def _sts_greedy(s: Station) -> Cost:
    return s.cost(0, "features chosen", "features_out kept")


def _sts_cut(s: Station) -> Cost:
    counting, tables = _counting_of_cut(s, _SELECTED_FIRST)
    return s.cost(s.scores(s.after, s.rows) + counting, f"{_ENDED_LAYER} scalar", _CUT, tables=tables)


def _places(patches: int) -> int:
    """Bytes of the distances between patches, or of rows and columns where the graph computes them."""
    return SIZES["fp32"] * (patches**2 if patches**2 <= _FOLDED else 4 * patches)


def _visiondrop(s: Station) -> Cost:
    """The next layer's queries of visual rows and keys of all rows."""
    d = s.shape.decoder
    projections = d.hidden * (s.rows * decoder.kv_width(d) + s.visual * decoder.q_width(d))
    merged = _merge(s.visual - (s.keep - s.merge), s.merge, d.head_dim, d.hidden)
    counting, tables = _counting_of_cut(s, _SELECTED_FIRST)
    macs = projections + s.scores(s.visual, s.rows) + merged + counting
    return s.cost(macs, f"{_PROMPT} scalar", _CUT, parameters=_next_layer(s), tables=tables)


def _vispruner(s: Station) -> Cost:
    """Cosines of all pairs; the rounds only look them up."""
    n = s.shape.cells
    even = (n + 1) // 2
    rounds = _vispruner_rounds(n)
    counts = ((n + 1) * rounds + n - even) * SIZES["int32"] + rounds * _INT  # how many go, places of odd rows, rounds
    tables = counts + _compared(n) + _ordered(n) + _compared(even)
    macs = n * n * s.shape.vision.width + _counting(n)
    return s.cost(macs, "features cls_attention scalar", "features_out kept", tables=tables)


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
    n, hidden = s.shape.cells, s.shape.decoder.hidden
    reads, merge = "visual cls_attention local_attention scalar", 2 * n * s.keep * hidden
    if s.shape.vision.grid is None:  # windows are made of what the graph is told of pictures; both scans count ties
        counts = 2 * _BEST + _CHOSEN_FIRST
        reads += " positions pictures picture_rows"
        return s.cost(merge + counts * _counting(n), reads, "visual_out kept", tables=counts * _TRIANGLE)
    tables = _compared(n) + _compared(n, times=2) + _ordered(n)  # the same window; the earlier of two, by either scan
    return s.cost(merge + _counting(n), reads, "visual_out kept", tables=tables)


def _vscan_cut(s: Station) -> Cost:
    return _last_row_by_next_layer(s, rotates=s.shape.decoder.axes == 1)


_GRAPHS = {
    "cdpruner": Graphs(prepare=_question_tower, kernel=_clip_kernel, projected=_picked, reads_text=True),
    "cdpruner-llm": Graphs(kernel=_question_kernel, projected=_picked),
    "coast": Graphs(cut=_coast, reads_query=True),
    "coast-rest": Graphs(cut=_coast, reads_query=True),
    "fastv": Graphs(cut=_fastv, reads_query=True),
    "flowcut": Graphs(encoder=_flowcut, cut=_flowcut_cut, reads_query=True),
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
    "vscan": Graphs(projected=_vscan, cut=_vscan_cut),
}
