"""Point lists come back as the rings they were made of."""

import numpy as np

from pix2seq_jax.geometry.point_lists import point_list, split_rings
from tests.helpers.outlines import HEIGHT, WIDTH, blob


def test_point_lists_come_back_as_their_rings():
    rng = np.random.default_rng(0)
    shapes = [blob(rng, 20, 30), blob(rng, 9, 60), blob(rng, 3, 10)]
    row = point_list(shapes, np.array([HEIGHT, WIDTH]), 40)
    back = split_rings(row)
    assert len(back) == 3
    for ring, shape in zip(back, shapes, strict=True):
        np.testing.assert_allclose(ring * [WIDTH, HEIGHT], shape, atol=1e-3)  # f32
