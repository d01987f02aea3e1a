"""Frames of small clips: which are taken, and what is said of files that are no video or a damaged one."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.bundle.image import Frames
from edgeprune.errors import ImageError, MissingExtra
from edgeprune.runtime.frames import evenly, load_frames
from tests.runtime.clips import frame, number_of, write_clip

av = pytest.importorskip("av")


def taken(source: object, count: int = 8) -> list[int]:
    return [number_of(picture) for picture in load_frames(source, evenly(Frames(count))).frames]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 20)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mp4", "mpeg4", "yuv420p"),
        ("clip.mkv", "mpeg4", "yuv420p"),  # says nothing of how many frames it has; nor do the next two
        ("clip.ts", "mpeg2video", "yuv420p"),
        ("clip.mpg", "mpeg2video", "yuv420p"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.gif", "gif", "rgb8"),
    ],
)
def test_frames_are_spread_evenly(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    path = write_clip(tmp_path / name, 20, codec, pixels)
    clip = load_frames(path, evenly(Frames(8)))
    assert (clip.total, clip.rate) == (20, 10)
    assert [number_of(picture) for picture in clip.frames] == [0, 2, 5, 7, 10, 12, 15, 17]
    assert {(picture.mode, picture.size) for picture in clip.frames} == {("RGB", (64, 48))}


def test_frames_between_which_others_are_predicted(tmp_path: Path) -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV cannot write H.264")
    path = write_clip(tmp_path / "clip.mp4", 21, "libx264")
    assert taken(path, 21) == list(range(21))
    assert taken(path, 1) == [0]


def test_which_frames_is_what_video_llavas_page_says() -> None:
    for total in [*range(8, 80), 301, 1000, 12345]:
        documented = np.arange(0, total, total / 8).astype(int)
        assert list(evenly(Frames(8))(total, None)) == documented.tolist()


def test_which_frames_is_transformers_rule() -> None:
    transformers = pytest.importorskip("transformers")
    default, facts = transformers.video_utils.default_sample_indices_fn, transformers.video_utils.VideoMetadata
    if list(default(facts(total_num_frames=20, fps=10), num_frames=8))[-1] == 14:
        pytest.skip("this Transformers rounds the step down, and so takes the first 14 of 20 frames")
    for total in [*range(8, 40), 301, 1000, 12345]:
        for count in (1, 7, 8):
            ours = evenly(Frames(count))(total, 10)
            assert list(ours) == default(facts(total_num_frames=total, fps=10), num_frames=count).tolist()


def test_what_pyav_reads_of_it(clip: Path) -> None:
    """As Transformers' reader: frames in decoding order, converted by FFmpeg."""
    with av.open(str(clip)) as container:
        every = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
    ours = load_frames(clip, evenly(Frames(4))).frames
    for picture, number in zip(ours, (0, 5, 10, 15), strict=True):
        np.testing.assert_array_equal(np.asarray(picture), every[number])


def test_bytes_and_names_are_a_file(clip: Path) -> None:
    assert taken(clip.read_bytes()) == taken(str(clip)) == taken(clip)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(frame(number)).save(tmp_path / f"frame{number}.png")  # 10 comes before 2 by its letters
    (tmp_path / ".hidden").write_text("no picture")
    assert taken(tmp_path, 4) == [0, 3, 6, 9]
    assert taken(tmp_path, 12) == list(range(12))
    (tmp_path / "frame3.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"the folder .* holds frame3\.png, which is not a picture"):
        taken(tmp_path, 4)


def test_a_list_of_pictures(tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame(number)) for number in range(9)]
    assert taken(pictures, 8) == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ImageError, match=r"the list of pictures has 2 frames, and this model takes 8"):
        taken(pictures[:2])


def test_fewer_frames_than_wanted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "short.mp4", 5)
    with pytest.raises(ImageError, match=r"short\.mp4 has 5 frames, and this model takes 8: give a longer video$"):
        taken(path)
    assert taken(path, 5) == [0, 1, 2, 3, 4]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty has 0 frames, and this model takes 8: put 8 pictures or more in it$"):
        taken(tmp_path / "empty")


