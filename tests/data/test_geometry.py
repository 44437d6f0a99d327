"""Coordinates under crop, flip and padding, against the arrays recorded from the release."""

import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.data import geometry

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
    cropped = geometry.crop(RECORDED[name][0], tf.constant(recorded_input(ops_golden, name)), offset, factor)
    np.testing.assert_allclose(cropped, ops_golden[f"crop/{name}"], atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_flip_equals_the_release(ops_golden, name):
    points = recorded_input(ops_golden, name)
    flipped = geometry.flip_lr(RECORDED[name][0], tf.constant(points)).numpy()
    reserved = points < 0  # the release mirrors these too and restores them in another op
    np.testing.assert_allclose(flipped[~reserved], ops_golden[f"flip/{name}"][~reserved], atol=1e-5)
    np.testing.assert_array_equal(flipped[reserved], points[reserved])


@pytest.mark.parametrize("field", geometry.POINT_FIELDS)
def test_flipping_twice_gives_back_the_points(ops_golden, field):
    points = tf.constant(ops_golden["crop/keypoints_in"])[:, : 4 if field == "boxes" else 34]
    np.testing.assert_allclose(geometry.flip_lr(field, geometry.flip_lr(field, points)), points, atol=1e-6)


def test_reserved_points_pass_through_every_change():
    points = tf.constant([[0.5, 0.5, -1.0, -1.0, -2.0, -2.0, -3.0, -3.0]])
    half = tf.constant([0.5, 0.5])
    for field in ("polygons", "keypoints"):
        for changed in (geometry.scale(field, points, half), geometry.crop(field, points, half / 2, 2 * half)):
            np.testing.assert_array_equal(changed[0, 2:], points[0, 2:])
    np.testing.assert_array_equal(geometry.scale("polygons", points, half)[0, :2], [0.25, 0.25])


@pytest.mark.parametrize("field", geometry.POINT_FIELDS)
def test_no_objects(field):
    points, pair = tf.zeros([0, 4 if field == "boxes" else 34]), tf.constant([0.5, 0.5])
    for changed in (geometry.scale(field, points, pair), geometry.crop(field, points, pair, pair)):
        assert changed.shape == points.shape
    assert geometry.flip_lr(field, points).shape == points.shape


def test_sizes():
    assert geometry.height_width(3) == (3, 3)
    assert geometry.height_width((3, 4)) == (3, 4)
    for size in (0, -1, 2.5, "3", (3,), (3, 0), [3, 4]):
        with pytest.raises(ValueError, match="positive integer or"):
            geometry.height_width(size)
