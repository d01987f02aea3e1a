"""A family's random checkpoint, as Hugging Face runs it and as a bundle does; prompts to put to both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.prompt import Medium
from edgeprune.eager.model import EagerModel, Inputs, pixel_values
from edgeprune.eager.processor import Patches
from edgeprune.runtime.chain import Text
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import Pixels, prepare
from edgeprune.runtime.vlm import VLM, open_vlm

STEPS = 16
QUESTION = "Which shape is left of the red one?"

Size = tuple[int, int]
"""Height and width of a picture, in pixels."""


EVERY_STAGE = ("visionzip", "vispruner", "visiondrop", "fastv", "sparsevlm", "cdpruner-llm")
"""On the encoder's rows, by places in their grid, in the decoder with merged rows and without, by the text, and after
the projector with a choice on the host."""

ANY_SIZE = (*(name for name in EVERY_STAGE if name != "vispruner"), "vscan")
"""Of pictures that keep their resolution; their places are told where the grid of each is."""

FEW = ("visionzip", "fastv")


@dataclass(frozen=True)
class Kind:
    """What of a family is exported: a shape of ``tools.random_checkpoint`` and a medium; and what sizes it is shown.

    ``methods`` are those of the bundle; None are all that the family can carry, which takes a minute to export.
    """

    shape: str
    medium: Medium
    sizes: tuple[Size, ...]
    methods: tuple[str, ...] | None = FEW


_TILES = ((90, 130), (40, 200), (260, 60))
KINDS: dict[str, Kind] = {
    "llava_next": Kind("small-next", "image", _TILES, None),
    "video_llava": Kind("tiny-video", "video", ((60, 80), (90, 50)), EVERY_STAGE),
    "video_llava-image": Kind("tiny-video", "image", ((60, 80), (120, 50))),
    "llava_onevision": Kind("tiny-onevision", "image", (*_TILES, (400, 410)), EVERY_STAGE),
    "llava_onevision-video": Kind("tiny-onevision", "video", ((60, 80), (90, 50))),
    "qwen2_5_vl": Kind("tiny-qwen2.5-vl", "image", ((150, 190), (40, 200), (260, 60)), ANY_SIZE),
    "qwen2_5_vl-video": Kind("tiny-qwen2.5-vl", "video", ((90, 130), (40, 200)), (*FEW, "vscan")),
    "internvl": Kind("tiny-internvl", "image", ((90, 130), (40, 200), (56, 56)), EVERY_STAGE),
}


class Case:
    """Both sides, opened.

    Args:
        name: of its ``Kind``.
        bundle, checkpoint: folders.
        medium: of the bundle.
    """

    def __init__(self, name: str, bundle: Path, checkpoint: Path, medium: Medium) -> None:
        self.name, self.checkpoint = name, checkpoint
        self.vlm: VLM = open_vlm(bundle, threads=1, check_hashes=False)
        self.eager = EagerModel(checkpoint, "fp32")
        self.eager.model.requires_grad_(False)
        self.eager.model.generation_config.eos_token_id = None  # all the tokens that are asked for
        self.medium = medium

    def pixels(self, pictures: Sequence[Image.Image]) -> Pixels:
        """As the runtime prepares pictures, or a video's frames."""
        return prepare([pictures] if self.medium == "video" else pictures, self.vlm.manifest.image)

    def inputs(self, pictures: Sequence[Image.Image], *words: str) -> Inputs:
        """As Hugging Face's processor prepares a prompt: pictures with words between them, or a video before words."""
        if self.medium == "video":
            return self.eager.prompt(list(pictures), *words, patches=self.patches(self.pixels(pictures)))
        parts: list[Any] = []
        for number, word in enumerate(words):
            parts += [word, *pictures[number : number + 1]]
        return self.eager.prompt(*(part for part in parts if part != ""), *pictures[len(words) :])

    def written(self, question: str, pictures: Sequence[Image.Image]) -> Inputs:
        """The same where the question itself names its pictures, or the video, by the prompt's marker."""
        named = question.replace(self.vlm.prompt.marker, self.vlm.manifest.prompt.image_text)
        turn = {"role": "user", "content": [{"type": "text", "text": named}]}
        text = self.eager.processor.apply_chat_template([turn], add_generation_prompt=True)
        visual: dict[str, object] = {"images": [pictures]}
        if self.medium == "video":
            visual = {"videos": [np.stack([np.asarray(frame) for frame in pictures])]}
            self.eager.processor.video_processor.patches = self.patches(self.pixels(pictures))
        found: Inputs = self.eager.processor(text=[text], return_tensors="pt", **visual)
        return found

    def patches(self, pixels: Pixels) -> Patches | None:
        """A video of native resolution, which is handed to Hugging Face's model: its own pixels need torchvision."""
        native, one = self.vlm.manifest.image.native, pixels.pictures[0]
        if native is None or one.grid is None:
            return None
        pairs, rows, columns = one.grid
        values = torch.from_numpy(pixels.feeds["pixel_values"]).reshape(pairs * rows * columns * native.merge**2, -1)
        return Patches(values, (pairs, rows * native.merge, columns * native.merge), one.seconds)

    def text(self, inputs: Inputs, pixels: Pixels) -> Text:
        """Hugging Face's token ids around the pictures, each of which has the rows that it must have."""
        facts, ids = self.vlm.manifest, inputs["input_ids"][0].tolist()
        visual = self.eager.visual(inputs["input_ids"])[0].tolist()
        parts, place = [], 0
        for rows in whole(facts.layout, facts.vision, pixels.pictures):
            start = visual.index(True, place)
            parts.append(tuple(ids[place:start]))
            place = start + len(rows.origin)
            assert all(visual[start:place])
        assert not any(visual[place:])
        return Text((*parts, tuple(ids[place:])))

    @torch.inference_mode()
    def generate(self, inputs: Inputs) -> tuple[NDArray[np.float32], list[int]]:
        """Hugging Face's own loop: logits of every step [STEPS, vocab], and the greedy tokens."""
        found = self.eager.model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        logits = torch.stack(found.logits)[:, 0].float().numpy()
        return logits, found.sequences[0, -STEPS:].tolist()


MakeCase = Callable[[str], Case]


def frames(case: Case, size: Size) -> list[Image.Image]:
    """A video; of native resolution one whose last pair of frames is one twice."""
    known = case.vlm.manifest.image.frames
    return [noise(size, seed) for seed in range(known.count if known else 5)]


def noise(size: Size, seed: int = 0) -> Image.Image:
    """Noise with a bright patch in it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] * 2 // 3] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def theirs(inputs: Inputs, pixels: Pixels) -> NDArray[np.float32]:
    """The processor's pixels in the shape of the vision graph's: without the tiles that pad, patches side by side."""
    found: NDArray[np.float32] = pixel_values(inputs).numpy()
    if "image_sizes" in inputs:
        found = np.concatenate([own[: one.runs] for own, one in zip(found, pixels.pictures, strict=True)])
    return found.reshape(pixels.feeds["pixel_values"].shape)
