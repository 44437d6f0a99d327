"""How many prompts of a picture are decoded together."""

import pytest

from pix2seq_jax.evaluation.views import View

WHOLE, WINDOWS = View(None, ("the same for all",), 20), View(None, None, 1)


@pytest.mark.parametrize(
    "objects, slots", [(1, 4), (4, 4), (5, 8), (9, 16), (17, 20), (20, 20), (100, 20)]
)
def test_a_row_is_as_long_as_the_fullest_image_needs(objects, slots):
    assert WHOLE.slots_for(objects) == slots
    assert WINDOWS.slots_for(objects) == 1


def test_each_program_is_named_once_by_how_many_objects_need_it():
    counts = WHOLE.programs(100)
    assert sorted(set(counts)) == [1, 5, 9, 17, 21, 41, 61, 81]
    assert {WHOLE.slots_for(count) for count in counts} == {4, 8, 16, 20}
    assert WHOLE.programs(6) == [5, 1, 1]
    assert WINDOWS.programs(100) == [1]
