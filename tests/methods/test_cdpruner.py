"""CDPruner: CLIP's text tower and tokenizer against Hugging Face's, kernels and choices against the numpy reference."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgeprune.bundle.manifest import Dialect
from edgeprune.bundle.sizes import ClassRow, Vision
from edgeprune.bundle.store import open_bundle
from edgeprune.checkpoint.clip import read_clip_config
from edgeprune.checkpoint.source import resolve
from edgeprune.eager.clip_text import EagerClipText
from edgeprune.eager.model import EagerModel
from edgeprune.engines.builder import build_plan
from edgeprune.engines.key import Conditions
from edgeprune.engines.monitor import Silent as NoBars
from edgeprune.engines.profile import fit_shapes, make_profile
from edgeprune.errors import BundleError, CheckpointError, UsageError
from edgeprune.export.add import add_methods
from edgeprune.export.bundle import write_graphs
from edgeprune.export.clip import Clip, open_clip
from edgeprune.export.method_plan import MethodPlanner
from edgeprune.export.progress import Silent
from edgeprune.families.family import open_family
from edgeprune.methods import method as methods
from edgeprune.methods.cdpruner import ClipKernel, Question, QuestionKernel
from edgeprune.nvidia.library import open_library
from edgeprune.recipes.target import Range, Shapes
from edgeprune.runtime.clip_ids import ClipIds, open_clip_ids
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.samplers import dpp
from edgeprune.runtime.vlm import open_vlm
from edgeprune.verify import verify_bundle
from tests.clip import make_cdpruner, make_clip
from tests.conftest import MakeCheckpoint, MakeOnce
from tests.reference import cdpruner as reference
from tools.random_checkpoint import Tower, write_clip

QUESTIONS = (
    "What is in the picture?",
    "a",
    "  Wie  viele\nHÜTE ... 12,5?  ",
    "\N{GRINNING FACE} <|endoftext|> after the end",
    "what is this thing? " * 30,
)
BUDGETS = (1, 2, 5, 12, 24)  # below the rank of the kernel, 32; beyond it rounding decides
ROWS, WIDTH, VISION = 64, 32, 32
FACTS = Vision((8, 8), VISION, 1, 1, VISION, 14)


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "new"])
def clip_path(request: pytest.FixtureRequest, make_once: MakeOnce) -> Path:
    return make_clip(make_once, request.param)


@pytest.fixture(scope="session")
def clip(make_once: MakeOnce) -> Clip:
    return open_clip(resolve(str(make_clip(make_once))))


@pytest.fixture(scope="session")
def bundle(make_once: MakeOnce, make_checkpoint: MakeCheckpoint) -> Path:
    return make_cdpruner(make_once, make_checkpoint)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- the question -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_text_tower_is_hugging_faces(clip_path: Path, fused: bool) -> None:
    opened, theirs = open_clip(resolve(str(clip_path))), EagerClipText(clip_path)
    ours = opened.part(Question(opened.config, fused)).load(torch.float32)
    ids = torch.from_numpy(np.stack([theirs.ids(question) for question in QUESTIONS]))
    torch.testing.assert_close(ours(ids), theirs(ids), atol=1e-5, rtol=1e-5)


def test_a_text_without_an_end_is_read_as_hugging_face_does(make_once: MakeOnce) -> None:
    path = make_clip(make_once, False)
    opened, theirs = open_clip(resolve(str(path))), EagerClipText(path)
    ours = opened.part(Question(opened.config, False)).load(torch.float32)
    ids = torch.full((1, 77), 7)
    torch.testing.assert_close(ours(ids), theirs(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("question", QUESTIONS)
def test_ids_are_hugging_faces(bundle: Path, make_once: MakeOnce, question: str) -> None:
    ours = open_clip_ids(open_bundle(bundle, check_hashes=False))
    assert isinstance(ours, ClipIds)
    assert list(ours(question)) == EagerClipText(make_clip(make_once)).ids(question).tolist()
    assert len(ours(question)) == 77


# --- kernels ------------------------------------------------------------------------------------------------


def clip_case(clip: Clip, batch: int) -> tuple[nn.Module, list[torch.Tensor]]:
    kernel = clip.part(ClipKernel(FACTS, clip.config)).load(torch.float32)
    rows = [random(batch, ROWS, WIDTH), random(batch, ROWS, VISION, seed=1), random(1, 24, seed=2)]
    return kernel, [*rows, torch.tensor(1)]


def clip_reference(kernel: nn.Module, visual: torch.Tensor, features: torch.Tensor, text: torch.Tensor) -> Any:
    named = {name: value.double().numpy() for name, value in kernel.named_parameters()}
    rows = features.double().numpy()
    centred = rows - rows.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    normed = normed * named["vision_model.post_layernorm.weight"] + named["vision_model.post_layernorm.bias"]
    weights = reference.relevance(normed @ named["visual_projection.weight"], text.double().numpy())
    return reference.kernel(visual.double().numpy(), weights)


def test_kernel_by_clip(clip: Clip) -> None:
    kernel, given = clip_case(clip, 2)
    found = kernel(*given).numpy()
    for row in range(2):
        expected = clip_reference(kernel, given[0][row], given[1][row], given[2])
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        for keep in BUDGETS:
            picked = sorted(reference.greedy_map(expected, keep))
            assert dpp({"kernel": found[row : row + 1]}, keep)[0].tolist() == picked


def test_kernel_by_the_language_model() -> None:
    visual, question = random(2, ROWS, WIDTH), random(1, 7, WIDTH, seed=1)
    found = QuestionKernel(FACTS)(visual, question, torch.tensor(1)).numpy()
    for row in range(2):
        rows, asked = visual[row].double().numpy(), question[0].double().numpy()
        expected = reference.kernel(rows, reference.relevance_llm(rows, asked))
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        for keep in BUDGETS:
            picked = sorted(reference.greedy_map(expected, keep))
            assert dpp({"kernel": found[row : row + 1]}, keep)[0].tolist() == picked


def test_pictures_of_a_batch_are_independent(clip: Clip) -> None:
    kernel, (visual, features, text, runs) = clip_case(clip, 3)
    together = kernel(visual, features, text, runs)
    for row in range(3):
        alone = kernel(visual[row : row + 1], features[row : row + 1], text, runs)
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("class_row", ["apart", "inside"])
def test_relevance_is_relative_among_the_runs_of_a_prompt_and_never_beyond(class_row: ClassRow) -> None:
    visual, question = random(6, ROWS, WIDTH), random(1, 7, WIDTH, seed=1)
    visual[2] *= 0.5
    rows = torch.cat((torch.full((6, 1, WIDTH), 9.0), visual), dim=1) if class_row == "inside" else visual
    facts = dataclasses.replace(FACTS, class_row=class_row)
    found = QuestionKernel(facts)(rows, question, torch.tensor(3)).numpy()
    asked, wide = question[0].double().numpy(), visual.double().numpy()
    for first in (0, 3):
        weights = reference.relevance_llm(wide[first : first + 3].reshape(-1, WIDTH), asked).reshape(3, ROWS)
        for run, own in enumerate(weights, first):
            np.testing.assert_allclose(found[run], reference.kernel(wide[run], own), atol=1e-5)


def test_rows_of_equal_relevance_are_judged_by_their_difference_alone() -> None:
    visual = random(1, ROWS, WIDTH)
    visual[:, :, 0] = 0
    question = torch.zeros(1, 2, WIDTH)
    question[:, :, 0] = 1.0
    unit = nn.functional.normalize(visual, dim=-1)
    kernel = QuestionKernel(FACTS)(visual, question, torch.tensor(1))
    torch.testing.assert_close(kernel, unit @ unit.transpose(1, 2))


def test_rows_of_zeros_and_of_large_halves_stay_finite(clip: Clip) -> None:
    kernel, (visual, features, text, runs) = clip_case(clip, 1)
    visual, features = visual.half() * 1e4, features.half() * 1e4
    visual[:, 0], features[:, 0] = 0, 0
    kernel = kernel.half()
    assert torch.isfinite(kernel(visual, features, text, runs)).all()
    assert torch.isfinite(QuestionKernel(FACTS)(visual, visual[:, :4], runs)).all()


# --- the whole chain ----------------------------------------------------------------------------------------


def test_the_bundle_is_verified(bundle: Path, make_once: MakeOnce, checkpoint_tiny: Path, tmp_path: Path) -> None:
    copy = open_bundle(shutil.copytree(bundle, tmp_path / "bundle"))
    with pytest.raises(UsageError, match="holds CLIP's text tower; give the checkpoint it is from, clip-legacy"):
        verify_bundle(copy, checkpoint_tiny, OrtBackend(1))
    report = verify_bundle(copy, checkpoint_tiny, OrtBackend(1), [12], clip=resolve(str(make_clip(make_once))))
    assert report.first_failure is None, report.table()
    names = {check.name for check in report.checks}
    assert {"prepare_cdpruner", "kernel_cdpruner", "kernel_cdpruner-llm", "chain cdpruner keep=12"} <= names


def test_what_is_kept_is_the_references_choice(bundle: Path, make_once: MakeOnce, checkpoint_tiny: Path) -> None:
    import transformers

    pixels = np.random.default_rng(3).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    image, question = Image.fromarray(pixels), "What is in the picture?"
    model: Any = transformers.CLIPModel.from_pretrained(make_clip(make_once))
    with torch.no_grad(), open_vlm(bundle, threads=1) as vlm:
        features = torch.from_numpy(vlm.encode(image)["features"])
        patches = model.visual_projection(model.vision_model.post_layernorm(features))[0].numpy()
        ids = torch.from_numpy(EagerClipText(make_clip(make_once)).ids(question))[None]
        text = model.get_text_features(ids).pooler_output.numpy()
        visual = EagerModel(checkpoint_tiny, "fp32").project(features)[0].numpy()
        matrix = reference.kernel(visual, reference.relevance(patches, text))
        for keep in (3, 12):
            answer = vlm.generate(question, [image], keep, "cdpruner", 2)
            (stage,) = answer.stages
            assert list(stage.kept) == sorted(reference.greedy_map(matrix, keep))
            assert (stage.cut, stage.merged) == ("projected", ())
        batch = vlm.generate_batch(question, [image, image], 12, "cdpruner", 2)
        assert [row.stages for row in batch] == [answer.stages] * 2


def test_another_question_keeps_other_rows(bundle: Path) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (112, 112, 3), dtype=np.uint8))
    with open_vlm(bundle, threads=1) as vlm:
        for method in ("cdpruner", "cdpruner-llm"):
            kept = [vlm.generate(q, [image], 12, method, 1).stages[0].kept for q in QUESTIONS[:3]]
            assert len(set(kept)) > 1


@pytest.mark.parametrize("dialect", ["base", "fused"])
def test_its_graphs_in_fp16_build_for_tensorrt(
    clip: Clip, bundle: Path, checkpoint_tiny: Path, tmp_path: Path, dialect: Dialect
) -> None:
    planner = MethodPlanner(
        open_family("llava", resolve(str(checkpoint_tiny)), "image"),
        methods.load("cdpruner"),
        "fp16",
        dialect == "fused",
        clip,
    )
    graphs = write_graphs(planner.after_projector(), "fp16", dialect, tmp_path, Silent())
    manifest = open_bundle(bundle, check_hashes=False).manifest
    shapes = fit_shapes(Shapes(batch=Range(1, 1, 4)), manifest)
    conditions = Conditions(open_library("tensorrt-rtx"), ("8.6",), None, "fp16", 1 << 30)
    for graph, precisions in zip(graphs, ({"fp16"}, {"fp32"}, set()), strict=True):
        profile = make_profile(graph, manifest, shapes)
        built = build_plan(graph, tmp_path / graph.file.path, profile, conditions, NoBars())
        assert set(built.precisions) == precisions

    theirs = EagerClipText(clip.source.path)
    ids = theirs.ids(QUESTIONS[0])[None]
    backend = OrtBackend(1)
    session = backend.session(graphs[0], tmp_path / graphs[0].file.path)
    found = session.run({"text_ids": backend.array(ids)})["text_embeds"]
    np.testing.assert_allclose(backend.numpy(found), theirs(torch.from_numpy(ids)).numpy(), atol=5e-3)


# --- methods added to a bundle ------------------------------------------------------------------------------


def test_it_is_added_to_a_bundle(
    bundle_tiny: Path, checkpoint_tiny: Path, make_once: MakeOnce, bundle: Path, tmp_path: Path
) -> None:
    root, model = shutil.copytree(bundle_tiny, tmp_path / "bundle"), resolve(str(checkpoint_tiny))
    clip = resolve(str(make_clip(make_once)))
    with pytest.raises(UsageError, match=r"add --clip .* or take cdpruner-llm"):
        add_methods(open_bundle(root), model, ["cdpruner"])
    with pytest.raises(UsageError, match="--clip clip-legacy has no effect: fastv needs no CLIP checkpoint"):
        add_methods(open_bundle(root), model, ["fastv"], clip_source=clip)
    done = add_methods(open_bundle(root), model, ["cdpruner"], clip_source=clip)
    assert done.added == ("prepare_cdpruner", "kernel_cdpruner", "prune_cdpruner_projected")
    assert done.rewritten == ()
    facts, exported = done.bundle.manifest.text, open_bundle(bundle).manifest.text
    assert facts == exported
    assert facts is not None
    assert facts.tokenizer in done.bundle.manifest.files

    other = write_clip(tmp_path / "other", length=40)
    with pytest.raises(CheckpointError, match=r"is not the CLIP checkpoint of .*, which is clip-legacy"):
        add_methods(open_bundle(root), model, ["cdpruner-llm"], clip_source=resolve(str(other)))


# --- what cannot be read ------------------------------------------------------------------------------------


def test_a_manifest_whose_text_contradicts_it(bundle: Path, bundle_tiny: Path) -> None:
    manifest, plain = open_bundle(bundle).manifest, open_bundle(bundle_tiny).manifest
    facts = manifest.text
    assert facts is not None
    with pytest.raises(BundleError, match="text is null, and 1 graphs take 'text_ids'"):
        dataclasses.replace(manifest, text=None)
    with pytest.raises(BundleError, match="text is given, and 0 graphs take 'text_ids'"):
        dataclasses.replace(plain, text=facts)
    with pytest.raises(BundleError, match=r"'text_ids' otherwise than as int64 \[1, 76\]"):
        dataclasses.replace(manifest, text=dataclasses.replace(facts, length=76))
    with pytest.raises(BundleError, match="length 2; expected 3 or more"):
        dataclasses.replace(facts, length=2)
    with pytest.raises(BundleError, match=r"token ids \[1, -1, 1\]; expected 0 or more"):
        dataclasses.replace(facts, start_id=1, end_id=-1, pad_id=1)


def test_a_damaged_tokenizer(bundle: Path, tmp_path: Path) -> None:
    copy = open_bundle(shutil.copytree(bundle, tmp_path / "bundle"))
    facts = copy.manifest.text
    assert facts is not None
    path = copy.path(facts.tokenizer)
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))
    with pytest.raises(BundleError, match=r"text_tokenizer.json cannot be read as a tokenizer"):
        open_clip_ids(copy)
    with pytest.raises(BundleError, match="was changed or damaged"):
        open_bundle(copy.root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object, not a list"),
        ('{"model_type": "clip_text_model"}', "model_type = 'clip_text_model' is no CLIP model; give one with both"),
        ('{"model_type": "clip", "text_config": {"hidden_act": "relu"}}', "hidden_act = 'relu' is not supported"),
        (
            '{"model_type": "clip", "text_config": {"eos_token_id": [1, 2]}}',
            r"eos_token_id = \[1, 2\] is not supported",
        ),
        ('{"model_type": "clip", "text_config": 7}', "does not describe a CLIP model"),
    ],
)
def test_a_config_that_is_not_carried(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=expected):
        read_clip_config(tmp_path)


def test_openais_defaults_are_filled_in(tmp_path: Path) -> None:
    text = '{"model_type": "clip", "projection_dim": 768, "text_config_dict": {"hidden_size": 768, "eos_token_id": 2}}'
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    config = read_clip_config(tmp_path)
    assert (config.embed, config.text.hidden, config.text.end_id, config.text.length) == (768, 768, None, 77)


def test_a_checkpoint_of_other_tensors(tmp_path: Path) -> None:
    wide = write_clip(tmp_path / "wide", Tower(48, 2, 2, 64, image_size=112, patch_size=14))
    config = wide / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"hidden_size": 48', '"hidden_size": 32', 2))
    opened = open_clip(resolve(str(wide)))
    with pytest.raises(CheckpointError, match=r"has shape \[48\], by config.json \[32\]"):
        opened.part(ClipKernel(FACTS, opened.config))
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'nothing.weight' \(and 1 more\)"):
        opened.part(nn.ModuleDict({"nothing": nn.LayerNorm(3)}))


def test_an_encoder_that_is_none_of_clips(clip: Clip) -> None:
    with pytest.raises(UsageError, match="this model's encoder is none of CLIP's; take cdpruner-llm"):
        ClipKernel(dataclasses.replace(FACTS, class_row="none"), clip.config)


def test_the_text_tower_is_needed_by_one_of_them() -> None:
    assert methods.load("cdpruner").needs_clip
    assert not methods.load("cdpruner-llm").needs_clip
    made = methods.load("cdpruner-llm")
    assert made.kernel is not None
    assert isinstance(made.kernel(FACTS), QuestionKernel)
