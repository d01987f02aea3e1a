"""Random checkpoints of LLaVA-NeXT, in the layout of llava-hf's v1.6 on the Hugging Face hub.

Five grids of tiles, two rows or columns and three, as the real ones have; a Vicuna decoder, or Mistral's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.random_families import llava
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

MISTRAL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""In the form of llava-hf/llava-v1.6-mistral-7b-hf: ``[INST] <image>\\n{question} [/INST]``."""

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Rows and columns of tiles, in the hub's order."""


@dataclass(frozen=True)
class Shape:
    """A whole model; the pad token's id is the one behind the image token's."""

    tower: Tower
    decoder: Decoder
    image_token_id: int

    @property
    def pinpoints(self) -> list[list[int]]:
        """Resolutions of every grid of tiles, height and width."""
        return [[rows * self.tower.image_size, columns * self.tower.image_size] for rows, columns in GRIDS]


_TINY = Tower(32, 2, 2, 64, image_size=112, patch_size=14)
_SMALL = Tower(32, 5, 2, 64, image_size=112, patch_size=14)
_CLIP_L_336 = Tower(1024, 24, 16, 4096, image_size=336, patch_size=14)
_MISTRAL: dict[str, Any] = {"model_type": "mistral", "rope": {"rope_theta": 1e6}}

SHAPES = {
    "tiny-next": Shape(_TINY, Decoder(32, 4, 4, 2, 64, 96, 2048), 94),
    "tiny-next-mistral": Shape(_TINY, Decoder(32, 4, 4, 2, 64, 96, 2048, **_MISTRAL), 94),
    "small-next": Shape(_SMALL, Decoder(256, 8, 4, 2, 128, 96, 1024), 94),
    "tinyllama-1.1b-next": Shape(_CLIP_L_336, Decoder(2048, 22, 32, 4, 5632, 32064, 4096), 32000),
    "llava-next-7b": Shape(_CLIP_L_336, Decoder(4096, 32, 32, 32, 11008, 32064, 4096), 32000),
    "llava-next-mistral-7b": Shape(_CLIP_L_336, Decoder(4096, 32, 32, 8, 14336, 32064, 32768, **_MISTRAL), 32000),
}


def write(shape: str, out: Path, seed: int = 0, dtype: str = "fp32", **storage: Any) -> None:
    """Write a checkpoint of a key of ``SHAPES`` into an empty folder; ``storage`` as of ``write_weights``."""
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    context = model.decoder.max_position_embeddings
    write_letters(out, {"image_token": "<image>"}, model.image_token_id, context, "LlavaNextProcessor")
    write_weights(out, parameters(model), seed, dtype, **storage)


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    yield Parameter("image_newline", (model.decoder.hidden_size,))
    yield from tower_parameters(model.tower)
    yield from projector_parameters(model.tower.hidden_size, model.decoder.hidden_size)
    yield from decoder_parameters(model.decoder)


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    return {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_grid_pinpoints": model.pinpoints,
        "image_token_index": model.image_token_id,
        "image_seq_length": (model.tower.image_size // model.tower.patch_size) ** 2,
        "pad_token_id": model.image_token_id + 1,
        "projector_hidden_act": "gelu",
        "text_config": {**decoder_config(model.decoder), "torch_dtype": dtype},
        "vision_config": {"model_type": "clip_vision_model", **asdict(model.tower)},
        "use_image_newline_parameter": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": model.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
    }


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults."""
    size = model.tower.image_size
    preprocessor = {
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        "aspect_ratio_setting": "anyres",
        **CLIP_PIXELS,
        "do_pad": True,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_grid_pinpoints": model.pinpoints,
    }
    processor = {
        "processor_class": "LlavaNextProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": model.tower.patch_size,
        "vision_feature_select_strategy": "default",
    }
    template = MISTRAL_TEMPLATE if model.decoder.model_type == "mistral" else llava.CHAT_TEMPLATE
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": model.image_token_id + 1}
    write_json(out / "preprocessor_config.json", preprocessor)
    write_json(out / "processor_config.json", processor)
    write_json(out / "chat_template.json", {"chat_template": template})
    write_json(out / "generation_config.json", generation)
