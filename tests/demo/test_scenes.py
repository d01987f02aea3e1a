import itertools

import numpy as np
import pytest

from edgeprune.demo.questions import KINDS
from edgeprune.demo.scenes import FEWEST, HELD_OUT_SEED, LARGEST, MOST, SIDE, SMALLEST, Scene, Shape, draw_scene

SEEDS = range(HELD_OUT_SEED, HELD_OUT_SEED + 40)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in SEEDS]


def test_a_seed_gives_one_scene() -> None:
    first, second, other = draw_scene(5), draw_scene(5), draw_scene(6)
    assert first.shapes == second.shapes
    assert first.questions == second.questions
    assert first.image.tobytes() == second.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_pictures_have_the_model_s_size(scenes: list[Scene]) -> None:
    assert all(scene.image.size == (SIDE, SIDE) and scene.image.mode == "RGB" for scene in scenes)


def test_shapes_are_distinct_apart_and_inside(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert FEWEST <= len(scene.shapes) <= MOST
        assert len({(shape.color, shape.shape) for shape in scene.shapes}) == len(scene.shapes)
        for shape in scene.shapes:
            assert SMALLEST <= shape.size <= LARGEST
            assert all(shape.size / 2 <= place <= SIDE - shape.size / 2 for place in shape.center)
        for one, two in itertools.combinations(scene.shapes, 2):
            gaps = [abs(a - b) - (one.size + two.size) / 2 for a, b in zip(one.center, two.center, strict=True)]
            assert max(gaps) > 0, (one, two)


def test_a_shape_s_centre_has_its_color(scenes: list[Scene]) -> None:
    dominant = {"red": 0, "green": 1, "blue": 2}
    for scene in scenes:
        pixels = np.asarray(scene.image)
        for shape in scene.shapes:
            if shape.color in dominant:
                x, y = (round(place) for place in shape.center)
                assert pixels[y, x].argmax() == dominant[shape.color], shape


def test_every_kind_is_asked(scenes: list[Scene]) -> None:
    assert {question.kind for scene in scenes for question in scene.questions} == set(KINDS)


def test_answers_follow_from_the_shapes(scenes: list[Scene]) -> None:
    for scene in scenes:
        for question in scene.questions:
            words = question.text.rstrip("?").lower().split()
            assert question.answer == answer(question.kind, words, scene.shapes), (question, scene.shapes)


def test_as_many_yes_as_no(scenes: list[Scene]) -> None:
    for scene in scenes:
        answers = [question.answer for question in scene.questions if question.kind == "exist"]
        assert answers.count("yes") == answers.count("no")


def test_training_refuses_held_out_seeds() -> None:
    pytest.importorskip("torch")
    from tools.demo_training.pictures import draw_pictures
    from tools.demo_training.run import STAGE_SEEDS
    from tools.demo_training.stages import STAGES

    assert len(STAGES) * STAGE_SEEDS <= HELD_OUT_SEED
    with pytest.raises(ValueError, match="held out"):
        draw_pictures(STAGES[0].view, range(HELD_OUT_SEED - 1, HELD_OUT_SEED + 1))


def answer(kind: str, words: list[str], shapes: tuple[Shape, ...]) -> str:
    """What a question's words mean, told from the shapes alone."""
    if kind == "color":
        return only(shapes, words[-1]).color
    if kind == "shape":
        return only(shapes, words[-2]).shape
    if kind == "exist":
        return "yes" if any((s.color, s.shape) == (words[-2], words[-1]) for s in shapes) else "no"
    if kind == "where":
        x, y = only(shapes, words[-2]).center
        return f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"
    assert kind == "relation"
    one, two = only(shapes, *words[2:4]), only(shapes, *words[-2:])
    axis = 0 if "left" in words else 1
    return (("left", "right"), ("above", "below"))[axis][one.center[axis] > two.center[axis]]


def only(shapes: tuple[Shape, ...], *names: str) -> Shape:
    """The one shape that has all the names; "object" fits every shape."""
    (found,) = [s for s in shapes if all(name in (s.color, s.shape, "object") for name in names)]
    return found
