"""Random checkpoints of LLaVA-OneVision, in the layout of llava-hf's on the Hugging Face hub.

A SigLIP tower whose pixels do not divide into patches (what is left over is left out) and whose grid is odd, so that
pooling rounds up; 36 grids of tiles, of which the large ones are shrunk to nine tiles' worth of rows; a Qwen2 decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.random_families.chat_tokenizer import write_chat_tokenizer
from tools.random_families.pieces import (
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
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template of llava-hf/llava-onevision-qwen2-0.5b-ov-hf, its ``generation`` tag included."""


@dataclass(frozen=True)
class Shape:
    """A whole model.

    Attributes:
        tower: sizes in pixels; all of its layers run.
        decoder: of type qwen2.
        image_token_id: the video token's id is the next.
        grids: most rows and columns of tiles.
        frames: how many frames of a video the video processor takes.
    """

    tower: Tower
    decoder: Decoder
    image_token_id: int
    grids: int = 6
    frames: int = 32

    @property
    def side(self) -> int:
        """Patches on a side."""
        return self.tower.image_size // self.tower.patch_size

    @property
    def pinpoints(self) -> list[list[int]]:
        """Resolutions of every grid of tiles, height and width, in the hub's order."""
        sides = [self.tower.image_size * count for count in range(1, self.grids + 1)]
        return [[height, width] for height in sides for width in sides]


_TINY = Tower(32, 3, 2, 64, image_size=100, patch_size=14)  # 7 x 7 patches of 98 pixels, 2 left over
_SMALL = Tower(32, 5, 2, 64, image_size=100, patch_size=14)
_SO400M = Tower(1152, 26, 16, 4304, image_size=384, patch_size=14)

SHAPES = {
    "tiny-onevision": Shape(
        _TINY, Decoder(32, 4, 4, 2, 64, 160, 2048, "qwen2", tie_word_embeddings=True), 150, frames=4
    ),
    "small-onevision": Shape(_SMALL, Decoder(256, 8, 4, 2, 128, 160, 2048, "qwen2"), 150, frames=4),
    "onevision-0.5b": Shape(
        _SO400M, Decoder(896, 24, 14, 2, 4864, 152000, 32768, "qwen2", tie_word_embeddings=True), 151646
    ),
    "onevision-7b": Shape(_SO400M, Decoder(3584, 28, 28, 4, 18944, 152128, 32768, "qwen2"), 151646),
}


def write(shape: str, out: Path, seed: int = 0, dtype: str = "fp32", **storage: Any) -> None:
    """Write a checkpoint of a key of ``SHAPES`` into an empty folder; ``storage`` as of ``write_weights``."""
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    names = {"image_token": "<image>", "video_token": "<video>"}
    tokens = {model.image_token_id: "<image>", model.image_token_id + 1: "<video>"}
    write_chat_tokenizer(out, tokens, names, model.decoder.max_position_embeddings, "LlavaOnevisionProcessor")
    write_weights(out, parameters(model), seed, dtype, **storage)


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    wide, narrow = model.decoder.hidden_size, model.tower.hidden_size
    yield Parameter("image_newline", (wide,))
    yield from _tower_parameters(model.tower)
    yield from projector_parameters(narrow, wide)
    yield from decoder_parameters(model.decoder)


def _tower_parameters(tower: Tower) -> Iterator[Parameter]:
    top, width, patch = "vision_tower.vision_model", tower.hidden_size, tower.patch_size
    patches = (tower.image_size // patch) ** 2
    yield Parameter(f"{top}.embeddings.patch_embedding.weight", (width, 3, patch, patch))
    yield Parameter(f"{top}.embeddings.patch_embedding.bias", (width,), "small")
    yield Parameter(f"{top}.embeddings.position_embedding.weight", (patches, width), "small")
    for parameter in tower_parameters(tower):  # the layers are CLIP's
        if "embeddings" not in parameter.name and "pre_layrnorm" not in parameter.name:
            yield parameter


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    text = decoder_config(model.decoder) | {"bos_token_id": 0, "eos_token_id": 2}
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "image_token_index": model.image_token_id,
        "video_token_index": model.image_token_id + 1,
        "image_grid_pinpoints": model.pinpoints,
        "projector_hidden_act": "gelu",
        "text_config": {**text, "torch_dtype": dtype},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **asdict(model.tower)},
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": model.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
    }


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults."""
    size = model.tower.image_size
    pixels = {
        "processor_class": "LlavaOnevisionProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    image = {
        **pixels,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "do_pad": True,
        "image_grid_pinpoints": model.pinpoints,
    }
    video = {**pixels, "video_processor_type": "LlavaOnevisionVideoProcessor", "num_frames": model.frames}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": model.side**2,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_select_strategy": "full",
    }
    write_json(out / "preprocessor_config.json", image)
    write_json(out / "video_preprocessor_config.json", video)
    write_json(out / "processor_config.json", processor)
    write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(out / "generation_config.json", {"eos_token_id": [2, 0], "pad_token_id": 0})
