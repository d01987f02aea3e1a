"""How pictures and videos are prepared, from every place and spelling in which a processor's settings are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.checkpoint.image import fixed, framed, read_settings, tiled
from edgeprune.checkpoint.source import resolve
from edgeprune.errors import CheckpointError, UnsupportedModel
from edgeprune.families.family import open_family
from tests.checkpoint.change import change
from tools.random_checkpoint import write_checkpoint

CLIP = ("CLIPImageProcessor",)
TILES = Tiles("best_fit", ((1, 2), (2, 1)))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _write(folder: Path, file: str, **values: Any) -> Path:
    (folder / file).write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_what_a_file_leaves_out_is_clips(tmp_path: Path) -> None:
    _write(tmp_path, "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    expected = ImageProcessing("fixed", 224, None, (224, 224), 3, 1 / 255, MEAN, STD)
    assert fixed(read_settings(tmp_path, CLIP)) == expected


def test_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor

    CLIPImageProcessor().save_pretrained(tmp_path / "saved")
    (tmp_path / "short").mkdir()
    _write(tmp_path / "short", "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    assert fixed(read_settings(tmp_path / "short", CLIP)) == fixed(read_settings(tmp_path / "saved", CLIP))


def test_the_spelling_of_the_first_clip_files(tmp_path: Path) -> None:
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336}
    processing = fixed(read_settings(_write(tmp_path, "preprocessor_config.json", **old), CLIP))
    assert (processing.resize_shortest, processing.crop) == (336, (336, 336))


@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_the_class_may_say_how_it_computes(tmp_path: Path, suffix: str) -> None:
    _write(tmp_path, "preprocessor_config.json", image_processor_type=f"CLIPImageProcessor{suffix}")
    assert fixed(read_settings(tmp_path, CLIP)).size == (224, 224)


@pytest.mark.parametrize("kind", ["CLIPImageProcessorFancy", "Fast", ""])
def test_another_class_is_refused(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, "preprocessor_config.json", image_processor_type=kind)
    with pytest.raises(UnsupportedModel, match=r"image_processor_type = .* is not supported; expected CLIPImagePro"):
        read_settings(tmp_path, CLIP)


def test_where_the_settings_of_a_video_lie(tmp_path: Path) -> None:
    """In the image processor's file, in one of their own, inside of processor_config.json: the last one wins."""
    kinds = ("CLIPImageProcessor", "ClipVideoProcessor")
    sides = []
    _write(tmp_path, "preprocessor_config.json", image_processor_type="CLIPImageProcessor", crop_size=100)
    sides.append(fixed(read_settings(tmp_path, kinds, medium="video")).size)
    _write(tmp_path, "video_preprocessor_config.json", video_processor_type="ClipVideoProcessor", crop_size=110)
    sides.append(fixed(read_settings(tmp_path, kinds, medium="video")).size)
    nested = {"video_processor_type": "ClipVideoProcessor", "crop_size": 120}
    _write(tmp_path, "processor_config.json", video_processor=nested)
    sides.append(fixed(read_settings(tmp_path, kinds, medium="video")).size)
    assert sides == [(100, 100), (110, 110), (120, 120)]
    assert fixed(read_settings(tmp_path, kinds)).size == (100, 100)


def test_a_tile_is_neither_resized_nor_cropped(tmp_path: Path) -> None:
    _write(tmp_path, "preprocessor_config.json", image_processor_type="CLIPImageProcessor", do_pad=True)
    processing = tiled(read_settings(tmp_path, CLIP), TILES)
    assert (processing.kind, processing.resize_exact, processing.crop) == ("tiles", (224, 224), None)
    assert (processing.tiles, processing.most_runs) == (TILES, 3)


def test_a_tile_that_would_be_cropped(tmp_path: Path) -> None:
    _write(tmp_path, "preprocessor_config.json", image_processor_type="CLIPImageProcessor", crop_size=200)
    with pytest.raises(UnsupportedModel, match=r"crop_size = 200 is not supported; expected \(224, 224\), the size"):
        tiled(read_settings(tmp_path, CLIP), TILES)


def test_frames_are_pictures(tmp_path: Path) -> None:
    _write(tmp_path, "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    processing = framed(read_settings(tmp_path, CLIP), Frames(8))
    assert (processing.kind, processing.size, processing.most_runs) == ("frames", (224, 224), 8)


def test_tiles_as_newer_transformers_save_them(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    path = write_checkpoint("tiny-next", tmp_path / "next")
    before = open_family("llava_next", resolve(str(path)), "image")
    image, prompt = before.image(), before.prompt()
    AutoProcessor.from_pretrained(path).save_pretrained(tmp_path / "saved")
    for name in ("preprocessor_config.json", "chat_template.json", "processor_config.json"):
        (path / name).unlink()
    for file in (tmp_path / "saved").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    assert not (path / "preprocessor_config.json").exists()
    after = open_family("llava_next", resolve(str(path)), "image")
    assert (after.image(), after.prompt()) == (image, prompt)


def test_a_processor_for_another_size_than_the_encoders(tmp_path: Path) -> None:
    path = write_checkpoint("tiny", tmp_path)
    change(path, "preprocessor_config.json", crop_size={"height": 98, "width": 112})
    with pytest.raises(CheckpointError, match="makes pictures of 98x112 pixels, and the encoder takes 112x112"):
        open_family("llava", resolve(str(path)), "image").image()
