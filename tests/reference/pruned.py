"""Run the numpy LLaVA with the reference of a method, and decode with its caches and positions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.reference import llava
from tests.reference.llava import Array, KVCache, Weights
from tests.reference.pruning import Indices, Prompt, Pruned, Stage, Tower

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


def visual_rows(
    w: Weights,
    pixel_values: Array,
    reference: Reference,
    stages: Sequence[tuple[Place, Stage]],
    question: Sequence[int],
) -> tuple[Array, list[Pruned]]:
    """Give the visual rows at the decoder's input, and what the stages before it left.

    Without a stage these are all patches, projected, without the class row.
    """
    todo = dict(stages)
    done: list[Pruned] = []
    if "encoder" in todo and "vision" in todo:
        raise ValueError("one stage inside the encoder or at its output, not both")
    if "encoder" in todo:
        done.append(_checked(reference.encoder(w, pixel_values, todo["encoder"].keep), todo["encoder"]))
    elif "vision" in todo:
        done.append(_checked(reference.vision(tower(w, pixel_values), todo["vision"]), todo["vision"]))
    features = done[-1].rows if done else llava.vision_tower(w, pixel_values).features[1:]
    visual = llava.project(w, features)
    if "projected" in todo:
        asked = llava.embed(w, question)
        pruned = reference.projected(tower(w, pixel_values), visual, asked, todo["projected"])
        done.append(_checked(pruned, todo["projected"]))
        visual = pruned.rows
    return visual, done


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
    """Run the prompt [ids_before, image, ids_after] with the stages of a method, in the order they come.

    The cuts are the layers among the places of the stages; they can be given to have that checked. `question` is
    the ids of which a stage on projected rows gets the embedded rows.
    """
    places = [place for place, _ in stages]
    edges = _layers_cut(w, places, [p for p in places if isinstance(p, int)] if cuts is None else cuts)
    visual, done = visual_rows(w, pixel_values, reference, stages, question)
    start, count, after = len(ids_before), len(visual), llava.embed(w, ids_after)
    h = np.concatenate([llava.embed(w, ids_before), visual, after])
    at = np.arange(len(h), dtype=np.int64)
    cache: KVCache = [None] * w.layers
    segments = [range(a, b) for a, b in itertools.pairwise(edges)]
    scheme = str(getattr(reference, "POSITIONS", "repack"))  # says nothing where a method never cuts
    if scheme not in ("repack", "keep"):
        raise ValueError(f"unknown positions {scheme!r}")
    positions: list[Indices] = []
    query = key = np.empty(0)
    for layers in segments:
        if layers.start > 0:
            stage = dict(stages)[layers.start]
            prompt = Prompt(w, layers.start, h, at, start, count, query, key, visual, after)
            pruned = _checked(reference.cut(prompt, stage), stage)
            done.append(pruned)
            h = np.concatenate([h[:start], pruned.rows, h[start + count :]])
            if scheme == "repack":
                at = np.arange(len(h), dtype=np.int64)
            else:  # a merged row stands where its source stood
                at = np.concatenate([at[:start], at[start + pruned.kept], at[start + count :]])
            count = len(pruned.rows)
        positions.append(at)
        h = llava.decoder_layers(w, layers[:-1], h, at, cache)
        query, key = llava.layer_queries_keys(w, layers[-1], h, at)
        h = llava.decoder_layer(w, layers[-1], h, at, cache)
    logits = llava.output_logits(w, h[-1:])[0]
    return Prefill(logits, segments, done, positions, cache, scheme)


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
