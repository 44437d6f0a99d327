"""Image ops: the evaluation transform against the release, the others by their properties."""

import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.data.ops import image as ops_image
from pix2seq_jax.data.ops import objects as ops_objects
from pix2seq_jax.tasks import base

GRADIENT = np.stack(
    np.broadcast_arrays(np.arange(30)[:, None] * 8, np.arange(40) * 6, 9), axis=-1
).astype(np.uint8)


def seed(number: int) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


def example(image: np.ndarray, boxes=((0.2, 0.1, 0.6, 0.5),)) -> dict:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return {
        "image": tf.constant(image),
        "boxes": tf.constant(boxes),
        "labels": tf.range(1, len(boxes) + 1),
        "crop_offset": tf.zeros([2], tf.int32),
    }


def on_device(done: dict) -> np.ndarray:
    """f32[h,w,3], the image as the model gets it."""
    batch = {name: done[name].numpy()[None] for name in base.PICTURE_FIELDS}
    return np.asarray(base.images(batch)[0])


@pytest.mark.parametrize("i", range(4))
def test_evaluation_transform_equals_the_release(ops_golden, i):
    golden = {
        name.split("/")[2]: value
        for name, value in ops_golden.items()
        if name.startswith(f"eval/{i}/")
    }
    done = example(golden["image_in"].astype(np.float32), golden["bbox_in"])
    for op in (
        ops_image.Resize(64, antialias=True),
        ops_image.PadImage(64),
        ops_objects.PadObjects(6),
    ):
        done = op(done, seed(0))
    assert done["image"].dtype == tf.uint8
    np.testing.assert_allclose(on_device(done), golden["image"], atol=2e-3)
    np.testing.assert_allclose(done["boxes"], golden["bbox"], atol=1e-5)
    np.testing.assert_array_equal(done["labels"], golden["label"])
    np.testing.assert_array_equal(done["unpadded_size"], golden["unpadded_image_size"])
    assert done["image"].shape == (64, 64, 3)


def test_bytes_and_floats_give_the_same_image():
    for op in (ops_image.Resize(16, antialias=True), ops_image.Resize((50, 16))):
        as_bytes = op(example(GRADIENT), seed(0))["image"]
        as_floats = op(example(GRADIENT.astype(np.float32) / 255), seed(0))["image"]
        assert (as_bytes.dtype, as_floats.dtype) == (tf.uint8, tf.float32)
        np.testing.assert_allclose(as_bytes, as_floats * 255, atol=0.501)  # rounding is a half


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_is_that_of_tensorflow(antialias):
    image = example(GRADIENT.astype(np.float32) / 255)
    done = ops_image.Resize((20, 20), antialias=antialias)(image, seed(0))["image"]
    np.testing.assert_allclose(
        done * 255, tf.image.resize(GRADIENT, (15, 20), antialias=antialias), atol=1e-3
    )


@pytest.mark.parametrize(
    ("size", "shape"),
    [(64, (48, 64)), ((64, 20), (15, 20)), ((6, 400), (6, 8)), ((300, 1), (1, 1))],
)
def test_resize_fits_the_box_and_keeps_the_aspect(size, shape):
    assert ops_image.Resize(size)(example(GRADIENT), seed(0))["image"].shape == (*shape, 3)


def test_scale_jitter_covers_its_range():
    op = ops_image.ScaleJitter((60, 60), 0.5, 2.0)
    widths = [op(example(GRADIENT), seed(i))["image"].shape[1] for i in range(100)]
    assert 30 <= min(widths) < 40
    assert 110 < max(widths) < 120
    assert ops_image.ScaleJitter(1, 0.1, 0.2)(example(GRADIENT), seed(0))["image"].shape == (
        1,
        1,
        3,
    )


def test_crop_draws_the_two_offsets_independently():
    op = ops_image.FixedCrop((28, 30))
    offsets = np.array([op(example(GRADIENT), seed(i))["crop_offset"] for i in range(300)])
    assert set(offsets[:, 0]) == {0, 1, 2}
    assert set(offsets[:, 1]) == set(range(11))
    assert len({tuple(offset) for offset in offsets}) == 33


def test_crop_moves_image_and_boxes_together():
    for i in range(5):
        done = ops_image.FixedCrop(24)(example(GRADIENT), seed(i))
        y, x = done["crop_offset"].numpy()
        np.testing.assert_array_equal(done["image"], GRADIENT[y : y + 24, x : x + 24])
        corners = (np.array([6, 4, 18, 20]) - [y, x, y, x]) / 24
        np.testing.assert_allclose(done["boxes"][0], np.clip(corners, 0, 1), atol=1e-6)


