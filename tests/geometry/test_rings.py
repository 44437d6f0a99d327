"""Rings become shorter until they fit."""

import numpy as np
import pytest

from pix2seq_jax.geometry import rings
from pix2seq_jax.geometry.point_lists import point_list
from tests.helpers.outlines import HEIGHT, WIDTH, blob, rings_of


@pytest.mark.parametrize("max_points", [3, 8, 20, 127, 128])
@pytest.mark.parametrize("parts", [1, 2, 5, 40])
def test_outlines_fit_whatever_the_length(max_points, parts):
    rng = np.random.default_rng(parts)
    blobs = [blob(rng, 20 + 100 * i, 8 + 3 * i) for i in range(parts)]
    biggest = rings.largest(blobs, rings.most_rings(max_points))
    assert len(biggest) == min(parts, (max_points + 1) // 4)
    assert min(map(rings.area, biggest)) >= sorted(map(rings.area, blobs))[-len(biggest)]
    fitted = rings.fit(biggest, max_points)
    assert len(fitted) == len(biggest)
    assert sum(map(len, fitted)) + len(fitted) - 1 <= max_points
    assert min(map(len, fitted)) >= 3
    row = point_list(fitted, np.array([HEIGHT, WIDTH]), max_points)
    assert row.shape == (2 * max_points,)
    assert len(rings_of(row)) == len(biggest)


def test_larger_parts_get_more_points():
    rng = np.random.default_rng(0)
    large, tiny = rings.fit([blob(rng, 400, 120), blob(rng, 400, 6)], 64)
    assert len(large) > 2 * len(tiny)
    assert len(large) + len(tiny) > 56  # the room is used


def test_outlines_that_cross_themselves_fit():
    rng = np.random.default_rng(3)
    for _ in range(5):
        (tangle,) = rings.fit([rng.uniform(0, 400, (500, 2))], 20)
        assert 3 <= len(tangle) <= 20
