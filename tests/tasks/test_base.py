"""The way from normalised coordinates of the padded image to pixels of the original one."""

import jax.numpy as jnp
import numpy as np

from pix2seq_jax.tasks.base import to_original


def test_points_are_scaled_per_image_and_clipped():
    example = {
        "image": jnp.zeros((2, 64, 128, 3)),
        "unpadded_size": jnp.array([[64, 48], [32, 64]]),
        "orig_size": jnp.array([[640, 480], [100, 200]]),
    }
    points = jnp.array([[[0.0, 0.0], [0.5, 0.1875], [1.0, 0.375], [1.0, 1.0]]] * 2)
    expected = [
        [[0, 0], [320, 240], [640, 480], [640, 480]],  # the padding right of the image is clipped away
        [[0, 0], [100, 75], [100, 150], [100, 200]],
    ]
    np.testing.assert_allclose(to_original(points, example), expected, rtol=1e-6)
    np.testing.assert_allclose(to_original(points.reshape(2, 2, 2, 2), example).reshape(2, 4, 2), expected, rtol=1e-6)
