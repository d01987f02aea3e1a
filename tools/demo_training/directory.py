"""Write the trained model as a Hugging Face directory: weights in fp16, tokenizer, processor, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.demo_training.network import CONTEXT, IMAGE, PATCH
from tools.demo_training.pictures import MEAN, STD
from tools.demo_training.words import BOS, CHAT_TEMPLATE, EOS, PAD, tokenizer


def write_directory(model: Any, out: Path) -> None:
    """Write everything ``from_pretrained`` needs; ``model`` is changed to fp16 in place."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer().save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "LlavaProcessor",
            **tokens,
            "extra_special_tokens": {"image_token": "<image>"},
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
        },
    )
    _json(out / "special_tokens_map.json", {**tokens, "image_token": "<image>"})
    _json(
        out / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": IMAGE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": IMAGE, "width": IMAGE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        },
    )
    _json(
        out / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
        },
    )
    _json(out / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})


def _json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
