"""One answer by Hugging Face's model: the child process whose memory ``rss`` takes."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeprune.bench.measure import Task, load_eager
from edgeprune.bundle.image import Frames


def main(arguments: list[str]) -> None:
    """Answer; arguments are checkpoint, dtype, picture or video, question, new tokens, threads, frames or 0."""
    checkpoint, dtype, image, question, new_tokens, threads, count = arguments
    frames = Frames(int(count)) if int(count) else None
    load_eager(Path(checkpoint), dtype, int(threads)).run(Task(Path(image), question, int(new_tokens), frames))


if __name__ == "__main__":
    main(sys.argv[1:])
