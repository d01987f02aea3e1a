"""A checkpoint as Hugging Face runs it: `LlavaForConditionalGeneration` with sdpa attention, no compilation.

The stages are those of the chain, so that each can be compared and timed; what happens inside them is entirely
Hugging Face's code. It knows no bundle.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@contextmanager
def quiet() -> Iterator[None]:
    """Hushes transformers' loading bar, and warnings about itself that no user of edgeprune can act on."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


class EagerModel:
    """A loaded checkpoint and its processor.

    Args:
        path: the checkpoint's folder.
        dtype: "fp32", "fp16" or "bf16".
    """

    def __init__(self, path: Path, dtype: str) -> None:
        import transformers

        with quiet():
            self.processor: Any = transformers.AutoProcessor.from_pretrained(path)
            model = transformers.LlavaForConditionalGeneration.from_pretrained(
                path, dtype=DTYPES[dtype], attn_implementation="sdpa"
            )
        self.model: Any = model.eval()
        self.dtype = DTYPES[dtype]

    def preprocess(self, images: Sequence[Image.Image], question: str) -> dict[str, torch.Tensor]:
        """Pictures (RGB) and one question to ``pixel_values`` [B, 3, h, w] and ``input_ids`` [B, S]."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        with quiet():
            batch = self.processor(text=[text] * len(images), images=list(images), return_tensors="pt")
        return {"pixel_values": batch["pixel_values"].to(self.dtype), "input_ids": batch["input_ids"]}

    @torch.inference_mode()
    def vision(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The selected layer's patch rows [B, N, Dv]."""
        layer = self.model.config.vision_feature_layer
        output = self.model.model.vision_tower(pixel_values, output_hidden_states=True)
        selected: torch.Tensor = output.hidden_states[layer][:, 1:]
        return selected

    @torch.inference_mode()
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Rows [B, N, Dv] to [B, N, D]."""
        projected: torch.Tensor = self.model.model.multi_modal_projector(features)
        return projected

    @torch.inference_mode()
    def embed(self, input_ids: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """Token embeddings [B, S, D] with the image placeholders' rows replaced."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(input_ids)
        mask = (input_ids == self.model.config.image_token_id)[:, :, None].expand_as(embedded)
        return embedded.masked_scatter(mask, visual.to(embedded.dtype))

    @torch.inference_mode()
    def prefill(self, embedded: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The decoder on [B, S, D]: the last row's logits [B, vocab] and the cache."""
        return self._decode({"inputs_embeds": embedded}, None)

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """One more token per row [B]: logits [B, vocab] and the cache."""
        return self._decode({"input_ids": tokens[:, None]}, cache)

    def _decode(self, inputs: dict[str, torch.Tensor], cache: Any) -> tuple[torch.Tensor, Any]:
        output = self.model.model.language_model(**inputs, past_key_values=cache, use_cache=True)
        logits: torch.Tensor = self.model.lm_head(output.last_hidden_state[:, -1:])
        return logits[:, 0].float(), output.past_key_values
