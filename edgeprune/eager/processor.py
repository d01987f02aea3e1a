"""Hugging Face's processor of a checkpoint, with Pillow alone: text and placeholders are entirely its own code.

Some families' processors insist on a video processor, and those insist on torchvision; a stand-in takes its place
that prepares every frame with the family's Pillow image processor, or is handed what a caller prepared (Qwen2.5-VL,
whose videos are cut into patches of two frames each). Which frames are taken is the caller's business.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from edgeprune.errors import UnsupportedModel

Part = str | Image.Image | Sequence[Image.Image]
"""Of a prompt: text, a picture, or the frames of a video."""


@dataclass(frozen=True, eq=False)
class Patches:
    """A video as its encoder takes it.

    Attributes:
        values: [n, v] fp32, of every patch, those of a visual token one after another.
        grid: frame pairs, rows and columns of patches.
        seconds: from one frame pair to the next.
    """

    values: torch.Tensor
    grid: tuple[int, int, int]
    seconds: float


_CLASSES = {
    "llava": "LlavaProcessor",
    "llava_next": "LlavaNextProcessor",
    "video_llava": "VideoLlavaProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
    "internvl": "InternVLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
}
_FRAMES = {"llava_onevision": "SiglipImageProcessorPil"}
"""What prepares one frame where a video's are prepared otherwise than a picture."""


def open_processor(path: Path, model_type: str) -> Any:
    """The processor of a checkpoint.

    Args:
        path: the checkpoint's folder.
        model_type: of its config.json.

    Raises:
        UnsupportedModel: there is no such family here.
    """
    import transformers

    if model_type not in _CLASSES:
        raise UnsupportedModel(f"{path}: model_type {model_type!r}; expected one of {', '.join(_CLASSES)}")
    theirs: Any = getattr(transformers, _CLASSES[model_type])

    class Pillow(theirs):  # type: ignore[misc]
        """Takes the stand-in for a video processor."""

        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
            """See above."""

    settings, _ = theirs.get_processor_dict(path)
    pictures = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    made = {
        "image_processor": pictures,
        "video_processor": _Frames(_of_frames(path, model_type, pictures)),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(path),
    }
    taken = inspect.signature(theirs.__init__).parameters  # the file may say more, as other versions wrote it
    return Pillow(**{name: value for name, value in {**settings, **made}.items() if name in taken})


def process(
    processor: Any, prompts: Sequence[Sequence[Part]], patches: Patches | None = None
) -> dict[str, torch.Tensor]:
    """Prompts as a user's turn of a chat, with the parts in the order given, to the tensors that the model takes.

    Args:
        processor: of ``open_processor``.
        prompts: parts of each.
        patches: of the one video there is, where its processor takes patches.

    Raises:
        ValueError: of Transformers: the template writes another number of placeholders.
    """
    texts = [_text(processor, parts) for parts in prompts]
    # A list for each prompt, as apply_chat_template hands them over: some processors treat several pictures otherwise.
    pictures = [[part for part in parts if isinstance(part, Image.Image)] for parts in prompts]
    videos = [
        np.stack([np.asarray(frame) for frame in part])
        for parts in prompts
        for part in parts
        if not isinstance(part, str | Image.Image)
    ]
    visual: dict[str, Any] = {"images": pictures} if any(pictures) else {}
    if videos:
        visual["videos"] = videos
        processor.video_processor.patches = patches
    return dict(processor(text=texts, return_tensors="pt", **visual))


def _text(processor: Any, parts: Sequence[Part]) -> str:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image" if isinstance(part, Image.Image) else "video"}
        for part in parts
    ]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


def _of_frames(path: Path, model_type: str, pictures: Any) -> Any:
    """What prepares one frame of a video: the settings are the videos', where they have their own."""
    import transformers

    name = "video_preprocessor_config.json"
    if not (path / name).is_file():
        return pictures
    theirs: Any = getattr(transformers, _FRAMES[model_type]) if model_type in _FRAMES else type(pictures)
    return theirs.from_dict(json.loads((path / name).read_text(encoding="utf-8")))


class _Frames:
    """A video processor for frames that are sampled already.

    Attributes:
        patches: handed in for the next video.
        merge_size, temporal_patch_size: what processors ask for whose videos are patches.
    """

    model_input_names = ("pixel_values_videos",)

    def __init__(self, pictures: Any) -> None:
        self._pictures = pictures
        self.patches: Patches | None = None
        self.merge_size = getattr(pictures, "merge_size", 1)
        self.temporal_patch_size = getattr(pictures, "temporal_patch_size", 1)

    def __call__(self, videos: Sequence[Any], **_: Any) -> dict[str, Any]:
        """Videos of [F, h, w, 3] to ``pixel_values_videos`` [videos, F, 3, h, w]; or the patches handed in."""
        if self.patches is not None:
            rate = SimpleNamespace(sampled_fps=self.temporal_patch_size / self.patches.seconds)
            grid = torch.tensor([self.patches.grid])
            return {"pixel_values_videos": self.patches.values, "video_grid_thw": grid, "video_metadata": [rate]}
        prepared = [
            self._pictures([Image.fromarray(frame) for frame in video], return_tensors="pt") for video in videos
        ]
        return {"pixel_values_videos": torch.stack([next(iter(frames.values())) for frames in prepared])}
