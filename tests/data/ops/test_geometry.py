"""Coordinates under crop, flip and padding, against the arrays recorded from the release."""

import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.data.ops import geometry
from pix2seq_jax.data.source import POINT_FIELDS

SWAP = [
    0,
    *(j + 1 if j % 2 else j - 1 for j in range(1, 17)),
]  # COCO: after the nose come (left, right) pairs
# name in the recorded arrays -> (field, name of the input)
RECORDED = {
    "bbox": ("boxes", "tok/bbox"),
    "polygon": ("polygons", "tok/points"),
    "keypoints": ("keypoints", "crop/keypoints_in"),
}


def recorded_input(golden: dict, name: str) -> np.ndarray:
    value = golden[RECORDED[name][1]]
    return value if name == "keypoints" else value[0]


@pytest.mark.parametrize("name", RECORDED)
def test_crop_equals_the_release(ops_golden, name):
    top, left, height, width = ops_golden["crop/region"]
    h, w, _ = ops_golden["crop/image_in"].shape
    offset = tf.constant([top / h, left / w], tf.float32)
    factor = tf.constant([h / height, w / width], tf.float32)
    cropped = geometry.crop(
        RECORDED[name][0], tf.constant(recorded_input(ops_golden, name)), offset, factor
    )
    np.testing.assert_allclose(cropped, ops_golden[f"crop/{name}"], atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_flip_equals_the_release(ops_golden, name):
    points = recorded_input(ops_golden, name)
    flipped = geometry.flip_lr(RECORDED[name][0], tf.constant(points), SWAP).numpy()
    reserved = points < 0  # the release mirrors these too and restores them in another op
    np.testing.assert_allclose(flipped[~reserved], ops_golden[f"flip/{name}"][~reserved], atol=1e-5)
    np.testing.assert_array_equal(flipped[reserved], points[reserved])


@pytest.mark.parametrize("field", POINT_FIELDS)
def test_flipping_twice_gives_back_the_points(ops_golden, field):
    points = tf.constant(ops_golden["crop/keypoints_in"])[:, : 4 if field == "boxes" else 34]
    np.testing.assert_allclose(
        geometry.flip_lr(field, geometry.flip_lr(field, points, SWAP), SWAP), points, atol=1e-6
    )


def test_reserved_points_pass_through_every_change():
    points = tf.constant([[0.5, 0.5, -1.0, -1.0, -2.0, -2.0, -3.0, -3.0]])
    half = tf.constant([0.5, 0.5])
    for field in ("polygons", "keypoints"):
        for changed in (
            geometry.scale(field, points, half),
            geometry.crop(field, points, half / 2, 2 * half),
        ):
            np.testing.assert_array_equal(changed[0, 2:], points[0, 2:])
    np.testing.assert_array_equal(geometry.scale("polygons", points, half)[0, :2], [0.25, 0.25])


@pytest.mark.parametrize("field", POINT_FIELDS)
def test_no_objects(field):
    points, pair = tf.zeros([0, 4 if field == "boxes" else 34]), tf.constant([0.5, 0.5])
    for changed in (geometry.scale(field, points, pair), geometry.crop(field, points, pair, pair)):
        assert changed.shape == points.shape
    assert geometry.flip_lr(field, points, SWAP).shape == points.shape


def test_keypoints_are_exchanged_by_swap():
    points = tf.constant([[0.1, 0.2, 0.3, 0.4, -3.0, -3.0]])
    np.testing.assert_allclose(
        geometry.flip_lr("keypoints", points, [2, 1, 0]), [[-3, -3, 0.3, 0.6, 0.1, 0.8]]
    )


def test_polygons_are_reversed_ring_by_ring():
    def listed(numbers):
        """A word below zero, else a point of its own."""
        return [x for n in numbers for x in ([n, n] if n < 0 else [n / 10, n / 20])]

    points = [
        [1, 2, 3, 4, -2, 5, 6, 7, -1, -1],
        [-1] * 10,
        list(range(10)),
        [1, 2, 3, -2, 4, 5, 6, -2, 7, 8],
    ]
    turned = [
        [1, 4, 3, 2, -2, 5, 7, 6, -1, -1],
        [-1] * 10,
        [0, *range(9, 0, -1)],
        [1, 3, 2, -2, 4, 6, 5, -2, 7, 8],
    ]
    points, turned = (
        np.array([listed(row) for row in rows], np.float32) for rows in (points, turned)
    )
    np.testing.assert_array_equal(geometry.reverse_rings(tf.constant(points)), turned)
    np.testing.assert_array_equal(geometry.reverse_rings(tf.constant(turned)), points)
    assert geometry.reverse_rings(tf.zeros([0, 20])).shape == (0, 20)


def test_sizes():
    assert geometry.height_width(3) == (3, 3)
    assert geometry.height_width((3, 4)) == (3, 4)
    for size in (0, -1, 2.5, "3", (3,), (3, 0), [3, 4]):
        with pytest.raises(ValueError, match="positive integer or"):
            geometry.height_width(size)
