"""One answer by Hugging Face's model: the child process whose memory ``rss`` takes."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeprune.bench.measure import Task, load_eager


def main(arguments: list[str]) -> None:
    """Answer; arguments are checkpoint, dtype, picture, question, new tokens, threads."""
    checkpoint, dtype, image, question, new_tokens, threads = arguments
    load_eager(Path(checkpoint), dtype, int(threads)).run(Task(Path(image), question, int(new_tokens)))


if __name__ == "__main__":
    main(sys.argv[1:])