def test_a_video_that_lies_on_its_side_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)  # counterclockwise
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        container.mux(stream.encode())
    (first, *_) = load_frames(path, evenly(Frames(4))).frames
    assert first.size == (48, 64)
    bright = np.asarray(first).mean(axis=-1) > 30
    assert bright[40:, :16].all() and not bright[:24].any()  # it was the upper left quarter


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    with (
        av.open(str(write_clip(tmp_path / "whole.mp4", 20))) as source,
        av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = int(7 / 10 / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert container.streams.video[0].frames == 20  # as the file says
    clip = load_frames(tmp_path / "cut.mp4", evenly(Frames(8)))
    assert clip.total == 13
    assert [number_of(picture) for picture in clip.frames] == [7, 8, 10, 11, 13, 15, 16, 18]


def test_no_video(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "notes.mp4"
    with pytest.raises(ImageError, match=r"notes\.mp4 is not found$"):
        taken(path)
    with pytest.raises(ImageError, match="is not found: download it first"):
        taken("https://example.org/clip.mp4")
    path.write_text("no video at all")
    with pytest.raises(ImageError, match=r"notes\.mp4 is not a video in a container read here \(asf, avi, "):
        taken(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="is not a video"):
        taken(path)
    with pytest.raises(ImageError, match="the image data is not a video"):
        taken(b"no video at all")


def test_a_playlist_does_not_open_what_it_names(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "clip.ts").write_bytes(write_clip(tmp_path / "real.ts", 20, "mpeg2video").read_bytes())
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ImageError, match="is not a video in a container read here"):
        taken(path)


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ImageError, match=r"sound\.mp4 has no video stream"):
        taken(path)


def test_no_frames(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mkv", 20)
    (tmp_path / "head.mkv").write_bytes(whole.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"head\.mkv has no frames: its video stream is empty"):
        taken(tmp_path / "head.mkv")


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("clip.avi", "mjpeg", "yuvj420p"), ("clip.mp4", "mpeg4", "yuv420p")]
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, name: str, codec: str, pixels: str, share: float) -> None:
    path = write_clip(tmp_path / name, 20, codec, pixels, movflags="faststart")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=r"clip\.... (cannot be read, damaged or truncated: |has no video stream)"):
        taken(path)


def test_cut_off_between_two_frames(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mp4", 20, movflags="faststart")
    with av.open(str(whole)) as container:
        ends = sorted(packet.pos + packet.size for packet in container.demux(video=0) if packet.size)
    whole.write_bytes(whole.read_bytes()[: ends[11]])
    with pytest.raises(ImageError, match=r"clip\.mp4 cannot be read, .* it ends after 12 of 20 frames"):
        taken(whole)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("clip.avi", "mjpeg", "yuvj420p"), ("clip.mkv", "mjpeg", "yuvj420p"), ("clip.ts", "mpeg2video", "yuv420p")],
)
def test_broken_in_the_middle(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    path = write_clip(tmp_path / name, 20, codec, pixels)
    raw = bytearray(path.read_bytes())
    third = len(raw) // 3
    raw[third : 2 * third] = bytes(third)
    path.write_bytes(raw)
    with pytest.raises(ImageError, match=rf"{name} cannot be read, damaged or truncated: ") as error:
        taken(path)
    assert "\n" not in str(error.value)


def test_a_picture_is_no_video(tmp_path: Path) -> None:
    picture = Image.fromarray(frame(0))
    for suffix in ("png", "jpg", "gif", "webp"):
        path = tmp_path / f"photo.{suffix}"
        picture.save(path)
        with pytest.raises(ImageError, match=rf"photo\.{suffix} is a picture, and this model takes a video"):
            taken(path)
    with pytest.raises(ImageError, match="the image data is a picture"):
        taken(picture)
    file = io.BytesIO()
    picture.save(file, "PNG")
    with pytest.raises(ImageError, match="the image data is a picture"):
        taken(file.getvalue())


def test_too_many_pixels(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(ImageError, match=r"clip\.mp4 is 64x48 pixels, more than 3000: make it smaller first"):
        taken(clip)


def test_without_pyav(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"needs PyAV, which is not installed: pip install 'edgeprune\[video\]'"):
        taken(clip)
    assert taken([Image.fromarray(frame(number)) for number in range(4)], 4) == [0, 1, 2, 3]
