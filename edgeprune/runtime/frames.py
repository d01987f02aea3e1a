"""From a video to the frames that a model sees of it.

A video is a file that PyAV opens, or pictures: a folder of them, or a list. Frames are those that
Transformers' ``default_sample_indices_fn`` picks when it is given a number of frames, which for Video-LLaVA's 8 are
those of its documentation: number int(i * all / count) for i = 0, 1, ..., counted in decoding order from 0. A video
with fewer is refused, as there. Unlike there, frames are turned upright where the file says that they lie.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from edgeprune.bundle.image import Frames
from edgeprune.errors import EdgePruneError, ImageError, MissingExtra
from edgeprune.runtime.preprocess import SMALLEST_EDGE, Source, is_still, is_video, load_image, source_name

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

CONTAINERS = ("asf", "avi", "flv", "gif", "matroska", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "ogg", "webm")
"""What is opened. FFmpeg knows more; some of those read other files, or the network (playlists)."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames taken of a video.

    Attributes:
        frames: pictures in mode RGB, upright.
        total: how many the video has.
        rate: frames per second that it plays at; None where it does not say, as pictures do not.
    """

    frames: list[Image.Image]
    total: int
    rate: float | None


class _TooFew(ImageError):
    """A video has fewer frames than a model takes."""

    def __init__(self, total: int, needed: int, hint: str = "give a longer video") -> None:
        super().__init__(f"has {total} frame{'' if total == 1 else 's'}, and this model takes {needed}: {hint}")
        self.total, self.needed = total, needed


Choose = Callable[[int, float | None], Sequence[int]]
"""Which frames to take, ascending numbers, of a video of so many frames at such a rate."""


def load_frames(source: Source | Sequence[Source], choose: Choose) -> Clip:
    """Sample a video.

    Args:
        source: a video file (path or bytes); a folder of pictures and nothing else but hidden files, which are taken in
            the order of their names, numbers in them by value; or a sequence of pictures.
        choose: see ``evenly``. An ImageError that it raises is given the video's name.

    Raises:
        ImageError: it is no video, a picture, damaged, or too short.
        MissingExtra: it is a video file, and PyAV is not installed.
    """
    if not isinstance(source, str | os.PathLike | bytes | Image.Image):
        return _of_pictures(source, "the list of pictures", choose)
    name = source_name(source)
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        return _of_folder(Path(source), f"the folder {name}", choose)
    if isinstance(source, Image.Image) or is_still(source):
        raise ImageError(f"{name} is a picture, and this model takes a video: a file, or a folder of its frames")
    return _Video(source, name).take(choose)


def evenly(frames: Frames) -> Choose:
    """Take a fixed number of frames; an ImageError says where there are fewer."""

    def choose(total: int, rate: float | None) -> list[int]:
        if total < frames.count:
            raise _TooFew(total, frames.count)
        return [index * total // frames.count for index in range(frames.count)]

    return choose


def _of_folder(folder: Path, name: str, choose: Choose) -> Clip:
    """Every file that is not hidden is a frame, so that none is counted that cannot be opened."""
    pictures = _pictures(folder)
    for path in pictures:
        if not is_still(path):
            raise ImageError(f"{name} holds {path.name}, which is not a picture: leave the frames alone in it")

    def chosen(total: int, rate: float | None) -> Sequence[int]:
        try:
            return choose(total, rate)
        except _TooFew as error:
            raise _TooFew(error.total, error.needed, f"put {error.needed} pictures or more in it") from error

    return _of_pictures(pictures, name, chosen)


def _of_pictures(pictures: Sequence[Source], name: str, choose: Choose) -> Clip:
    chosen = _chosen(name, choose, len(pictures), None)
    return Clip([load_image(pictures[index]) for index in chosen], len(pictures), None)


def _chosen(name: str, choose: Choose, total: int, rate: float | None) -> Sequence[int]:
    try:
        return choose(total, rate)
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error


def _pictures(folder: Path) -> list[Path]:
    """The files of a folder but for hidden ones, 9.png before 10.png."""

    def key(path: Path) -> list[tuple[int, str]]:
        words = re.split(r"(\d+)", path.name)
        return [(int(word), "") if word.isdecimal() else (0, word) for word in words] + [(0, path.name)]

    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=key)


@dataclass(frozen=True)
class _Stated:
    """What a file says of itself: frames, 0 where it does not; those shown, by its duration; frames per second."""

    frames: int
    shown: int
    rate: float | None


class _Video:
    """A video file; every pass opens it anew."""

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str) -> None:
        self._source, self._name = source, name

    def take(self, choose: Choose) -> Clip:
        """The frames chosen, upright.

        A file may not say how many frames it has (Matroska), or count some that its edit list hides: then they are
        counted by decoding.
        """
        stated = self._stated()
        total = stated.frames or self._read([])[1]
        if total == 0:
            raise ImageError(f"{self._name} has no frames: its video stream is empty")
        chosen = _chosen(self._name, choose, total, stated.rate)
        frames, decoded = self._read(chosen)
        if len(frames) < len(chosen):
            if decoded < min(stated.frames, stated.shown) - 1:
                raise self._broken(f"it ends after {decoded} of {stated.frames} frames")
            total = decoded
            frames, _ = self._read(_chosen(self._name, choose, total, stated.rate))
        return Clip(frames, total, stated.rate)

    def _stated(self) -> _Stated:
        with self._open() as (_, stream):
            rate = float(stream.average_rate) if stream.average_rate else None
            if rate is None or stream.duration is None or stream.time_base is None:
                return _Stated(stream.frames, stream.frames, rate)
            return _Stated(stream.frames, round(float(stream.duration * stream.time_base) * rate), rate)

    def _read(self, wanted: Sequence[int]) -> tuple[list[Image.Image], int]:
        """The frames wanted, whose numbers ascend, and how many were decoded for them; all where none is wanted."""
        taken: list[Image.Image] = []
        decoded = 0
        with self._open() as (container, stream):
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise self._broken(f"bytes are missing behind frame {decoded}")
                for frame in packet.decode():
                    if wanted and decoded == wanted[len(taken)]:
                        if frame.is_corrupt:
                            raise self._broken(f"frame {decoded} cannot be decoded")
                        taken.append(self._upright(frame))
                        if len(taken) == len(wanted):
                            return taken, decoded + 1
                    decoded += 1
        return taken, decoded

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        try:
            import av
        except ImportError as error:
            raise MissingExtra("PyAV", "video", "reading a video file") from error
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else os.fspath(self._source)
        if isinstance(source, str) and not Path(source).is_file():
            hint = ": download it first" if source.startswith(("http://", "https://")) else ""
            raise ImageError(f"{self._name} is not found{hint}")
        # Not as `options`, which go to every stream too: PyAV before 18 crashes where one is found late (MPEG-PS).
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        with (
            self._mapped(av.error.FFmpegError),
            av.open(source, container_options=options, metadata_errors="ignore") as container,
        ):
            if not container.streams.video:
                raise ImageError(f"{self._name} has no video stream that can be read")
            stream = container.streams.video[0]
            self._check_size(stream.width, stream.height)
            stream.thread_type = "AUTO"
            yield container, stream

    def _check_size(self, width: int, height: int) -> None:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise ImageError(f"{self._name} is {width}x{height} pixels, more than {limit}: make it smaller first")
        if 0 < min(width, height) < SMALLEST_EDGE:
            least = f"{SMALLEST_EDGE}x{SMALLEST_EDGE}"
            raise ImageError(f"{self._name} is {width}x{height} pixels: the smallest accepted is {least}")

    def _upright(self, frame: Any) -> Image.Image:
        picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
        return picture.rotate(frame.rotation, expand=True) if frame.rotation % 360 else picture

    def _broken(self, reason: str) -> ImageError:
        return ImageError(f"{self._name} cannot be read, damaged or truncated: {reason}")

    @contextmanager
    def _mapped(self, ffmpeg: type[Exception]) -> Iterator[None]:
        """Turn whatever PyAV raises about a file into an ImageError of one line."""
        try:
            yield
        except EdgePruneError:
            raise
        except PermissionError as error:
            raise ImageError(f"{self._name} may not be read: check its permissions") from error
        except ffmpeg as error:
            if not is_video(self._source):
                known = ", ".join(CONTAINERS)
                raise ImageError(f"{self._name} is not a video in a container read here ({known})") from error
            raise self._broken(str(getattr(error, "strerror", None) or error)) from error
