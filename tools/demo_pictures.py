"""Draw the pictures that ship with the demo model, with their questions.

    python -m tools.demo_pictures edgeprune/demo/pictures

They are held-out scenes: the first from ``FIRST`` on whose file is small and that ask every kind of question.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from edgeprune.demo.questions import KINDS
from edgeprune.demo.scenes import HELD_OUT_SEED, draw_scene

FIRST = HELD_OUT_SEED + 1_000_000
PICTURES = 4
LARGEST_BYTES = 140_000
QUESTIONS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    described: list[dict[str, object]] = []
    seed = FIRST
    while len(described) < PICTURES:
        scene = draw_scene(seed)
        seed += 1
        file = io.BytesIO()
        scene.image.save(file, "PNG", optimize=True)
        first_of_kind = [next((q for q in scene.questions if q.kind == kind), None) for kind in KINDS]
        if file.tell() > LARGEST_BYTES or None in first_of_kind:
            continue
        rest = [q for q in scene.questions if q not in first_of_kind]
        chosen = [q for q in (*first_of_kind, *rest) if q is not None][:QUESTIONS]
        name = f"scene-{len(described) + 1}.png"
        (out / name).write_bytes(file.getvalue())
        asked = [{"text": q.text, "answer": q.answer, "kind": q.kind} for q in chosen]
        described.append({"picture": name, "questions": asked})
    (out / "questions.json").write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    main()
