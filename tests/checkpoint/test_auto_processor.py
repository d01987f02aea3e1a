"""Pixels and token ids as `AutoProcessor` of the checkpoint that ships makes them from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor
from transformers.image_utils import load_image as transformers_load

from edgeprune import demo
from edgeprune.checkpoint.source import Source
from edgeprune.families.family import open_family
from edgeprune.runtime.preprocess import batch, load_image
from edgeprune.runtime.prompt import Prompt

SOURCE = Source(demo.CHECKPOINT, "demo", None)
QUESTION = "What color is the circle?"


def picture(kind: str) -> Image.Image:
    size = {"wide": (1500, 40), "tall": (40, 1500)}.get(kind, (401, 263))
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(noise if kind == "RGBA" else noise[..., :3])
    if kind == "16-bit":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    return image.convert(kind) if kind in ("L", "P") else image


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "16-bit", "EXIF", "wide", "tall"])
def test_pixels_and_ids(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    exif = Image.Exif()
    if kind == "EXIF":
        exif[0x0112] = 6  # to be turned by 90 degrees
    picture(kind).save(path, exif=exif)
    processor: Any = AutoProcessor.from_pretrained(demo.CHECKPOINT)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(text=text, images=transformers_load(str(path)), return_tensors="np")

    family = open_family("llava", SOURCE, "image")
    found = batch([load_image(path)], family.image())
    np.testing.assert_allclose(found, expected["pixel_values"], rtol=0, atol=1e-6)
    facts = family.prompt()
    encoded = Prompt(facts, demo.CHECKPOINT / "tokenizer.json").encode(QUESTION)
    ids = [*encoded.before, *[facts.image_token_id] * 576, *encoded.after]
    assert ids == expected["input_ids"][0].tolist()
