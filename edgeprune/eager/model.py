"""A checkpoint as Hugging Face runs it: the class that its config.json names, sdpa attention, no compilation.

The stages are those of the chain, so that each can be compared and timed; what happens inside them is entirely
Hugging Face's code. It knows no bundle.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image

from edgeprune.eager.processor import Part, Patches, open_processor, process

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PIXELS = ("pixel_values", "pixel_values_images", "pixel_values_videos")

Inputs = Mapping[str, torch.Tensor]
"""What Hugging Face's model takes, by the names of its forward pass."""


@contextmanager
def quiet() -> Iterator[None]:
    """Hushes transformers' loading bar, and what it says about itself that no user of edgeprune can act on."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def pixel_values(inputs: Inputs) -> torch.Tensor:
    """The pixels of prepared prompts, by whatever name their processor calls them; tiles of pictures may be padded."""
    # Video-LLaVA's pictures have a name of their own in some versions of Transformers.
    return next(inputs[name] for name in PIXELS if name in inputs)


@dataclass(frozen=True)
class Seen:
    """What the model makes of the pictures or the video of its prompts.

    Attributes:
        features: [C, N, Dv] as the projector takes them, the merged patches of a row side by side. Pictures that keep
            their resolution have rows of different number: all of them are one run here.
        projected: [C, N, D] as the projector leaves them.
        rows: [V, D] as they enter the decoder, packed by Hugging Face: all pictures of all prompts, in order.
        vision_s, project_s: seconds to the projector, and from there to the rows.
    """

    features: torch.Tensor
    projected: torch.Tensor
    rows: torch.Tensor
    vision_s: float
    project_s: float


class EagerModel:
    """A loaded checkpoint and its processor.

    Args:
        path: the checkpoint's folder.
        dtype: "fp32", "fp16" or "bf16".

    Raises:
        UnsupportedModel: it is of no family that is known here.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        import transformers

        with quiet():
            config: Any = transformers.AutoConfig.from_pretrained(path)
            self.processor: Any = open_processor(path, config.model_type)
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                path, config=config, dtype=DTYPES[dtype], attn_implementation="sdpa"
            )
        self.model: Any = model.eval()
        self.dtype = DTYPES[dtype]

    @property
    def projector(self) -> Any:
        """The module between encoder and decoder; Qwen2.5-VL's is the last one of its encoder."""
        whole = self.model.model
        return whole.visual.merger if self._windowed else whole.multi_modal_projector

    @property
    def _windowed(self) -> bool:
        return bool(self.model.config.model_type == "qwen2_5_vl")

    @property
    def placeholders(self) -> tuple[int, ...]:
        """The token ids that stand for visual rows."""
        config = self.model.config
        found = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
        return tuple(token for token in found if token is not None)

    def preprocess(self, images: Sequence[Image.Image], question: str) -> dict[str, torch.Tensor]:
        """Pictures (RGB) and one question about each: as many prompts, to what the model takes."""
        return self._process([(image, question) for image in images])

    def prompt(self, *parts: Part, patches: Patches | None = None) -> dict[str, torch.Tensor]:
        """One prompt of texts, pictures (RGB) and videos, in the order given; a video is its sampled frames.

        Qwen2.5-VL takes ``patches`` of its one video; how many frames stand among the parts is then all the same.
        """
        return self._process([parts], patches)

    @torch.inference_mode()
    def see(self, inputs: Inputs) -> Seen:
        """The visual rows of prepared prompts."""
        start = perf_counter()
        taken: list[torch.Tensor] = []
        between = 0.0

        def on_input(module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            nonlocal between
            between = perf_counter()
            taken.append(arguments[0])

        with ExitStack() as hooks:
            hooks.callback(self.projector.register_forward_pre_hook(on_input).remove)
            hooks.callback(self.projector.register_forward_hook(lambda *given: taken.append(given[2])).remove)
            found = self._features(inputs)
        rows = torch.cat(tuple(found)) if isinstance(found, tuple | list) else found.flatten(0, 1)
        end = perf_counter()
        features, projected = taken
        if self._windowed:
            features, projected = self.in_order(features, inputs)[None], rows[None]
        return Seen(features, projected, rows, between - start, end - between)

    def in_order(self, patches: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Rows [n, w], one for each patch as Qwen2.5-VL's encoder has them, window by window.

        Returns:
            [V, m * w], one for each visual token, line by line, those of its m patches side by side.
        """
        merge = self.model.config.vision_config.spatial_merge_size
        index, _ = self.windows(inputs)
        ordered: torch.Tensor = patches.unflatten(0, (-1, merge**2)).flatten(1)[index.argsort()]
        return ordered

    def windows(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Qwen2.5-VL's windows: the visual tokens [V] in their order, and in how many patches each ends, from 0."""
        from transformers.vision_utils import get_vision_window_index

        facts = self.model.config.vision_config
        merge, window, patch = facts.spatial_merge_size, facts.window_size, facts.patch_size
        order, ends = get_vision_window_index(
            self.grids(inputs), spatial_merge_size=merge, window_size=window, patch_size=patch
        )
        return order, ends

    def grids(self, inputs: Inputs) -> torch.Tensor:
        """Frame pairs, rows and columns of patches [pictures, 3] of Qwen2.5-VL's pictures or videos."""
        return inputs["image_grid_thw"] if "image_grid_thw" in inputs else inputs["video_grid_thw"]

    def vision(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the projector takes of pictures that are one run each: [C, 3, h, w] to [C, N, Dv]."""
        return self.see({"pixel_values": pixel_values}).features

    @torch.inference_mode()
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Rows [C, N, Dv] to [C, N, D]."""
        if self._windowed:  # it takes patches, and merges as many as lie side by side here
            patches = features.unflatten(-1, (-1, self.model.config.vision_config.hidden_size)).flatten(0, -2)
            merged: torch.Tensor = self.projector(patches)
            return merged.reshape(*features.shape[:-1], -1)
        projected: torch.Tensor = self.projector(features)
        return projected

    @torch.inference_mode()
    def embed(self, input_ids: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """Token embeddings [B, S, D] with the placeholders' rows replaced by ``visual``, of as many rows in all."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(input_ids)
        mask = self.visual(input_ids)[:, :, None].expand_as(embedded)
        return embedded.masked_scatter(mask, visual.to(embedded.dtype))

    def visual(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Which tokens [B, S] stand for visual rows: bool."""
        return torch.isin(input_ids, torch.tensor(self.placeholders, device=input_ids.device))

    def positions(self, inputs: Inputs) -> torch.Tensor | None:
        """Position ids of three axes [3, B, S]; None for a decoder that counts along the prompt."""
        if not self._windowed:
            return None
        known = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        facts = {name: inputs[name] for name in known if name in inputs}
        found: torch.Tensor = self.model.model.get_rope_index(inputs["input_ids"], **facts)[0]
        return found

    @torch.inference_mode()
    def prefill(self, embedded: torch.Tensor, positions: torch.Tensor | None = None) -> tuple[torch.Tensor, Any]:
        """The decoder on [B, S, D]: the last row's logits [B, vocab] and the cache; ``positions`` as above."""
        return self._decode({"inputs_embeds": embedded}, positions, None)

    @torch.inference_mode()
    def decode(
        self, tokens: torch.Tensor, cache: Any, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Any]:
        """One more token per row [B], at ``positions`` [3, B, 1] where the prompt had such: logits and the cache."""
        return self._decode({"input_ids": tokens[:, None]}, positions, cache)

    def _process(self, prompts: Sequence[Sequence[Part]], patches: Patches | None = None) -> dict[str, torch.Tensor]:
        with quiet():
            inputs = process(self.processor, prompts, patches)
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    def _features(self, inputs: Inputs) -> Any:
        """Hugging Face's own packing: [C, N, D], or a tensor [V, D] for each picture."""
        model = self.model.model
        video = "pixel_values_videos" in inputs
        extras = ("video_grid_thw",) if video else ("image_sizes", "batch_num_images", "image_grid_thw")
        given = {name: inputs[name] for name in extras if name in inputs}
        take = model.get_video_features if video else model.get_image_features
        return take(pixel_values(inputs), return_dict=True, **given).pooler_output

    def _decode(
        self, inputs: dict[str, torch.Tensor], positions: torch.Tensor | None, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        given = inputs if positions is None else {**inputs, "position_ids": positions}
        output = self.model.model.language_model(**given, past_key_values=cache, use_cache=True)
        logits: torch.Tensor = self.model.lm_head(output.last_hidden_state[:, -1:])
        return logits[:, 0].float(), output.past_key_values
