"""Random checkpoints of LLaVA-1.5, in the layout of llava-hf's on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.random_families.letters import write_letters
from tools.random_families.pieces import (
    CLIP_PIXELS,
    DTYPES,
    Decoder,
    Parameter,
    Tower,
    decoder_config,
    decoder_parameters,
    projector_parameters,
    tower_parameters,
    write_json,
    write_weights,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The template of llava-hf/llava-1.5-7b-hf, its ``generation`` tag included."""


@dataclass(frozen=True)
class Shape:
    """A whole model."""

    tower: Tower
    decoder: Decoder
    image_token_id: int

    @property
    def pad_token_id(self) -> int:
        """The id after the image token's."""
        return self.image_token_id + 1


_TINY_TOWER = Tower(32, 2, 2, 64, image_size=112, patch_size=14)
_TINY_TOWER_5_LAYERS = Tower(32, 5, 2, 64, image_size=112, patch_size=14)
_CLIP_L_336 = Tower(1024, 24, 16, 4096, image_size=336, patch_size=14)
_CLIP_L_336_4_LAYERS = Tower(1024, 4, 16, 4096, image_size=336, patch_size=14)
_BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_LLAMA3 = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, **_BANDS}}


def _tiny(layers: int = 4, heads: int = 2, kv_heads: int = 2, **other: Any) -> Shape:
    decoder = Decoder(32, layers, heads, kv_heads, 64, 96, 512, **other)
    return Shape(_TINY_TOWER, decoder, image_token_id=94)


SHAPES = {
    "tiny": _tiny(),
    "tiny-gqa": _tiny(layers=8, heads=4, kv_heads=2),
    "tiny-16-heads": _tiny(heads=16, kv_heads=4),
    "tiny-qwen2": _tiny(heads=4, kv_heads=2, model_type="qwen2"),
    "tiny-llama3": _tiny(tie_word_embeddings=True, rope=_LLAMA3),
    "tiny-linear": _tiny(rope={"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    # For every pruning method: enough layers for all cuts, heads wide enough for rotary embeddings of real models.
    "small-mha": Shape(_TINY_TOWER_5_LAYERS, Decoder(256, 8, 4, 4, 128, 96, 512), 94),
    "small-gqa": Shape(_TINY_TOWER_5_LAYERS, Decoder(256, 8, 4, 2, 128, 96, 512), 94),
    "tinyllama-4-layers": Shape(_TINY_TOWER, Decoder(2048, 4, 32, 4, 5632, 2048, 512), 2046),
    "tinyllama-1.1b": Shape(_CLIP_L_336, Decoder(2048, 22, 32, 4, 5632, 32064, 2048), 32000),
    "llava-1.5-7b-4-layers": Shape(_CLIP_L_336_4_LAYERS, Decoder(4096, 4, 32, 32, 11008, 32064, 4096), 32000),
    "llava-1.5-7b": Shape(_CLIP_L_336, Decoder(4096, 32, 32, 32, 11008, 32064, 4096), 32000),
    "llava-1.5-13b": Shape(_CLIP_L_336, Decoder(5120, 40, 40, 40, 13824, 32064, 4096), 32000),
}


def write(shape: str, out: Path, seed: int = 0, dtype: str = "fp32", **storage: Any) -> None:
    """Write a checkpoint of a key of ``SHAPES`` into an empty folder; ``storage`` as of ``write_weights``."""
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    write_tokenizer(out, model)
    write_weights(out, parameters(model), seed, dtype, **storage)


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    yield from tower_parameters(model.tower)
    yield from projector_parameters(model.tower.hidden_size, model.decoder.hidden_size)
    yield from decoder_parameters(model.decoder)


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    text = decoder_config(model.decoder)
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": model.image_token_id,
        "image_seq_length": (model.tower.image_size // model.tower.patch_size) ** 2,
        "pad_token_id": model.pad_token_id,
        "projector_hidden_act": "gelu",
        "text_config": {**text, "torch_dtype": dtype},
        "vision_config": {"model_type": "clip_vision_model", **asdict(model.tower)},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": model.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
    }


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults."""
    size = model.tower.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        **CLIP_PIXELS,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": model.tower.patch_size,
        "vision_feature_select_strategy": "default",
    }
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": model.pad_token_id}
    write_json(out / "preprocessor_config.json", preprocessor)
    write_json(out / "processor_config.json", processor)
    write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(out / "generation_config.json", generation)


def write_tokenizer(out: Path, model: Shape) -> None:
    """One id per printable ASCII character; the ids above are words that decode, but no text encodes to."""
    context = model.decoder.max_position_embeddings
    write_letters(out, {"image_token": "<image>"}, model.image_token_id, context, "LlavaProcessor")
