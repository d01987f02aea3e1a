"""Which family a config.json is of, by the class that it names; near neighbours are told apart by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import UnsupportedModel

FAMILIES = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "VideoLlavaForConditionalGeneration": "video_llava",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "InternVLForConditionalGeneration": "internvl",
}
"""Hugging Face's class: the family that reads it. A family's name is the ``model_type`` of such a config.json, too."""

_CONVERTED = {
    "LlavaLlamaForCausalLM": "its converted form, such as llava-hf/llava-1.5-7b-hf or llava-hf/llava-v1.6-vicuna-7b-hf",
    "LlavaMistralForCausalLM": "its converted form, such as llava-hf/llava-v1.6-mistral-7b-hf",
    "LlavaQwenForCausalLM": "its converted form, such as llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "InternVLChatModel": "its converted form, whose name ends in -hf, such as OpenGVLab/InternVL3-1B-hf",
}
"""The same models as their authors' own code saves them: what to take instead."""

_NEIGHBOURS = {
    "LlavaNextVideoForConditionalGeneration": "llava_next",
    "VipLlavaForConditionalGeneration": "llava",
    "Qwen2VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen2_5_vl",
    "Qwen2_5OmniForConditionalGeneration": "qwen2_5_vl",
    "MiniCPMV": "llava_onevision",
    "Idefics3ForConditionalGeneration": "llava_onevision",
    "SmolVLMForConditionalGeneration": "llava_onevision",
    "PaliGemmaForConditionalGeneration": "llava",
    "Gemma3ForConditionalGeneration": "llava",
    "Mistral3ForConditionalGeneration": "llava",
}
"""Models that resemble one of the families, but compute something else: the one that they resemble."""

_TYPES = {
    **{family: architecture for architecture, family in FAMILIES.items()},
    "internvl_chat": "InternVLChatModel",
    "llava_llama": "LlavaLlamaForCausalLM",
    "llava_mistral": "LlavaMistralForCausalLM",
    "llava_qwen": "LlavaQwenForCausalLM",
    "llava_next_video": "LlavaNextVideoForConditionalGeneration",
    "vipllava": "VipLlavaForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "qwen2_5_omni": "Qwen2_5OmniForConditionalGeneration",
    "minicpmv": "MiniCPMV",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "paligemma": "PaliGemmaForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
}
"""``model_type``: the class, for a config.json that names none."""


def supported_class(path: Path, raw: Mapping[str, Any]) -> str:
    """Hugging Face's class of a checkpoint, which is one of ``FAMILIES``.

    Args:
        path: of its config.json, for messages.
        raw: that file.

    Raises:
        UnsupportedModel: no family reads such a model; the message names it, what it is near to, and what is read.
    """
    named = raw.get("architectures")
    found = named[0] if isinstance(named, list) and named else named
    if found:
        declared, said = str(found), f"architectures = {str(found)!r}"
    elif raw.get("model_type"):
        kind = str(raw["model_type"])
        declared, said = _TYPES.get(kind, kind), f"model_type = {kind!r}"
    else:
        declared, said = "", "without architectures and model_type"
    if declared in FAMILIES:
        return declared
    raise UnsupportedModel(f"{path}: {said} is not supported{_instead(declared)}; supported: {', '.join(FAMILIES)}")


def _instead(architecture: str) -> str:
    if architecture in _CONVERTED:
        return f"; use {_CONVERTED[architecture]}"
    if architecture in _NEIGHBOURS:
        return f": it resembles {_NEIGHBOURS[architecture]}, but is built otherwise"
    return ""
