"""Our tensors against those of Transformers' CLIP processor, which is given the path as users do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.image import ImageProcessing
from edgeprune.errors import BundleError, ImageError
from edgeprune.runtime.preprocess import batch, fit, load_image, preprocess
from tests.runtime.photos import noise

transformers = pytest.importorskip("transformers")

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "YCbCr", "LAB", "F")


def processing(shortest: int = 336, crop: Any = 336, **changes: Any) -> ImageProcessing:
    facts: dict[str, Any] = {
        "kind": "fixed",
        "resize_shortest": shortest,
        "resize_exact": None,
        "crop": (crop, crop) if isinstance(crop, int) else crop,
        "resample": 3,
        "rescale": 1 / 255,
        "mean": MEAN,
        "std": STD,
    }
    return ImageProcessing(**{**facts, **changes})


def reference(
    source: str | Image.Image, shortest: int = 336, crop: int | tuple[int, int] = 336, **options: Any
) -> NDArray[np.float32]:
    """What Transformers makes of a picture: [3, h, w]."""
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    processor = transformers.CLIPImageProcessor(
        **{
            "size": {"shortest_edge": shortest},
            "crop_size": {"height": height, "width": width},
            "image_mean": MEAN,
            "image_std": STD,
            **options,
        }
    )
    loaded = transformers.image_utils.load_image(source)
    pixels: NDArray[np.float32] = processor(loaded, return_tensors="np")["pixel_values"][0]
    return pixels


def agrees(path: Path, shortest: int = 336, crop: int = 336) -> None:
    ours = preprocess(load_image(path), processing(shortest, crop))
    theirs = reference(str(path), shortest, crop)
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.tiff"
    noise(90, 70, mode).save(path)
    agrees(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Transformers leaves GIFs open
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    noise(90, 70).save(path)
    agrees(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "1"])
def test_png_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.png"
    noise(90, 70, mode).save(path)
    agrees(path)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Transformers' own, on the bytes kind
@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))], ids=["index", "bytes"])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    path = tmp_path / "picture.png"
    noise(90, 70).quantize(16).save(path, transparency=transparency)
    agrees(path)


def test_palette_with_alpha_loads_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise(90, 70).quantize(16).save(path, transparency=bytes(range(0, 256, 16)))
    load_image(path)  # every warning is an error here


@pytest.mark.parametrize(("mode", "key"), [("RGB", (10, 20, 30)), ("L", 10)])
def test_colour_key(tmp_path: Path, mode: str, key: Any) -> None:
    path = tmp_path / "picture.png"
    picture = noise(90, 70, mode)
    picture.paste(key, (10, 10, 60, 50))
    picture.save(path, transparency=key)
    agrees(path)
    assert load_image(path).getpixel((30, 30)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(90, 50).save(path, exif=exif)
    agrees(path)
    assert load_image(path).size == ((90, 50) if orientation < 5 else (50, 90))


@pytest.mark.parametrize(
    "size", [(3000, 40), (40, 3000), (337, 336), (336, 337), (335, 336), (336, 336), (10, 10), (2, 2), (2, 9)]
)
def test_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "picture.png"
    noise(*size).save(path)
    agrees(path)


@settings(max_examples=40)
@given(
    width=st.integers(2, 400),
    height=st.integers(2, 400),
    shortest=st.integers(8, 90),
    crop=st.integers(8, 90),
)
def test_any_size_and_crop(width: int, height: int, shortest: int, crop: int) -> None:
    picture = noise(width, height)
    ours = preprocess(load_image(picture), processing(shortest, crop))
    np.testing.assert_allclose(ours, reference(picture, shortest, crop), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(90, 70), (50, 81), (12, 300), (45, 45)])
@pytest.mark.parametrize("crop", [(20, 50), (51, 33), (60, 60), (45, 44)])
def test_crop_that_is_not_square_or_pads(size: tuple[int, int], crop: tuple[int, int]) -> None:
    picture = noise(*size)
    ours = preprocess(picture, processing(45, crop))
    np.testing.assert_allclose(ours, reference(picture, 45, crop), rtol=0, atol=1e-6)


@pytest.mark.parametrize("resample", range(6))
def test_exact_resize_with_every_filter(resample: int) -> None:
    picture = noise(90, 70)
    facts = processing(crop=None, resize_shortest=None, resize_exact=(40, 52), resample=resample)
    size = {"height": 40, "width": 52}
    theirs = reference(picture, size=size, do_center_crop=False, resample=resample)
    np.testing.assert_allclose(preprocess(picture, facts), theirs, rtol=0, atol=1e-6)


def test_crop_alone() -> None:
    picture = noise(90, 70)
    theirs = reference(picture, crop=40, do_resize=False)
    ours = preprocess(picture, processing(crop=40, resize_shortest=None))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_batch_is_its_pictures() -> None:
    facts = processing(30, 24)
    pictures = [noise(90, 70), noise(30, 50, seed=1)]
    prepared = batch(pictures, facts)
    assert prepared.shape == (2, 3, 24, 24)
    assert prepared.dtype == np.float32
    for row, picture in zip(prepared, pictures, strict=True):
        np.testing.assert_array_equal(row, preprocess(picture, facts))
    assert batch([], facts).shape == (0, 3, 24, 24)


def test_fit_is_what_the_model_sees() -> None:
    facts = processing(30, 24, rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    seen = fit(noise(90, 70), facts)
    np.testing.assert_array_equal(np.asarray(seen).transpose(2, 0, 1), preprocess(noise(90, 70), facts))


def test_bytes_and_open_pictures_load_as_their_file(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise(90, 70, "RGBA").save(path)
    expected = np.asarray(load_image(path))
    np.testing.assert_array_equal(np.asarray(load_image(str(path))), expected)
    np.testing.assert_array_equal(np.asarray(load_image(path.read_bytes())), expected)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(load_image(opened)), expected)
        assert opened.mode == "RGBA"


def test_not_found(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png is not found$"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="is not found: download it first"):
        load_image("https://example.org/cat.png")


def test_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, formats: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=r"secret\.png may not be read: check its permissions"):
        load_image(tmp_path / "secret.png")


def test_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no picture at all")
    with pytest.raises(ImageError, match=r"notes\.png is not a picture"):
        load_image(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="is not a picture"):
        load_image(path)
    with pytest.raises(ImageError, match="the image data is not a picture"):
        load_image(b"GIF? no")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"half.{suffix}"
    noise(90, 70).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=rf"half\.{suffix} (cannot be read, damaged or truncated|is not a picture)"):
        load_image(path)


@settings(max_examples=60)
@given(data=st.data(), suffix=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]))
def test_damaged_bytes_never_raise_anything_else(data: st.DataObject, suffix: str) -> None:
    file = io.BytesIO()
    noise(20, 16).save(file, suffix)
    raw = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_image(bytes(raw))
    except ImageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("limit", [3000, 6000], ids=["Pillow's error", "Pillow's warning"])
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = tmp_path / "bomb.png"
    noise(100, 70).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=rf"bomb\.png has more than {limit} pixels"):
        load_image(path)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_too_small(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(ImageError, match=rf"dot\.png is {size[0]}x{size[1]} pixels: the smallest .* 2x2"):
        load_image(path)


def test_too_long_and_thin() -> None:
    with pytest.raises(ImageError, match=r"20000x10 .* resized to 672000x336, .* crop it"):
        preprocess(Image.new("RGB", (20000, 10)), processing())


def test_only_rgb_is_prepared() -> None:
    with pytest.raises(ImageError, match=r"mode 'L', expected 'RGB': open it with load_image"):
        preprocess(Image.new("L", (20, 20)), processing())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "square"}, "kind='square' is not \"fixed\" or"),
        ({"resize_shortest": 0}, "resize_shortest=0"),
        ({"resize_shortest": True}, "resize_shortest=True"),
        ({"resize_exact": (4, 4)}, "exclude each other"),
        ({"crop": None}, "must fix the size"),
        ({"crop": (4, -4)}, r"crop=\(4, -4\)"),
        ({"crop": [4, 4]}, r"crop=\[4, 4\]"),
        ({"resample": 6}, "resample=6"),
        ({"resample": "bicubic"}, "resample='bicubic'"),
        ({"rescale": 0.0}, r"rescale=0\.0"),
        ({"rescale": float("nan")}, "rescale=nan"),
        ({"mean": (0.0, 0.0)}, r"mean=\(0\.0, 0\.0\)"),
        ({"std": (1.0, 0.0, 1.0)}, "three positive numbers"),
    ],
)
def test_processing_validates_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        processing(**changes)


def test_processing_prints_as_the_code_that_makes_it() -> None:
    facts = processing()
    assert eval(repr(facts)) == facts
    assert facts.size == (336, 336)
