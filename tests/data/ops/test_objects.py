"""Object ops."""

import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.data.ops.objects import FilterObjects, NoiseBoxes, Order, PadObjects, Truncate
from pix2seq_jax.vocab import NOISE_LABEL

BOXES = np.array(
    [[0.5, 0.5, 0.6, 0.6], [0.1, 0.1, 0.9, 0.4], [0.3, 0.0, 0.5, 0.9], [0, 0.9, 0.5, 0.9]],
    np.float32,
)


def seed(number: int) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


def example(boxes: np.ndarray = BOXES) -> dict:
    n = len(boxes)
    return {
        "boxes": tf.constant(boxes, tf.float32, [n, 4]),
        "labels": tf.constant([3, 1, 2, 1][:n], tf.int32, [n]),
        "area": tf.constant([10.0, 20.0, 30.0, 40.0][:n], tf.float32, [n]),
        "is_crowd": tf.constant([False, True, False, False][:n], tf.bool, [n]),
        "scores": tf.constant([0.1, 0.9, 0.5, 0.7][:n], tf.float32, [n]),
    }


def areas(done: dict) -> list:
    """Names the objects."""
    return done["area"].numpy().tolist()


def test_filter_drops_boxes_without_area_and_crowds():
    assert areas(FilterObjects()(example(), seed(0))) == [10, 30]
    assert areas(FilterObjects(drop_crowd=False)(example(), seed(0))) == [10, 20, 30]


def test_filter_counts_the_keypoints_that_are_left():
    points = tf.constant([[0.1, 0.1, -3, -3], [0.1, 0.1, 0, 0], [-3, -3, -3, -3], [0.0, 1, 1, 0]])
    done = FilterObjects(drop_crowd=False, min_keypoints=2)(
        example() | {"keypoints": points}, seed(0)
    )
    assert areas(done) == [20]  # the last has no area
    assert areas(FilterObjects(min_keypoints=1)(example() | {"keypoints": points}, seed(0))) == [10]
    with pytest.raises(ValueError, match=r"min_keypoints=1\): these data have no keypoints"):
        FilterObjects(min_keypoints=1)(example(), seed(0))


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("area", [20, 30, 10, 40]),
        ("dist2ori", [20, 30, 10, 40]),
        ("class", [20, 40, 30, 10]),
        ("scores", [20, 40, 30, 10]),
    ],
)
def test_order(by, expected):
    done = Order(by)(example(), seed(0))
    assert areas(done) == expected
    np.testing.assert_array_equal(done["boxes"], BOXES[[int(area) // 10 - 1 for area in expected]])


def test_random_order_reaches_every_permutation():
    orders = [tuple(areas(Order()(example(), seed(i)))) for i in range(300)]
    assert len(set(orders)) == 24
    assert areas(Order()(example(), seed(5))) == list(orders[5])


def test_unknown_order_is_named():
    with pytest.raises(ValueError, match=r"order\('size'\): give random, area"):
        Order("size")


def test_truncate_and_pad():
    assert areas(Truncate(2)(example(), seed(0))) == [10, 20]
    assert areas(Truncate(9)(example(), seed(0))) == [10, 20, 30, 40]
    assert areas(PadObjects(3)(example(), seed(0))) == [10, 20, 30]
    done = PadObjects(6)(example(), seed(0))
    assert areas(done) == [10, 20, 30, 40, 0, 0]
    np.testing.assert_array_equal(done["labels"], [3, 1, 2, 1, 0, 0])
    assert done["boxes"].shape == (6, 4)


def noise(boxes: np.ndarray, count: int, number: int) -> np.ndarray:
    """The noise boxes alone, after checks that hold always."""
    done = NoiseBoxes(len(boxes) + count)(example(boxes), seed(number))
    n = len(boxes)
    np.testing.assert_array_equal(done["boxes"][:n], boxes)
    np.testing.assert_array_equal(done["labels"][n:], np.full(count, NOISE_LABEL))
    assert all(len(value) == n + count for value in done.values())
    assert areas(done)[n:] == [0] * count
    added = done["boxes"][n:].numpy()
    assert added.min() >= 0 and added.max() <= 1
    assert (added[:, 2:] >= added[:, :2]).all()
    return added


def test_noise_of_an_image_without_objects_is_random_boxes():
    boxes = np.concatenate([noise(np.zeros((0, 4), np.float32), 100, i) for i in range(20)])
    inside = boxes[(boxes > 0).all(1) & (boxes < 1).all(1)]
    assert 0.2 < len(inside) / len(boxes) < 0.5
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert (
        0.2 < sizes.mean() < 0.36
    )  # |truncated normal(0, ½)| has mean 0.36 before it is cut to the image


def is_twin(boxes: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Whether each box differs from one real box by at most two σ = 0.1 of its size."""
    size = np.tile(real[:, 2:] - real[:, :2], 2)
    near = np.abs(boxes[:, None] - np.clip(real, 0, 1)) <= 0.1 * size + 1e-6
    return near.all(-1).any(-1)


def test_noise_is_a_mix_of_twins_moved_and_random_boxes():
    real = BOXES[:3]
    size = real[:, 2:] - real[:, :2]
    twins, moved, places = [], [], []
    for i in range(200):
        boxes = noise(real, 40, i)
        twin = is_twin(boxes, real)
        twins.append(twin.mean())
        rest = boxes[~twin & (boxes > 0).all(1) & (boxes < 1).all(1)]
        same = np.abs((rest[:, 2:] - rest[:, :2])[:, None] - size).max(-1).min(-1) < 1e-5
        moved.append(same.mean() if len(rest) else np.nan)
        places.append(np.flatnonzero(twin).mean() if twin.any() else np.nan)
    share = np.array(twins)
    assert 0.45 < share.mean() < 0.55  # uniform between none and all
    assert share.min() < 0.05
    assert share.max() > 0.95
    assert 0.25 < share.std() < 0.33  # a uniform number has 0.29
    assert 0.35 < np.nanmean(moved) < 0.75  # half of the bad boxes; of those inside the image more
    assert 18 < np.nanmean(places) < 21  # shuffled: twins lie anywhere


def test_twins_have_the_spread_of_the_release():
    real = np.array([[0.3, 0.2, 0.7, 0.6]], np.float32)
    boxes = np.concatenate([noise(real, 100, i) for i in range(30)])
    moves = (boxes[is_twin(boxes, real)] - real) / 0.4
    # A normal of σ = 0.05 cut at two σ has standard deviation 0.88 σ.
    np.testing.assert_allclose(moves.std(0), 0.05 * 0.88, rtol=0.06)
    np.testing.assert_allclose(moves.mean(0), 0, atol=0.005)


def test_no_noise_where_objects_fill_the_slots():
    for n in (4, 3, 1):
        done = NoiseBoxes(n)(example(), seed(0))
        np.testing.assert_array_equal(done["boxes"], BOXES)
        np.testing.assert_array_equal(done["labels"], [3, 1, 2, 1])


def test_noise_depends_on_the_seed_only():
    np.testing.assert_array_equal(noise(BOXES[:3], 10, 1), noise(BOXES[:3], 10, 1))
    assert (noise(BOXES[:3], 10, 1) != noise(BOXES[:3], 10, 2)).any()
