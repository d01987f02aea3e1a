"""Run the numpy LLaVA with the reference of a method, and decode with its caches and positions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.reference import llava
from tests.reference.llava import Array, KVCache, Weights
from tests.reference.pruning import Indices, Prompt, Pruned, Stage, Tower, take_out

Place = str | int  # "encoder", "vision", "projected", or the layer before which the decoder is cut
Reference = ModuleType | SimpleNamespace
_BEFORE_DECODER = ("encoder", "vision", "projected")


def tower(w: Weights, pixel_values: Array) -> Tower:
    """Run the encoder up to its selected layer."""
    layers = llava.vision_layers(w, pixel_values)
    return Tower(
        grid=llava.patch_grid(w, pixel_values),
        features=layers[-1].features,
        cls_attention=[layer.cls_attention for layer in layers],
        keys=[layer.keys for layer in layers],
        values=[layer.values for layer in layers],
    )


@dataclass
class Prefill:
    """What a prefill leaves behind; a segment is the layers between two cuts."""

    logits: Array  # [vocabulary], of the last row
    segments: list[range]  # the layers of each segment
    stages: list[Pruned]  # in the order of the request
    positions: list[Indices]  # per segment: the position ids of its rows
    cache: KVCache = field(repr=False)  # per layer
    scheme: str  # "repack" or "keep"
    fed: int = 0  # generated tokens fed back so far

    @property
    def kept(self) -> list[Indices]:
        """Per stage: the source of each row that left it, see `Pruned`."""
        return [stage.kept for stage in self.stages]

    @property
    def lengths(self) -> list[int]:
        """Rows of each segment at prefill; the first is the length of the prompt before any decoder cut."""
        return [len(p) for p in self.positions]

    @property
    def cache_lengths(self) -> list[int]:
        """Rows in the cache of each layer."""
        return [0 if kv is None else kv[0].shape[1] for kv in self.cache]


Lay = Callable[[Sequence[Indices], int], Sequence[Sequence[tuple[int, int]]]]
"""From the sources of every run's rows and how many of them are merged ones to the rows of every picture, in the order
in which they enter the decoder, as (run, row of the run)."""


def one_by_one(kept: Sequence[Indices], merge: int) -> Sequence[Sequence[tuple[int, int]]]:
    """Every run is a picture, its rows as they come."""
    return [[(run, row) for row in range(len(rows))] for run, rows in enumerate(kept)]


def visual_rows(
    w: Weights,
    runs: Sequence[Array],
    reference: Reference,
    stages: Sequence[tuple[Place, Stage]],
    question: Sequence[int],
    lay: Lay = one_by_one,
) -> tuple[list[Array], list[Pruned]]:
    """Give every picture's visual rows at the decoder's input, and what the stages before it left of all of them.

    Without a stage these are all patches, projected, without the class row. Patch p of run r counts as r * N + p.
    """
    todo = dict(stages)
    done: list[tuple[list[Pruned], int]] = []
    if "encoder" in todo and "vision" in todo:
        raise ValueError("one stage inside the encoder or at its output, not both")
    if "encoder" in todo:
        keep = todo["encoder"].keep
        if hasattr(reference, "encoder_runs"):
            pruned = reference.encoder_runs(w, runs, keep)
        else:
            pruned = [reference.encoder(w, run, keep) for run in runs]
        done.append((pruned, 0))
    elif "vision" in todo:
        done.append(([reference.vision(tower(w, run), todo["vision"]) for run in runs], todo["vision"].merge))
    patches = len(llava.vision_tower(w, runs[0]).features) - 1
    features = [p.rows for p in done[-1][0]] if done else [llava.vision_tower(w, run).features[1:] for run in runs]
    visual = [llava.project(w, rows) for rows in features]
    if "projected" in todo:
        asked, stage = llava.embed(w, question), todo["projected"]
        towers = [tower(w, run) for run in runs]
        if hasattr(reference, "projected_runs"):
            pruned = reference.projected_runs(towers, visual, asked, stage)
        else:
            pruned = [reference.projected(t, rows, asked, stage) for t, rows in zip(towers, visual, strict=True)]
        done.append((pruned, stage.merge))
        visual = [p.rows for p in pruned]
    for (pruned, _), place in zip(done, (p for p in _BEFORE_DECODER if p in todo), strict=True):
        for run in pruned:
            _checked(run, todo[place])
    kept, merge = ([p.kept for p in done[-1][0]], done[-1][1]) if done else ([np.arange(patches)] * len(runs), 0)
    order = [pair for picture in lay(kept, merge) for pair in picture]
    together = [
        Pruned(
            np.stack([pruned[run].rows[row] for run, row in pairs]),
            np.asarray(
                [pruned[run].kept[row] + (run * patches if pruned[run].kept[row] >= 0 else 0) for run, row in pairs]
            ),
        )
        for pruned, pairs in (
            (p, order if p is done[-1][0] else [(r, i) for r, one in enumerate(p) for i in range(len(one.rows))])
            for p, _ in done
        )
    ]
    return [np.stack([visual[run][row] for run, row in picture]) for picture in lay(kept, merge)], together


def _checked(pruned: Pruned, stage: Stage) -> Pruned:
    if not len(pruned.rows) == len(pruned.kept) == stage.keep:
        raise ValueError(f"{len(pruned.rows)} rows, {len(pruned.kept)} sources for a stage of {stage.keep}")
    return pruned


def _layers_cut(w: Weights, places: Sequence[Place], cuts: Sequence[int]) -> list[int]:
    """Check the order of the stages, and give the edges of the segments."""
    early = [p for p in places if isinstance(p, str)]
    if early != [p for p in _BEFORE_DECODER if p in early] or list(places) != [*early, *cuts]:
        raise ValueError(f"stages at {list(places)} with cuts {list(cuts)}")
    edges = [0, *cuts, w.layers]
    if any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"cuts {list(cuts)} leave a segment without layers")
    return edges


def prefill(
    w: Weights,
    pixel_values: Array,
    ids_before: Sequence[int],
    ids_after: Sequence[int],
    reference: Reference,
    stages: Sequence[tuple[Place, Stage]],
    cuts: Sequence[int] | None = None,
    question: Sequence[int] = (),
) -> Prefill:
    """Run the prompt [ids_before, image, ids_after]; see `prefill_prompt`."""
    runs = pixel_values if pixel_values.ndim == 4 else pixel_values[None]
    return prefill_prompt(w, list(runs), (ids_before, ids_after), reference, stages, cuts, question)


def prefill_prompt(
    w: Weights,
    runs: Sequence[Array],
    parts: Sequence[Sequence[int]],
    reference: Reference,
    stages: Sequence[tuple[Place, Stage]],
    cuts: Sequence[int] | None = None,
    question: Sequence[int] = (),
    lay: Lay = one_by_one,
) -> Prefill:
    """Run a prompt with the stages of a method, in the order they come.

    `runs` are the pixels of all runs of the encoder; `lay` makes pictures of their rows, which stand between the
    `parts`, the ids of the text. The cuts are the layers among the places of the stages; they can be given to have that
    checked. `question` is the ids of which a stage on projected rows gets the embedded rows.
    """
    places = [place for place, _ in stages]
    edges = _layers_cut(w, places, [p for p in places if isinstance(p, int)] if cuts is None else cuts)
    pictures, done = visual_rows(w, runs, reference, stages, question, lay)
    texts = [llava.embed(w, part) for part in parts]
    blocks, is_visual = [texts[0]], [False] * len(texts[0])
    for picture, text in zip(pictures, texts[1:], strict=True):
        blocks += [picture, text]
        is_visual += [True] * len(picture) + [False] * len(text)
    h, seen = np.concatenate(blocks), np.flatnonzero(is_visual).astype(np.int64)
    visual, after = h[seen], texts[-1]
    at = np.arange(len(h), dtype=np.int64)
    cache: KVCache = [None] * w.layers
    segments = [range(a, b) for a, b in itertools.pairwise(edges)]
    scheme = str(getattr(reference, "POSITIONS", "repack"))  # says nothing where a method never cuts
    if scheme not in ("repack", "keep"):
        raise ValueError(f"unknown positions {scheme!r}")
    positions: list[Indices] = []
    query = key = value = np.empty(0)
    for layers in segments:
        if layers.start > 0:
            stage = dict(stages)[layers.start]
            prompt = Prompt(w, layers.start, h, at, seen, query, key, value, visual, after)
            pruned = _checked(reference.cut(prompt, stage), stage)
            done.append(pruned)
            h, at, seen = take_out(h, at, seen, pruned, stage.merge, scheme)
        positions.append(at)
        h = llava.decoder_layers(w, layers[:-1], h, at, cache)
        query, key = llava.layer_queries_keys(w, layers[-1], h, at)
        h = llava.decoder_layer(w, layers[-1], h, at, cache)
        value = _values(cache, layers[-1])
    logits = llava.output_logits(w, h[-1:])[0]
    return Prefill(logits, segments, done, positions, cache, scheme)


def _values(cache: KVCache, layer: int) -> Array:
    """Give the values [G, S, d] of a layer that has run."""
    entry = cache[layer]
    assert entry is not None
    return entry[1]


@dataclass(frozen=True)
class Decoded:
    """Logits [steps, vocabulary] after each token fed back, and its position ids [steps, segments]."""

    logits: Array
    positions: Indices


def decode(w: Weights, state: Prefill, tokens: Sequence[int]) -> Decoded:
    """Feed given tokens back one by one.

    "repack": token j has position S_g + j in segment g, S_g being the rows of that segment at prefill. "keep": it
    has S_0 + j everywhere, as if nothing had been pruned in the decoder. The caches of `state` grow, so a second
    call goes on where the first one stopped.
    """
    logits, positions = [], []
    for token in tokens:
        lengths = state.lengths if state.scheme == "repack" else [state.lengths[0]] * len(state.segments)
        at = [length + state.fed for length in lengths]
        h = llava.embed(w, [token])
        for layers, position in zip(state.segments, at, strict=True):
            h = llava.decoder_layers(w, layers, h, np.asarray([position]), state.cache)
        logits.append(llava.output_logits(w, h)[0])
        positions.append(at)
        state.fed += 1
    return Decoded(np.asarray(logits), np.asarray(positions, dtype=np.int64).reshape(-1, len(state.segments)))
