"""What the device needs to know besides weights: the tokenizer, how prompts and pictures are prepared.

Reads the processor files through transformers (locally, no code of the checkpoint) and writes them down as
the bundle's own values. Applies nothing: the runtime does, without transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.checkpoint.config import LlavaConfig
from edgeprune.checkpoint.source import Source
from edgeprune.errors import BundleError, CheckpointError, MissingExtra, UnsupportedModel

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""``USER: <image>\\n{question} ASSISTANT:``, llava-hf's own, for a LLaVA-1.5 that brings no chat template."""

_IMAGE_PROCESSORS = ("CLIPImageProcessor", "LlavaImageProcessor")


def tokenizer_files(source: Source) -> dict[str, bytes]:
    """The tokenizer as files of a bundle: ``{"tokenizer.json": ...}``.

    As the checkpoint has it, byte by byte; where it has older files only, converted by transformers.

    Raises:
        CheckpointError: no tokenizer, or one that has no fast form.
    """
    path = source.path / "tokenizer.json"
    if path.is_file():
        return {path.name: path.read_bytes()}
    tokenizer = _load(source, "AutoTokenizer", "tokenizer")
    backend = getattr(tokenizer, "backend_tokenizer", None)  # slow tokenizers have none
    if backend is None:
        raise CheckpointError(
            f"{source.path}: {type(tokenizer).__name__} has no tokenizer.json form; add one to the checkpoint"
        )
    return {path.name: backend.to_str().encode()}


def text_token_ids(source: Source) -> tuple[int, int, int]:
    """The ids that CLIP's tokenizer puts before a text, after it, and then up to a fixed length.

    Raises:
        CheckpointError: no tokenizer, or one without such tokens.
    """
    files = ("tokenizer.json", "vocab.json")  # without either, transformers would make up an empty tokenizer
    if not any((source.path / name).is_file() for name in files):
        raise CheckpointError(
            f"{source.path} holds no tokenizer: expected tokenizer.json, or vocab.json and merges.txt"
        )
    tokenizer = _load(source, "AutoTokenizer", "tokenizer")
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, token in ids.items():
        if not isinstance(token, int):
            raise CheckpointError(
                f"{source.path}: the tokenizer has no {name}_token, which CLIP's texts are written with"
            )
    return ids["bos"], ids["eos"], ids["pad"]


def prompt_facts(source: Source, config: LlavaConfig) -> PromptFacts:
    """How a prompt is written for this model.

    Raises:
        CheckpointError: processor files are missing or contradict config.json.
    """
    processor = _load(source, "AutoProcessor", "processor")
    tokenizer = processor.tokenizer
    image_token = str(processor.image_token)
    image_token_id = tokenizer.convert_tokens_to_ids(image_token)
    if image_token_id != config.image_token_id:
        raise CheckpointError(
            f"{source.path}: the tokenizer gives {image_token!r} the id {image_token_id}, "
            f"config.json the id {config.image_token_id}"
        )
    specials = [*tokenizer.all_special_tokens, image_token]
    specials += [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    try:
        return PromptFacts(
            template=_template(source, config, processor, image_token),
            image_token=image_token,
            image_token_id=image_token_id,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            eos_token_ids=_eos_ids(source, tokenizer),
            context=config.decoder.context,
            special_tokens=tuple(dict.fromkeys(map(str, specials))),
        )
    except BundleError as error:
        raise CheckpointError(f"{source.path}: {error}") from error


def image_processing(source: Source) -> ImageProcessing:
    """How a picture is prepared for this model.

    Raises:
        UnsupportedModel: steps other than resize, centre crop, rescale and normalise.
        CheckpointError: processor files are missing or hold values out of range.
    """
    # Not through AutoImageProcessor, which older transformers 5 do not import without torchvision.
    values: Mapping[str, Any] = _load(source, "AutoProcessor", "processor").image_processor.to_dict()
    where = f"{source.path / 'preprocessor_config.json'}"
    kind = str(values.get("image_processor_type"))
    if not kind.startswith(_IMAGE_PROCESSORS):
        raise UnsupportedModel(
            f"{where}: image_processor_type = {kind!r} is not supported; expected {' or '.join(_IMAGE_PROCESSORS)}"
        )
    if values.get("do_pad"):
        raise UnsupportedModel(f"{where}: do_pad = true is not supported; expected false")
    shortest, exact = _resize(where, values)
    normalize = bool(values.get("do_normalize"))
    try:
        return ImageProcessing(
            kind="fixed",
            resize_shortest=shortest,
            resize_exact=exact,
            crop=_pair(values["crop_size"]) if values.get("do_center_crop") else None,
            resample=int(values["resample"]),
            rescale=float(values["rescale_factor"]) if values.get("do_rescale") else 1.0,
            mean=_triple(values["image_mean"]) if normalize else (0.0, 0.0, 0.0),
            std=_triple(values["image_std"]) if normalize else (1.0, 1.0, 1.0),
        )
    except (BundleError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _template(source: Source, config: LlavaConfig, processor: Any, image_token: str) -> str:
    """The first template that writes the image token: the processor's, the tokenizer's, LLaVA-1.5's."""
    for holder in (processor, processor.tokenizer):
        template = holder.chat_template
        if isinstance(template, dict):  # several, by name
            template = template.get("default")
        if template and image_token in template:
            return str(template)
    if config.decoder.qkv_bias:  # a Qwen2 decoder: not LLaVA-1.5, and its prompt would be a guess
        raise CheckpointError(f"{source.path} has no chat template with {image_token!r}; add chat_template.jinja")
    return DEFAULT_TEMPLATE.replace("<image>", image_token)


def _eos_ids(source: Source, tokenizer: Any) -> tuple[int, ...]:
    path = source.path / "generation_config.json"
    ends: Any = None
    if path.is_file():
        try:
            ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a JSON object: {error}") from error
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise CheckpointError(f"{source.path}: neither generation_config.json nor the tokenizer has eos_token_id")
    return tuple(ends) if isinstance(ends, list) else (ends,)


def _resize(where: str, values: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    """(length of the shorter edge, None) or (None, (height, width)); (None, None) for no resize."""
    if not values.get("do_resize"):
        return None, None
    size = {key: value for key, value in dict(values["size"]).items() if value is not None}
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"], None
    if set(size) == {"height", "width"}:
        return None, (size["height"], size["width"])
    raise UnsupportedModel(f"{where}: size = {size} is not supported; expected shortest_edge or height, width")


def _pair(size: Mapping[str, int]) -> tuple[int, int]:
    return size["height"], size["width"]


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _load(source: Source, loader: str, what: str) -> Any:
    """``transformers.<loader>.from_pretrained`` on local files."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "export", "reading a checkpoint") from error
    try:
        with _quiet():
            load: Callable[..., Any] = getattr(transformers, loader).from_pretrained
            return load(_absolute(source.path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file surfaces as whatever its parser raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{source.path}: no usable {what}: {reason}") from error


def _absolute(path: Path) -> str:
    """Never ``org/name``, which transformers would look up on the hub where a file is missing."""
    return str(path.resolve())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hushes what transformers logs, not what it warns, about classes of which only the values are read."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
