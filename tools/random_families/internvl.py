"""Random checkpoints of InternVL, in the layout of OpenGVLab's ``-hf`` ones on the Hugging Face hub.

Both towers that there are: InternViT-300M's (layer norms, biases) under a Qwen2 decoder with tied embeddings, and
InternViT-6B's (root-mean-square norms, normalised queries and keys, no biases) under a Llama decoder with a head.
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
    layer_norm,
    linear,
    projector_parameters,
    write_json,
    write_weights,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
"""The template of OpenGVLab/InternVL3-1B-hf."""


@dataclass(frozen=True)
class Shape:
    """A whole model.

    Attributes:
        tower: sizes in pixels; all of its layers run.
        decoder: of type qwen2 or llama.
        image_token_id: of ``<IMG_CONTEXT>``; the ids of ``<img>`` and ``</img>`` are the two before it.
        large: whether the tower is built as InternViT-6B.
        says_tied: what config.json says of the embeddings; None for nothing, which transformers reads as tied.
    """

    tower: Tower
    decoder: Decoder
    image_token_id: int
    large: bool = False
    says_tied: bool | None = None

    @property
    def tokens(self) -> int:
        """Visual tokens of a tile, four patches each."""
        return (self.tower.image_size // self.tower.patch_size // 2) ** 2


_TINY = Tower(32, 3, 2, 64, image_size=56, patch_size=7)
_SMALL = Tower(32, 5, 2, 64, image_size=56, patch_size=7)
_300M = Tower(1024, 24, 16, 4096, image_size=448, patch_size=14)

SHAPES = {
    "tiny-internvl": Shape(_TINY, Decoder(32, 4, 4, 2, 64, 160, 1024, "qwen2", tie_word_embeddings=True), 152),
    # The head is in the file though config.json does not say that it is one of its own.
    "tiny-internvl-large": Shape(_TINY, Decoder(32, 4, 4, 4, 64, 160, 1024), 152, large=True),
    "small-internvl": Shape(_SMALL, Decoder(256, 8, 4, 2, 128, 160, 1024, "qwen2"), 152, says_tied=False),
    "internvl3-1b": Shape(
        _300M, Decoder(896, 24, 14, 2, 4864, 151674, 32768, "qwen2", tie_word_embeddings=True), 151667
    ),
    "internvl3-2b": Shape(
        _300M, Decoder(1536, 28, 12, 2, 8960, 151674, 32768, "qwen2", tie_word_embeddings=True), 151667
    ),
}


def write(shape: str, out: Path, seed: int = 0, dtype: str = "fp32", **storage: Any) -> None:
    """Write a checkpoint of a key of ``SHAPES`` into an empty folder; ``storage`` as of ``write_weights``."""
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    first = model.image_token_id - 2
    tokens = dict(enumerate(("<img>", "</img>", "<IMG_CONTEXT>", "<video>"), start=first))
    write_chat_tokenizer(out, tokens, names, model.decoder.max_position_embeddings, "InternVLProcessor")
    write_weights(out, parameters(model), seed, dtype, **storage)


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    wide, narrow = model.decoder.hidden_size, 4 * model.tower.hidden_size
    yield from _tower_parameters(model.tower, model.large)
    yield from layer_norm("multi_modal_projector.layer_norm", narrow)
    yield from projector_parameters(narrow, wide)
    yield from decoder_parameters(model.decoder)


def _tower_parameters(tower: Tower, large: bool) -> Iterator[Parameter]:
    top, width, patch = "vision_tower", tower.hidden_size, tower.patch_size
    patches = (tower.image_size // patch) ** 2
    yield Parameter(f"{top}.embeddings.cls_token", (1, 1, width))
    yield Parameter(f"{top}.embeddings.position_embeddings", (1, patches + 1, width))
    yield Parameter(f"{top}.embeddings.patch_embeddings.projection.weight", (width, 3, patch, patch))
    yield Parameter(f"{top}.embeddings.patch_embeddings.projection.bias", (width,), "small")
    for index in range(tower.num_hidden_layers):
        layer = f"{top}.encoder.layer.{index}"
        yield Parameter(f"{layer}.lambda_1", (width,))
        yield Parameter(f"{layer}.lambda_2", (width,))
        for name in ("layernorm_before", "layernorm_after"):
            yield from _norm(f"{layer}.{name}", width, large)
        for part in ("q_proj", "k_proj", "v_proj"):
            yield from linear(f"{layer}.attention.{part}", width, width, bias=not large)
        yield from linear(f"{layer}.attention.projection_layer", width, width, bias=True)
        if large:
            yield Parameter(f"{layer}.attention.q_norm.weight", (width,), "one")
            yield Parameter(f"{layer}.attention.k_norm.weight", (width,), "one")
        yield from linear(f"{layer}.mlp.fc1", tower.intermediate_size, width, bias=True)
        yield from linear(f"{layer}.mlp.fc2", width, tower.intermediate_size, bias=True)


def _norm(name: str, width: int, large: bool) -> Iterator[Parameter]:
    if large:
        yield Parameter(f"{name}.weight", (width,), "one")
    else:
        yield from layer_norm(name, width)


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    tower = asdict(model.tower)
    sides = {key: [tower[key]] * 2 for key in ("image_size", "patch_size")}
    vision = {
        "model_type": "internvl_vision",
        **tower,
        **sides,
        "attention_bias": not model.large,
        "use_qk_norm": model.large,
        "norm_type": "rms_norm" if model.large else "layer_norm",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
    }
    text = decoder_config(model.decoder) | {"bos_token_id": 0, "eos_token_id": 2}
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_token_id": model.image_token_id,
        "image_seq_length": model.tokens,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "text_config": {**text, "torch_dtype": dtype},
        "vision_config": {**vision, "torch_dtype": dtype},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "torch_dtype": dtype,
    }
    return config if model.says_tied is None else {**config, "tie_word_embeddings": model.says_tied}


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults."""
    size = {"height": model.tower.image_size, "width": model.tower.image_size}
    image = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": False,  # the processor says otherwise whatever stands here
        "min_patches": 1,
        "max_patches": 12,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    video = {
        "video_processor_type": "InternVLVideoProcessor",
        "processor_class": "InternVLProcessor",
        "size": size,
        "image_mean": image["image_mean"],
        "image_std": image["image_std"],
    }
    write_json(out / "preprocessor_config.json", image)
    write_json(out / "video_preprocessor_config.json", video)
    write_json(
        out / "processor_config.json", {"processor_class": "InternVLProcessor", "image_seq_length": model.tokens}
    )
    write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(out / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
