"""Qwen2.5-VL's modules, run eagerly with a checkpoint's weights and fed by the runtime, are Hugging Face's model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import File, Graph, Tensor
from edgeprune.checkpoint.source import resolve
from edgeprune.engines.builder import build_plan
from edgeprune.engines.key import Conditions
from edgeprune.engines.monitor import Silent
from edgeprune.errors import CheckpointError, EdgePruneError, UnsupportedModel, UsageError
from edgeprune.export.graph import write_graph
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.export.trace import Tracer
from edgeprune.families.qwen2_5_vl import Qwen, open_family
from edgeprune.lint.lint import lint
from edgeprune.nvidia.library import open_library
from edgeprune.runtime.mrope import positions
from edgeprune.runtime.native import prepare_native, prepare_native_video
from edgeprune.runtime.prompt import Prompt
from tests.conftest import MakeCheckpoint
from tools.random_families.qwen2_5_vl import CHAT_TEMPLATE

LIMIT = 1e-4  # of the reference's range
FULL_LAYERS = (1, 3)
SIZES = {
    "one": [(150, 200)],  # 5 x 7 visual tokens in windows of 2 x 2
    "whole windows": [(112, 224)],
    "least": [(20, 30)],
    "several": [(84, 300), (30, 40), (200, 113)],
}


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pictures(sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    return [noise(*size, seed) for seed, size in enumerate(sizes)]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= LIMIT * spread


class Both:
    """One checkpoint, as Hugging Face runs it and as the family's parts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.family: Qwen = open_family(resolve(str(path)), "image")
        load: Callable[..., Any] = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained
        self.model = load(path, dtype=torch.float32).eval()
        self.processor: Any = Qwen2VLImageProcessorPil.from_pretrained(path)
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path)

    def tower(self, feeds: dict[str, Any], fused: bool, *probes: tuple[str, int]) -> tuple[torch.Tensor, ...]:
        inputs = [torch.from_numpy(feeds[name]) for name, _, _ in self.family.pixel_inputs]
        found: tuple[torch.Tensor, ...] = self.family.vision(probes, fused).load(torch.float32)(*inputs)
        return found

    def project(self, features: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.family.project().load(torch.float32)(features)
        return projected


@pytest.fixture(scope="module")
def tiny(make_checkpoint: MakeCheckpoint) -> Both:
    return Both(make_checkpoint("tiny-qwen2.5-vl"))


@pytest.fixture(scope="module")
def tied(make_checkpoint: MakeCheckpoint) -> Both:
    return Both(make_checkpoint("tiny-qwen2.5-vl-tied"))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_pictures(tiny: Both, sizes: list[tuple[int, int]], fused: bool) -> None:
    own = pictures(sizes)
    given = tiny.processor(own, return_tensors="pt")
    with torch.no_grad():
        expected = tiny.model.get_image_features(given["pixel_values"], given["image_grid_thw"]).pooler_output
    feeds, _ = prepare_native(own, tiny.family.image())
    (features,) = tiny.tower(feeds, fused)
    assert features.shape[2] == tiny.family.vision_facts.width
    close(tiny.project(features)[0], torch.cat(expected))


@pytest.mark.parametrize("fused", [False, True])
def test_video(tiny: Both, fused: bool) -> None:
    """Five frames of 3 x 5 visual tokens, which are three pairs."""
    family = open_family(resolve(str(tiny.path)), "video")
    feeds, ((pairs, rows, columns),) = prepare_native_video(pictures([(90, 130)] * 5), family.image())
    patches = torch.from_numpy(feeds["pixel_values"]).reshape(-1, family.config.vision.patch_values)
    grid = torch.tensor([[pairs, 2 * rows, 2 * columns]])
    with torch.no_grad():
        (expected,) = tiny.model.get_video_features(patches, grid).pooler_output
    (features,) = tiny.tower(feeds, fused)
    close(tiny.project(features)[0], expected)


@pytest.mark.parametrize("fused", [False, True])
def test_prompts_of_equal_pictures_run_together(tiny: Both, fused: bool) -> None:
    alone = [prepare_native([noise(150, 200, seed)], tiny.family.image())[0] for seed in range(2)]
    together = {**alone[0], "pixel_values": np.concatenate([feeds["pixel_values"] for feeds in alone])}
    probes = (("cls_attention", 3), ("key", 2))
    found = tiny.tower(together, fused, *probes)
    for row, feeds in enumerate(alone):
        for one, other in zip(tiny.tower(feeds, fused, *probes), found, strict=True):
            close(other[row], one[0])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sizes", [SIZES["one"], SIZES["several"]], ids=["one", "several"])
def test_probes(tiny: Both, sizes: list[tuple[int, int]], fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the attention weights and the keys inside Hugging Face's tower, whose rows lie window by window."""
    own, tower = pictures(sizes), tiny.model.model.visual
    feeds, grids = prepare_native(own, tiny.family.image())
    given = tiny.processor(own, return_tensors="pt")
    seen: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(len(tower.blocks))}
    qkv: dict[int, torch.Tensor] = {}
    modules = {id(block.attn): layer for layer, block in enumerate(tower.blocks)}
    eager = modeling_qwen2_5_vl.eager_attention_forward

    def watch(module: Any, *arguments: Any, **options: Any) -> Any:
        output = eager(module, *arguments, **options)
        seen[modules[id(module)]].append(output[1])
        return output

    monkeypatch.setattr(modeling_qwen2_5_vl, "eager_attention_forward", watch)
    hooks = [
        block.attn.qkv.register_forward_hook(lambda _, __, out, layer=layer: qkv.update({layer: out}))
        for layer, block in enumerate(tower.blocks)
    ]
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        tower(given["pixel_values"], grid_thw=given["image_grid_thw"])
    tower.set_attn_implementation("sdpa")
    for hook in hooks:
        hook.remove()

    heads, count = tower.config.num_heads, feeds["positions"].shape[0]
    order = feeds["windows"][feeds["windows"] < count]  # of Hugging Face's rows
    probes = [(kind, layer) for layer in range(4) for kind in ("cls_attention", "key")]
    _, *found = tiny.tower(feeds, fused, *probes)
    for (kind, layer), probe in zip(probes, found, strict=True):
        if kind == "key":
            keys = qkv[layer].unflatten(1, (3, heads, -1))[:, 1].mean(dim=1)  # [n, d]
            expected = torch.empty(count, keys.shape[1])
            expected[order] = keys.unflatten(0, (count, 4)).mean(dim=1)
        else:
            received = torch.cat([weights[0].sum(dim=(0, 1)) for weights in seen[layer]]) / (4 * count)
            expected = torch.empty(count)
            expected[order] = received.unflatten(0, (count, 4)).mean(dim=1)
            groups = len(grids) if layer in FULL_LAYERS else len(feeds["windows"])
            assert len(seen[layer]) == groups
        close(probe[0], expected)


@pytest.mark.parametrize("fused", [False, True])
def test_scores_of_a_large_and_of_a_small_picture_compare(tiny: Both, fused: bool) -> None:
    """Every query gives out a whole of 1, so that a token of a large picture receives as much as one of a small one."""
    feeds, ((_, *large), (_, *small)) = prepare_native(pictures([(196, 196), (84, 84)]), tiny.family.image())
    first, second = int(np.prod(large)), int(np.prod(small))
    assert (first, second) == (49, 9)
    _, scores = tiny.tower(feeds, fused, ("cls_attention", 3))
    equal = tiny.family.vision_facts.heads / (4 * (first + second))
    for own in scores[0].split([first, second]):
        assert float(own.mean()) == pytest.approx(equal, rel=1e-5)
    best = scores[0].topk(second).indices
    assert int((best < first).sum()) > second // 2  # by their number 7 or 8 of 9


class Case:
    """A prompt of text, pictures and text, and what Hugging Face answers."""

    def __init__(self, both: Both, steps: int) -> None:
        sizes = SIZES["several"]
        own = pictures(sizes)
        given = both.processor(own, return_tensors="pt")
        self.feeds, grids = prepare_native(own, both.family.image())
        rng = np.random.default_rng(5)
        self.parts = [rng.integers(0, 200, length) for length in (6, 3, 1, 5)]
        token, ids = both.family.config.image_token_id, [*self.parts[0]]
        for part, (frames, rows, columns) in zip(self.parts[1:], grids, strict=True):
            ids += [token] * (frames * rows * columns) + [*part]
        self.ids = torch.tensor([ids])
        self.places = positions([len(part) for part in self.parts], grids)
        self.is_visual = self.ids[0] == token
        self.answer = both.model.generate(
            input_ids=self.ids,
            attention_mask=torch.ones_like(self.ids),
            mm_token_type_ids=self.is_visual.int()[None],
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **given,
        )

    def position_ids(self) -> torch.Tensor:
        """[3, 1, S]."""
        ids = torch.empty(3, self.ids.shape[1], dtype=torch.int64)
        ids[:, ~self.is_visual] = torch.from_numpy(self.places.text)
        ids[:, self.is_visual] = torch.from_numpy(self.places.visual)
        return ids[:, None]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cuts", [(), (1, 3)])
@pytest.mark.parametrize("shape", ["tiny", "tied"])
def test_answers(shape: str, fused: bool, cuts: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    """From pixels and token ids to the logits of prefill and three decode steps, whole and in segments."""
    both: Both = request.getfixturevalue(shape)
    case, family = Case(both, steps=4), both.family
    (features,) = both.tower(case.feeds, fused)
    embedding, facts = family.embedding(), family.decoder_facts
    assert facts.axes == 3
    hidden = embedding[case.ids]
    hidden[0, case.is_visual] = both.project(features)[0]

    segments = list(pairwise([0, *cuts, facts.layers]))
    empty = torch.zeros(1, facts.kv_heads, 0, facts.head_dim)
    past = {segment: [empty] * 2 * (segment[1] - segment[0]) for segment in segments}
    modules = {segment: family.segment(*segment, fused).load(torch.float32) for segment in segments}
    where = case.position_ids()
    for step, expected in enumerate(case.answer.logits):
        for segment in segments:
            hidden, *past[segment] = modules[segment](hidden, where, past[segment])
        close(hidden[:, 0], expected)
        hidden = embedding[hidden[:, 0].argmax(dim=1)][:, None]
        where = torch.full((3, 1, 1), case.places.end + step)


def test_the_prompt_is_that_of_the_chat_template(tiny: Both) -> None:
    prompt = Prompt(tiny.family.prompt(), tiny.path / "tokenizer.json")
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What's in the 2nd?"}]
    messages = [{"role": "user", "content": content}]
    expected = tiny.tokenizer.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, return_dict=False
    )
    found = prompt.encode("What's in the 2nd?", 2)
    token = tiny.family.config.image_token_id
    assert [*found.parts[0], token, *found.parts[1], token, *found.parts[2]] == expected


SPANS = {"C": (1, 1, 1), "N": (4, 64, 256), "w": (1, 16, 64), "p": (1, 1, 8), "l": (4, 64, 256)}


def test_the_exported_tower_takes_any_size_and_builds(tiny: Both, tmp_path: Path) -> None:
    """In the dialect of TensorRT 10.3: one layer with windows, one without, traced with sizes that are not run here."""
    import onnxruntime

    whole, probes = tiny.family, (("cls_attention", 1), ("key", 1))
    config = replace(whole.config, vision=replace(whole.config.vision, layers=2))
    family, path = Qwen(config, whole.weights, "image"), tmp_path / "vision.onnx"
    inputs = tuple(
        Tensor(name, "fp32" if kind == "real" else "int64", axes) for name, kind, axes in family.pixel_inputs
    )
    outputs = (
        Tensor("features", "fp32", ("C", "N", family.vision_facts.width)),
        Tensor("cls_attention", "fp32", ("C", "N")),
        Tensor("key", "fp32", ("C", "N", family.vision_facts.head_dim)),
    )
    plan = GraphPlan("vision", "vision", None, lambda: family.vision(probes, False), inputs, outputs)
    write_graph(plan, Tracer(18), "fp32", path, lambda count: None)
    tower = family.vision(probes, False).load(torch.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for sizes in SIZES.values():
        feeds, _ = prepare_native(pictures(sizes), family.image())
        expected = tower(*(torch.from_numpy(feeds[tensor.name]) for tensor in inputs))
        for found, own in zip(session.run(None, feeds), expected, strict=True):
            close(torch.from_numpy(found), own)

    profile = [Bounds(tensor.name, tensor.dtype, "shape", *_span(tensor)) for tensor in inputs]
    model = onnx.load(path, load_external_data=False)
    for flavour, version in (("tensorrt", (10, 3, 0)), ("tensorrt-rtx", (1, 7, 1))):
        assert lint(model, profile, flavour, version) == ()  # type: ignore[arg-type]
    graph = Graph("vision", "vision", File("vision.onnx", 1, "0" * 64), None, None, inputs, outputs)
    conditions = Conditions(open_library("tensorrt-rtx"), ("8.6",), None, "fp32", 1 << 30)
    built = build_plan(graph, path, profile, conditions, Silent())
    assert [output.name for output in built.outputs] == [tensor.name for tensor in outputs]


def _span(tensor: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(axis if isinstance(axis, int) else SPANS[axis][place] for axis in tensor.shape) for place in range(3)
    )


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *folders, last = path.split(".")

    def change(config: dict[str, Any]) -> None:
        for folder in folders:
            config = config[folder]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        ("rope_scaling", None, CheckpointError, "lacks mrope_section"),
        ("rope_scaling.mrope_section", [2, 3, 4], CheckpointError, "must be three numbers that add up to 8"),
        ("rope_scaling.type", "yarn", UnsupportedModel, "rope type 'yarn'"),
        ("vision_config.out_hidden_size", 16, CheckpointError, "out_hidden_size is 16 and the decoder's width 32"),
        ("vision_config.hidden_act", "gelu", UnsupportedModel, "hidden_act = 'gelu'"),
        ("vision_config.num_heads", 16, CheckpointError, "does not divide into 16 heads"),
        ("use_sliding_window", True, UnsupportedModel, "use_sliding_window = True"),
        ("image_token_id", 9999, CheckpointError, "image_token_id 9999 is outside the vocabulary of 288"),
        ("architectures", ["Qwen2VLForConditionalGeneration"], UnsupportedModel, "resembles qwen2_5_vl"),
    ],
)
def test_configurations_that_are_not_carried(
    tiny: Both, path: str, value: Any, error: type[EdgePruneError], message: str, tmp_path: Path
) -> None:
    config = json.loads((tiny.path / "config.json").read_text(encoding="utf-8"))
    _set(path, value)(config)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(tiny.path / "model.safetensors", tmp_path)
    with pytest.raises(error, match=message):
        open_family(resolve(str(tmp_path)), "image")


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        ("patch_size", 16, CheckpointError, "patch_size is 16, by config.json 14"),
        ("do_resize", False, UnsupportedModel, "do_resize = false is not supported; expected true"),
        ("max_pixels", 10, CheckpointError, "native.max_pixels=10"),
        ("image_processor_type", "CLIPImageProcessor", UnsupportedModel, "'CLIPImageProcessor' is not supported"),
    ],
)
def test_processors_that_are_not_carried(
    tiny: Both, path: str, value: Any, error: type[EdgePruneError], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny.path, tmp_path / "changed")
    config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    _set(path, value)(config)
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(error, match=message):
        open_family(resolve(str(folder)), "image").image()


def test_a_video_processor_may_sample(tiny: Both, tmp_path: Path) -> None:
    """It has a file of its own; without one frames are sampled as Qwen's own code does."""
    source = resolve(str(shutil.copytree(tiny.path, tmp_path / "changed")))
    native = open_family(source, "video").image().native
    assert native is not None and native.video is not None
    assert (native.video.rate, native.video.least, native.video.most, native.max_pixels) == (2.0, 4, 768, 50176)
    settings = {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": {"shortest_edge": 3136, "longest_edge": 6272},
        "do_sample_frames": True,
        "fps": 4,
        "max_frames": 16,
        "cap_pixels_per_frame": True,
    }
    (source.path / "video_preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    native = open_family(source, "video").image().native
    assert native is not None and native.video is not None
    assert (native.video.rate, native.video.most, native.video.budget, native.max_pixels) == (4.0, 16, 128000, 6272)


def test_no_method_prunes_inside_of_the_encoder(tiny: Both) -> None:
    with pytest.raises(UsageError, match="cannot serve qwen2_5_vl"):
        tiny.family.encoder(lambda *_: torch.nn.Identity(), False)
