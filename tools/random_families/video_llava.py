"""Random checkpoints of Video-LLaVA, in the layout of LanguageBind's on the Hugging Face hub.

Two towers, one for pictures and one for frames; a frame enters the decoder with its class row.
"""

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

FRAMES = 8

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>\n' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""In the form of LanguageBind/Video-LLaVA-7B-hf."""


@dataclass(frozen=True)
class Shape:
    """A whole model; the ids of the video token and the pad token are the two behind the image token's."""

    tower: Tower
    decoder: Decoder
    image_token_id: int

    @property
    def patches(self) -> int:
        """Of a picture or a frame."""
        return (self.tower.image_size // self.tower.patch_size) ** 2


_TINY = Tower(32, 2, 2, 64, image_size=112, patch_size=14)
_SMALL = Tower(32, 5, 2, 64, image_size=112, patch_size=14)
_CLIP_L_224 = Tower(1024, 24, 16, 4096, image_size=224, patch_size=14)

SHAPES = {
    "tiny-video": Shape(_TINY, Decoder(32, 4, 4, 2, 64, 97, 1024), 94),
    "small-video": Shape(_SMALL, Decoder(256, 8, 4, 2, 128, 97, 1024), 94),
    "tinyllama-1.1b-video": Shape(_CLIP_L_224, Decoder(2048, 22, 32, 4, 5632, 32064, 4096), 32000),
    "video-llava-7b": Shape(_CLIP_L_224, Decoder(4096, 32, 32, 32, 11008, 32064, 4096), 32000),
}


def write(shape: str, out: Path, seed: int = 0, dtype: str = "fp32", **storage: Any) -> None:
    """Write a checkpoint of a key of ``SHAPES`` into an empty folder; ``storage`` as of ``write_weights``."""
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    tokens = {"image_token": "<image>", "video_token": "<video>"}
    context = model.decoder.max_position_embeddings
    write_letters(out, tokens, model.image_token_id, context, "VideoLlavaProcessor")
    write_weights(out, parameters(model), seed, dtype, **storage)


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    for tower in ("image_tower", "video_tower"):
        yield from tower_parameters(model.tower, f"{tower}.vision_model")
    yield from projector_parameters(model.tower.hidden_size, model.decoder.hidden_size)
    yield from decoder_parameters(model.decoder)


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    return {
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "model_type": "video_llava",
        "image_seq_length": model.patches,
        "image_token_index": model.image_token_id,
        "pad_token_id": model.image_token_id + 2,
        "projector_hidden_act": "gelu",
        "text_config": {**decoder_config(model.decoder), "torch_dtype": dtype},
        "video_seq_length": FRAMES * (model.patches + 1),
        "video_token_index": model.image_token_id + 1,
        "vision_config": {"model_type": "clip_vision_model", **asdict(model.tower)},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": model.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
    }


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults.

    The image processor's settings serve both media, as on the hub.
    """
    size = model.tower.image_size
    preprocessor = {
        "image_processor_type": "VideoLlavaImageProcessor",
        "processor_class": "VideoLlavaProcessor",
        **CLIP_PIXELS,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
    }
    processor = {
        "processor_class": "VideoLlavaProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_additional_image_tokens": 1,
        "patch_size": model.tower.patch_size,
        "vision_feature_select_strategy": "default",
    }
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": model.image_token_id + 2}
    write_json(out / "preprocessor_config.json", preprocessor)
    write_json(out / "processor_config.json", processor)
    write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(out / "generation_config.json", generation)
