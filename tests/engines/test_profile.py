"""Profiles: every input has bounds, they belong together at each of the three points, and the target's ranges show."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.image import Frames, Tiles
from edgeprune.bundle.manifest import Cut, File, Graph, Manifest, MethodEntry, Role, Tensor
from edgeprune.bundle.store import open_bundle
from edgeprune.engines.memory import check_run, scratch_bytes
from edgeprune.engines.profile import fit_shapes, limit_shapes, make_profile, widen_shapes
from edgeprune.errors import BackendError, BundleError, UsageError
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import Range, Shapes

SHAPES = Shapes(batch=Range(1, 2, 4), text=Range(2, 60, 500), kept=Range(1, 20, 40), context=512)


@pytest.fixture(scope="module")
def manifest(bundle_tiny: Path) -> Manifest:
    return open_bundle(bundle_tiny).manifest


def bounds(manifest: Manifest, graph: str, shapes: Shapes = SHAPES) -> dict[str, Bounds]:
    return {bound.name: bound for bound in make_profile(manifest.graph(graph), manifest, shapes)}


def test_a_segment_takes_one_row_after_a_full_cache_and_a_whole_prompt_after_none(manifest: Manifest) -> None:
    found = bounds(manifest, "segment_0_1")
    assert (found["hidden"].least, found["hidden"].usual, found["hidden"].most) == (
        (1, 1, 32),
        (2, 80, 32),
        (4, 512, 32),
    )
    assert found["position_ids"].most == (4, 512)
    assert (found["past_key_0"].least, found["past_key_0"].most) == ((1, 2, 0, 16), (4, 2, 511, 16))


def test_a_cut_holds_at_least_the_rows_it_prunes_at_every_point(manifest: Manifest) -> None:
    found = bounds(manifest, "prune_visiondrop_1")
    for point in ("least", "usual", "most"):
        keep, merge = (getattr(found[name], point)[0] for name in ("keep", "merge"))
        rows = getattr(found["visual_rows"], point)[1]
        assert getattr(found["hidden"], point)[1] > rows
        assert merge < keep <= rows or point == "least"
    assert found["keep"].kind == "values"
    assert found["keep"].most == (40,)


def test_the_encoders_stage_keeps_no_more_than_one_picture_has(manifest: Manifest) -> None:
    wide = replace(SHAPES, kept=Range(1, 500, 2880), context=4096)
    assert bounds(manifest, "prune_visiondrop_vision", wide)["keep"].most == (64,)
    assert bounds(manifest, "prune_visiondrop_1", wide)["keep"].most == (2880,)


@pytest.mark.parametrize(("name", "role"), [("encoder", "encoder"), ("kernel", "kernel"), ("stage", "prune")])
def test_no_stage_before_the_decoder_keeps_more(manifest: Manifest, name: str, role: Role) -> None:
    wide = replace(SHAPES, kept=Range(1, 500, 2880), context=4096)
    inputs = (Tensor("visual", "fp32", ("B", 64, 32)), Tensor("keep", "int64", ()), Tensor("seed", "int64", ()))
    graph = Graph(name, role, manifest.graphs[0].file, None, None, inputs, ())
    methods = (
        MethodEntry("one", "repack", "runs", (), (Cut("projected", "stage", "kernel", "dpp"),)),
        MethodEntry("two", "repack", "runs", (), (Cut("encoder", "encoder"),)),
    )
    facts = SimpleNamespace(
        vision=manifest.vision, methods=methods, image=manifest.image, layout=manifest.layout, decoder=manifest.decoder
    )
    found = {bound.name: bound for bound in make_profile(graph, facts, wide)}  # type: ignore[arg-type]
    assert found["keep"].most == (64,)
    assert found["seed"].most == (2**31 - 1,)


def test_ranges_are_no_wider_than_the_model_needs(manifest: Manifest) -> None:
    fitted = fit_shapes(Shapes(text=Range(2, 64, 5000), kept=Range(1, 192, 2880), context=8000), manifest)
    assert fitted.kept == Range(1, 64, 64)
    assert fitted.context == manifest.decoder.context == 512
    assert fitted.text.most == 510
    assert fit_shapes(fitted, manifest) == fitted


def test_a_prompt_is_put_together_from_text_and_rows_of_all_runs(manifest: Manifest) -> None:
    found = bounds(manifest, "assemble", fit_shapes(replace(SHAPES, runs=Range(1, 5, 13)), manifest))
    assert found["text"].most == (4, 500, 32)
    assert found["visual"].least[:2] == (1, 1)
    assert found["visual"].most[:2] == (4, 64)  # a picture is one run of this model's encoder
    assert found["order"].most == (4, 512)


TILES = Tiles("best_fit", ((1, 2), (2, 2), (2, 1)))


def test_runs_are_those_of_the_models_pictures(manifest: Manifest) -> None:
    size = manifest.image.size
    tiles = replace(manifest.image, kind="tiles", tiles=TILES, crop=None, resize_exact=size, resize_shortest=None)
    video = replace(manifest.image, kind="frames", frames=Frames(8))
    shapes = replace(SHAPES, runs=Range(1, 4, 13))
    assert fit_shapes(shapes, replace(manifest, image=tiles)).runs == Range(1, 5, 5)
    assert fit_shapes(shapes, replace(manifest, image=video)).runs == Range(8, 8, 8)
    fitted = replace(manifest, image=tiles)
    found = bounds(fitted, "vision", fit_shapes(shapes, fitted))
    pixels = found["pixel_values"]
    assert (pixels.least[0], pixels.usual[0], pixels.most[0]) == (1, 10, 20)
    found = bounds(fitted, "project", fit_shapes(shapes, fitted))
    assert found["features"].most == (20, 64, 32)


def test_every_video_has_as_many_frames(manifest: Manifest) -> None:
    video = replace(manifest, image=replace(manifest.image, kind="frames", frames=Frames(8)))
    fitted = fit_shapes(SHAPES, video)
    assert widen_shapes(fitted, video, {"runs": (8,)}) == fitted
    for asked, words in (((4,), "4"), ((1, 8, 16), "1,8,16")):
        with pytest.raises(UsageError, match=f"--runs {words}: this bundle's videos always have 8 frames; leave"):
            widen_shapes(fitted, video, {"runs": asked})


def test_ranges_that_are_asked_for(manifest: Manifest) -> None:
    fitted = fit_shapes(SHAPES, manifest)
    wide = widen_shapes(fitted, manifest, {"runs": (3,), "kept": (1, 100, 192), "batch": (2, 2, 2)})
    assert (wide.runs, wide.kept, wide.batch) == (Range(1, 1, 3), Range(1, 100, 192), Range(2, 2, 2))
    assert (wide.text, wide.context) == (fitted.text, fitted.context)
    assert widen_shapes(fitted, manifest, {}) == fitted
    for asked, message in (
        ({"kept": (600,)}, "--kept 600 leaves no room in a context of 512: --context 603 or more"),
        ({"context": (513,)}, "--context 513 is more than the model's 512 positions"),
        ({"runs": (3, 2, 1)}, r"--runs \[3, 2, 1\]; expected 1 <= least <= usual <= most"),
    ):
        with pytest.raises(UsageError, match=message):
            widen_shapes(fitted, manifest, asked)


def test_an_axis_that_the_specification_does_not_name(manifest: Manifest) -> None:
    graph = Graph("odd", "prune", manifest.graphs[0].file, None, None, (Tensor("x", "fp32", ("B", "Q")),), ())
    with pytest.raises(BundleError, match="no range is known for axis 'Q' of 'x'; known: B, C, N, K, t, q, V, S, P, J"):
        make_profile(graph, manifest, SHAPES)
    graph = replace(graph, inputs=(Tensor("x", "int64", ()),))
    with pytest.raises(BundleError, match="no range is known for scalar 'x'; known: keep, merge, runs"):
        make_profile(graph, manifest, SHAPES)


@pytest.mark.parametrize("context", [3, 40, 100, 512, 2048])
def test_any_context_gives_a_profile_that_rises(manifest: Manifest, context: int) -> None:
    shapes = limit_shapes(replace(Shapes(), text=Range(1, 64, 512)), context, 2880)
    assert shapes.text.least + shapes.kept.most < shapes.context
    for graph in manifest.graphs:
        for bound in make_profile(graph, manifest, shapes):  # raises where one does not rise
            assert bound.name


def test_scratch_grows_with_the_batch(bundle_tiny: Path, manifest: Manifest) -> None:
    import onnx

    for name in ("vision", "segment_0_1", "prune_visiondrop_1"):
        graph = manifest.graph(name)
        model = onnx.load(bundle_tiny / graph.file.path, load_external_data=False)
        profile = make_profile(graph, manifest, SHAPES)
        one, four = (scratch_bytes(model, profile, batch) for batch in (1, 4))
        assert 2.5 * one < four <= 4 * one, name


def test_a_7b_model_fits_the_gpus_it_is_for(manifest: Manifest) -> None:
    """LLaVA-1.5-7B in fp16 has 13.8 GB of weights: at one picture and 4096 rows it is for 24 GB and more."""
    decoder = replace(manifest.decoder, layers=32, heads=32, kv_heads=32, head_dim=128, context=4096)
    graph = replace(manifest.graphs[0], file=File("x.onnx", 13_800_000_000, "0" * 64), data=None)
    facts = SimpleNamespace(
        decoder=decoder, dtype="fp16", graphs=(graph,), vision=replace(manifest.vision, grid=(24, 24)), most_tokens=576
    )
    fits = set()
    for name in targets.names():
        target = targets.load(name)
        shapes = limit_shapes(target.shapes, min(4096, target.shapes.context), 576)
        with contextlib.suppress(BackendError):
            check_run(facts, target, shapes, 1_500_000_000)  # type: ignore[arg-type]
            fits.add(name)
    assert fits == set(targets.names()) - {"orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb"}
