"""VisionDrop's numbers as its specification states them: sequence lengths, and averages without a remainder."""

import pytest

from edgeprune.budget.schedule import Site, make_schedule

LLAVA = Site(tokens=576, places=("vision", 8, 16, 24), layers=32)


def test_rows_per_group_of_layers() -> None:
    """With 63 rows of text; the first generated token's position is that length, too."""
    schedule = make_schedule("visiondrop", 64, LLAVA)
    assert [63 + stage.keep for stage in schedule.stages] == [159, 133, 115, 101]


@pytest.mark.parametrize("keep", [192, 128, 64, 32])
def test_the_labelled_rows_average_to_their_labels(keep: int) -> None:
    schedule = make_schedule("visiondrop", f"paper:{keep}", LLAVA)
    assert sum(stage.keep for stage in schedule.stages) == 4 * keep
    assert schedule.average == keep
    assert schedule.stages == make_schedule("visiondrop", keep, LLAVA).stages