def test_crops_add_up():
    done = ops_image.FixedCrop(20)(ops_image.FixedCrop(25)(example(GRADIENT), seed(1)), seed(2))
    y, x = done["crop_offset"].numpy()
    np.testing.assert_array_equal(done["image"], GRADIENT[y : y + 20, x : x + 20])


def test_crop_larger_than_the_image_changes_nothing():
    done = ops_image.FixedCrop(50)(example(GRADIENT), seed(0))
    np.testing.assert_array_equal(done["image"], GRADIENT)
    np.testing.assert_allclose(done["boxes"][0], [0.2, 0.1, 0.6, 0.5], atol=1e-6)


def test_flip_mirrors_half_of_the_images():
    flipped = 0
    for i in range(100):
        done = ops_image.FlipLr()(example(GRADIENT), seed(i))
        if (done["image"].numpy() == GRADIENT).all():
            np.testing.assert_allclose(done["boxes"][0], [0.2, 0.1, 0.6, 0.5])
        else:
            flipped += 1
            np.testing.assert_array_equal(done["image"], GRADIENT[:, ::-1])
            np.testing.assert_allclose(done["boxes"][0], [0.2, 0.5, 0.6, 0.9])
    assert 35 <= flipped <= 65


def flips(more: dict) -> list[dict]:
    """20 times the example with these fields, those that were mirrored."""
    rows = [ops_image.FlipLr()(example(GRADIENT) | more, seed(i)) for i in range(20)]
    return [row for row in rows if (row["image"].numpy() != GRADIENT).any()]


def test_flip_exchanges_keypoints_and_keeps_polygons_clockwise():
    more = {
        "keypoints": tf.constant([[0.1, 0.2, 0.3, 0.4]]),
        "keypoint_swap": tf.constant([1, 0]),
        "polygons": tf.constant([[0.1, 0.1, 0.1, 0.4, 0.3, 0.4, 0.3, 0.1, -1, -1]]),
    }
    rows = flips(more)
    assert len(rows) > 3
    np.testing.assert_allclose(rows[0]["keypoints"], [[0.3, 0.6, 0.1, 0.8]])
    np.testing.assert_allclose(
        rows[0]["polygons"], [[0.1, 0.9, 0.3, 0.9, 0.3, 0.6, 0.1, 0.6, -1, -1]]
    )


def test_images_whose_keypoints_have_no_sides_are_not_mirrored():
    assert not flips({"keypoints": tf.zeros([1, 4]), "keypoint_swap": tf.constant([-1, -1])})


def test_colour_jitter_changes_most_images_and_keeps_the_range():
    op = ops_image.ColorJitter(0.5)
    images = [op(example(GRADIENT), seed(i))["image"].numpy() for i in range(60)]
    assert all(
        image.min() >= 0 and image.max() <= 1 and image.dtype == np.float32 for image in images
    )
    same = sum(np.allclose(image, GRADIENT / np.float32(255), atol=1e-6) for image in images)
    gray = sum(np.ptp(image, axis=-1).max() < 1e-5 for image in images)
    assert 3 <= same <= 20  # 16 %
    assert 4 <= gray <= 24  # 20 %
    assert len({image.tobytes() for image in images}) >= 60 - same - gray


def test_padding_is_on_the_right_and_below():
    done = ops_image.PadImage((32, 50))(example(GRADIENT), seed(0))
    image = on_device(done)
    np.testing.assert_allclose(image[:30, :40], GRADIENT / np.float32(255), atol=1e-6)
    assert (image[30:] == np.float32(0.3)).all()
    assert (image[:, 40:] == np.float32(0.3)).all()
    np.testing.assert_allclose(
        done["boxes"][0], [0.2 * 30 / 32, 0.1 * 40 / 50, 0.6 * 30 / 32, 0.5 * 40 / 50], atol=1e-6
    )
    np.testing.assert_array_equal(done["unpadded_size"], [30, 40])


def test_random_ops_depend_on_the_seed_only():
    for op in (ops_image.ScaleJitter(40), ops_image.FixedCrop(20), ops_image.ColorJitter(1.0)):
        one, same = (op(example(GRADIENT), seed(3))["image"].numpy() for _ in range(2))
        np.testing.assert_array_equal(one, same)
        other = op(example(GRADIENT), seed(4))["image"].numpy()
        assert one.shape != other.shape or (one != other).any()
