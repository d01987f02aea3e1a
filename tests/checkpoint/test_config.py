"""config.json: what is read of it, what its gaps mean, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprune.checkpoint.config import ProjectorConfig, read_config
from edgeprune.checkpoint.decoder import DecoderConfig, read_decoder
from edgeprune.checkpoint.rope import Rope
from edgeprune.checkpoint.tower import VisionConfig
from edgeprune.errors import CheckpointError, UnsupportedModel
from tests.checkpoint.change import change
from tools.random_checkpoint import SHAPES, write_checkpoint

LLAVA_7B: dict[str, Any] = {  # as on the hub, with its gaps
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}

QWEN2_5_VL: dict[str, Any] = {
    "model_type": "qwen2_5_vl_text",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1e6,
    "hidden_act": "silu",
}


def _write(folder: Path, change: dict[str, Any]) -> Path:
    """LLaVA-1.5 7B with dotted keys replaced."""
    raw = json.loads(json.dumps(LLAVA_7B))
    for key, value in change.items():
        holder = raw
        *parents, last = key.split(".")
        for parent in parents:
            holder = holder[parent]
        holder[last] = value
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def test_llava_7b_with_its_gaps_filled(tmp_path: Path) -> None:
    config = read_config(_write(tmp_path, {}))
    assert config.vision == VisionConfig(1024, 24, 16, 4096, 336, 14, "quick_gelu", 1e-5)
    assert config.vision.patches == 576
    assert config.decoder == DecoderConfig(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=128,
        intermediate=11008,
        vocab=32064,
        context=4096,
        norm_eps=1e-5,
        rope=Rope(10000.0),
        qkv_bias=False,
        tied=False,
        activation="silu",
    )
    assert config.projector == ProjectorConfig("gelu", bias=True)
    assert (config.feature_layer, config.feature_select, config.image_token_id) == (22, "default", 32000)
    assert (config.dtype, config.architecture) == ("float16", "LlavaForConditionalGeneration")


def test_a_config_without_parts_is_llava_7b_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlavaForConditionalGeneration"], "image_token_index": 31999}', encoding="utf-8"
    )
    config = read_config(tmp_path)
    assert (config.vision.hidden, config.vision.layers, config.decoder.layers) == (1024, 24, 32)
    assert config.dtype is None


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("tiny-")])
def test_tiny_shapes(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name].decoder
    config = read_config(write_checkpoint(name, tmp_path, dtype="bf16"))
    decoder = config.decoder
    assert (decoder.layers, decoder.heads) == (shape.num_hidden_layers, shape.num_attention_heads)
    assert decoder.kv_heads == shape.num_key_value_heads
    assert decoder.head_dim == shape.hidden_size // shape.num_attention_heads
    assert decoder.qkv_bias == (shape.model_type == "qwen2")
    assert decoder.tied == shape.tie_word_embeddings
    assert config.dtype == "bfloat16"
    assert decoder.rope.kind == {"tiny-llama3": "llama3", "tiny-linear": "linear"}.get(name, "default")


@pytest.mark.parametrize(
    ("change", "rope"),
    [
        ({"rope_theta": 5e5}, Rope(5e5)),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, Rope(1e4, "linear", 2.0)),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, Rope(1e4)),  # changes nothing within the context
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}},
            Rope(7.0, "linear", 2.0),
        ),
        (
            {
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 2048,
                },
            },
            Rope(5e5, "llama3", 8.0, 1.0, 4.0, 2048),
        ),
    ],
)
def test_rope_in_every_spelling(tmp_path: Path, change: dict[str, Any], rope: Rope) -> None:
    folder = _write(tmp_path, {f"text_config.{key}": value for key, value in change.items()})
    assert read_config(folder).decoder.rope == rope


@pytest.mark.parametrize(("value", "layer"), [(-1, 23), (-2, 22), (-24, 0), (1, 0), (24, 23)])
def test_feature_layer_counts_layers_from_zero(tmp_path: Path, value: int, layer: int) -> None:
    assert read_config(_write(tmp_path, {"vision_feature_layer": value})).feature_layer == layer


@pytest.mark.parametrize("value", [-2, 1, 2])
def test_feature_layer_is_the_hidden_state_of_transformers(tmp_path: Path, value: int) -> None:
    import torch
    from transformers import LlavaForConditionalGeneration

    write_checkpoint("tiny", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | {"vision_feature_layer": value}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = read_config(tmp_path)
    tower = LlavaForConditionalGeneration.from_pretrained(tmp_path).model.vision_tower
    outputs: list[Any] = []
    layers = next(module for name, module in tower.named_modules() if name.endswith("layers"))
    layers[config.feature_layer].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        size = config.vision.image_size
        states = tower(torch.randn(1, 3, size, size), output_hidden_states=True).hidden_states
    output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    assert states[value].equal(output)


def test_other_values_that_are_carried(tmp_path: Path) -> None:
    change = {
        "text_config.head_dim": 64,
        "text_config.num_key_value_heads": 8,
        "text_config.tie_word_embeddings": True,
        "multimodal_projector_bias": False,
        "vision_feature_select_strategy": "full",
        "vision_config.image_size": [224, 224],
        "vision_config.hidden_act": "gelu",
        "some_new_key": 1,
        "auto_map": {"AutoConfig": "evil.Config"},  # passed over: the architecture is known
    }
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    config = read_config(_write(tmp_path, change))
    assert (config.decoder.head_dim, config.decoder.kv_heads, config.decoder.tied) == (64, 8, True)
    assert (config.projector.bias, config.feature_select) == (False, "full")
    assert (config.vision.image_size, config.vision.activation) == (224, "gelu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["LlavaNextForConditionalGeneration"]},
            "'LlavaNextFor.*' is of the family llava_next, and it is opened as llava",
        ),
        (
            {"architectures": ["LlavaNextVideoForConditionalGeneration"]},
            "resembles llava_next, but is built otherwise; supported: LlavaForConditionalGeneration, LlavaNextFor",
        ),
        ({"architectures": ["Qwen2VLForConditionalGeneration"]}, "resembles qwen2_5_vl, but is built otherwise"),
        ({"architectures": ["InternVLChatModel"]}, "converted form, whose name ends in -hf"),
        ({"architectures": ["BlipModel"]}, "'BlipModel' is not supported; supported: LlavaForConditional"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "converted form, such as llava-hf/llava-1.5-7b-hf"),
        ({"architectures": None, "model_type": "llava_next"}, "'LlavaNextFor.*' is of the family llava_next"),
        (
            {"architectures": None, "model_type": "qwen2_vl"},
            "'qwen2_vl' is not supported: it resembles qwen2",
        ),
        ({"architectures": None, "model_type": "blip"}, "model_type = 'blip' is not supported; supported: Llava"),
        ({"architectures": None, "model_type": None}, "without architectures and model_type is not supported"),
        ({"architectures": [["Llava"]]}, "is not supported; supported: Llava"),
        ({"architectures": {"a": 1}}, "is not supported; supported: Llava"),
        ({"model_type": "vipllava"}, "model_type = 'vipllava'"),
        (
            {"text_config.model_type": "gemma"},
            "text_config.model_type = 'gemma'.*expected llama or mistral or qwen2",
        ),
        (
            {"text_config.model_type": "mistral", "text_config.sliding_window": 1024},
            "text_config.sliding_window = 1024 .*expected null or 4096 and more",
        ),
        ({"vision_config.model_type": "siglip_vision_model"}, "'siglip_vision_model'.*clip_vision_model"),
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer = \[-2, -5\].*expected one layer"),
        ({"vision_feature_layer": 0}, r"vision_feature_layer = 0 .*expected 1\.\.24 or -24\.\.-1"),
        ({"vision_feature_layer": -25}, "vision_feature_layer = -25"),
        ({"vision_feature_select_strategy": "cls"}, "'cls'.*expected default or full"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"projector_hidden_act": "mish"}, "projector_hidden_act = 'mish'"),
        ({"vision_config.hidden_act": "relu6"}, "vision_config.hidden_act = 'relu6'"),
        ({"text_config.hidden_act": "gelu"}, "text_config.hidden_act = 'gelu'.*expected silu"),
        ({"text_config.attention_bias": True}, "text_config.attention_bias = True"),
        ({"text_config.mlp_bias": True}, "text_config.mlp_bias = True"),
        ({"vision_config.image_size": [224, 336]}, r"vision_config.image_size = \[224, 336\]"),
        ({"vision_config.num_channels": 1}, "vision_config.num_channels = 1"),
        (
            {"text_config.rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope type 'yarn'.*expected default",
        ),
        ({"text_config.rope_scaling": {"type": "longrope", "factor": 4.0}}, "rope type 'longrope'"),
        (
            {"text_config.rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor = 0.5",
        ),
        (
            {"text_config.model_type": "qwen2", "text_config.use_sliding_window": True},
            "text_config.use_sliding_window = True",
        ),
    ],
)
def test_unsupported(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message) as caught:
        read_config(_write(tmp_path, change))
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": 7}, "text_config must be an object"),
        ({"text_config.hidden_size": "wide"}, "does not describe a Llava model"),
        ({"text_config.num_key_value_heads": 5}, "32 query heads are no multiple of 5"),
        (
            {"vision_config.num_attention_heads": 7},
            r"not a multiple of .* heads \(7\)|does not divide into 7 heads",
        ),
        ({"image_token_index": 40000}, "image_token_index 40000 is outside the vocabulary of 32064"),
        ({"text_config.rope_scaling": {"rope_type": "linear"}}, "factor"),
        (
            {"text_config.rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "llama3|low_freq_factor",
        ),
        (
            {"text_config.rope_scaling": {"rope_type": "linear", "factor": -1.0}},
            "factor -1.0 must be positive",
        ),
    ],
)
def test_contradictions(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(_write(tmp_path, change))
    assert not isinstance(caught.value, UnsupportedModel)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"{", "is not JSON"), (b"\xff\xfe{}", "is not JSON"), (b"[]", "must hold a JSON object, not a list")],
)
def test_files_that_are_no_config(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        read_config(tmp_path)


def test_llava_next_7b_of_mistral_with_its_gaps_filled(tmp_path: Path) -> None:
    raw = {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_token_index": 32000,
        "model_type": "llava_next",
        "text_config": {
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_key_value_heads": 8,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "vocab_size": 32064,
        },
        "use_image_newline_parameter": True,
        "vision_config": LLAVA_7B["vision_config"],
    }
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = read_config(tmp_path, "llava_next")
    assert (config.vision.patches, config.feature_layer, config.feature_select) == (576, 22, "default")
    assert config.pinpoints == ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    decoder = config.decoder
    assert (decoder.layers, decoder.hidden, decoder.heads, decoder.kv_heads) == (32, 4096, 32, 8)
    assert (decoder.head_dim, decoder.context, decoder.rope.theta, decoder.norm_eps) == (128, 32768, 1e6, 1e-6)


def test_video_llava_7b_with_its_gaps_filled(tmp_path: Path) -> None:
    raw = {
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "model_type": "video_llava",
        "text_config": {"max_position_embeddings": 4096, "model_type": "llama", "vocab_size": 32064},
        "vision_config": {**LLAVA_7B["vision_config"], "image_size": 224},
    }
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = read_config(tmp_path, "video_llava")
    assert (config.image_token_id, config.video_token_id, config.video_rows) == (32000, 32001, 8 * 257)
    assert (config.vision.patches, config.feature_layer, config.decoder.layers) == (256, 22, 32)


def test_a_model_of_another_build_of_llava(tmp_path: Path) -> None:
    """Tiles and a Mistral decoder; a video token; what LLaVA-1.5 has none of."""
    following = read_config(write_checkpoint("tiny-next-mistral", tmp_path / "next"), "llava_next")
    assert following.pinpoints == ((112, 224), (224, 112), (224, 224), (336, 112), (112, 336))
    assert (following.decoder.rope.theta, following.decoder.qkv_bias, following.video_token_id) == (1e6, False, None)
    video = read_config(write_checkpoint("tiny-video", tmp_path / "video"), "video_llava")
    assert (video.image_token_id, video.video_token_id, video.video_rows, video.pinpoints) == (94, 95, 520, ())
    plain = read_config(write_checkpoint("tiny", tmp_path / "plain"))
    assert (plain.video_token_id, plain.video_rows, plain.pinpoints) == (None, None, ())


@pytest.mark.parametrize(
    ("pinpoints", "message"),
    [
        ([[112, 224], [100, 112]], "image_grid_pinpoints has 100x112, which is no grid of tiles of 112x112"),
        ([[112, 224], [168, 112]], "has 168x112, which is no grid"),
        ([[112, 224, 336]], "must be pairs of height and width"),
        ([112, 224], "must be pairs of height and width"),
    ],
)
def test_resolutions_that_are_no_grids(tmp_path: Path, pinpoints: Any, message: str) -> None:
    change(write_checkpoint("tiny-next", tmp_path), "config.json", image_grid_pinpoints=pinpoints)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path, "llava_next")


@pytest.mark.parametrize("window", [None, 4096, 32768])
def test_a_window_as_long_as_any_sequence_changes_nothing(tmp_path: Path, window: int | None) -> None:
    folder = _write(tmp_path, {"text_config.model_type": "mistral", "text_config.sliding_window": window})
    assert read_config(folder).decoder.context == 4096


@pytest.mark.parametrize("kind", ["default", "mrope"])
def test_positions_of_three_axes(tmp_path: Path, kind: str) -> None:
    text = QWEN2_5_VL | {"rope_scaling": {"type": kind, "mrope_section": [16, 24, 24]}}
    assert read_decoder(tmp_path, text, False).rope == Rope(1e6, sections=(16, 24, 24))
    assert read_decoder(tmp_path, text | {"model_type": "qwen2"}, False).rope == Rope(1e6)


@pytest.mark.parametrize("sections", [[16, 24, 23], [32, 32], [64, 0, 0]])
def test_sections_of_a_head_that_do_not_add_up(tmp_path: Path, sections: list[int]) -> None:
    text = QWEN2_5_VL | {"rope_scaling": {"type": "mrope", "mrope_section": sections}}
    with pytest.raises(CheckpointError, match=r"mrope_section \[.*\] must be three numbers that add up to 64"):
        read_decoder(tmp_path, text, False)


def test_rope_refuses_values_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="kind 'yarn'"):
        Rope(1e4, "yarn")
    with pytest.raises(ValueError, match="below high_freq_factor"):
        Rope(1e4, "llama3", 8.0, 4.0, 1.0, 2048)
