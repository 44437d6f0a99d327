"""Views: what is placed op by op equals what TensorFlow makes op by op, within a bound."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pix2seq_jax.data.images import empty_pixels
from pix2seq_jax.data.ops import pixels
from pix2seq_jax.data.ops.chain import apply, read_chain
from pix2seq_jax.data.ops.pixels import LARGE, MOST_OFF, View

NOISE = np.random.default_rng(0).integers(0, 256, (150, 220, 3)).astype(np.uint8)  # the hardest
SMOOTH = np.asarray(
    tf.cast(tf.image.resize(NOISE[:15, :22], (150, 220), "bicubic") % 256, tf.uint8)
)


def op_by_op(image, size, corner, window, mirrored, antialias) -> np.ndarray:
    """The reference: f32[h,w,3] in [0,255], each op by TensorFlow over the whole picture."""
    resized = tf.image.resize(image, size, "bilinear", antialias=antialias)
    kept = resized[corner[0] : corner[0] + window[0], corner[1] : corner[1] + window[1]]
    return (tf.reverse(kept, [1]) if mirrored else kept).numpy()


def random_places(count: int, *, low: float, high: float):
    """Sizes, corners and windows of the resized NOISE."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        size = np.maximum((np.array(NOISE.shape[:2]) * rng.uniform(low, high)).astype(int), 1)
        window = np.minimum(size, [160, 200])
        corner = rng.integers(0, size - window + 1)
        yield tuple(value.astype(np.int32) for value in (size, corner, window))


@pytest.mark.parametrize("image", [NOISE, SMOOTH], ids=["noise", "smooth"])
@pytest.mark.parametrize(
    ("low", "high", "antialias"),
    [(0.2, 1, True), (1, 3, True), (1, 3, False), (0.2, 1, False), (1, 1, False), (1, 1, True)],
)
def test_a_window_differs_from_the_whole_by_at_most_two_levels(image, low, high, antialias):
    assert NOISE.shape[0] * NOISE.shape[1] >= LARGE
    for number, (size, corner, window) in enumerate(random_places(12, low=low, high=high)):
        mirrored = number % 2 == 0
        view = View(tf.constant(image)).resize(tf.constant(size), antialias=antialias)
        view = view.cut(tf.constant(corner), tf.constant(window)).mirror(tf.constant(mirrored))
        made = dataclasses.replace(view, padded=(170, 230)).pixels().numpy()
        assert made.dtype == np.uint8 and made.shape == (170, 230, 3)
        wanted = op_by_op(image, size, corner, window, mirrored, antialias)
        off = np.abs(made[: window[0], : window[1]] - wanted)
        means = antialias and high <= 1
        assert off.max() <= (MOST_OFF if means else 1)  # Pillow rounds twice
        assert off.mean() <= (0.5 if means else 0.3)  # rounding alone is 0.25
        assert not made[window[0] :].any() and not made[:, window[1] :].any()


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("image", [NOISE, NOISE[:60, :50]], ids=["large", "small"])
def test_a_window_without_padding_has_the_same_bytes(image, antialias):
    size, corner, window = (tf.constant(pair) for pair in ([70, 90], [11, 7], [50, 61]))
    view = View(tf.constant(image)).resize(size, antialias=antialias).cut(corner, window)
    view = view.mirror(tf.constant(True))
    made, padded = view.pixels(), dataclasses.replace(view, padded=(64, 64)).pixels()
    assert made.dtype == tf.uint8 and made.shape == (50, 61, 3)
    np.testing.assert_array_equal(made, padded[:50, :61])


def test_floats_are_rounded_as_numpy_rounds_them():
    """Halves to the even level, whatever the memory of the picture is like."""
    levels = np.arange(256, dtype=np.float32)
    edges = np.concatenate([levels, levels[:-1] + np.float32(0.5)]) / np.float32(255)
    beside = [np.nextafter(edges, np.float32(end)) for end in (0, 1)]
    values = np.concatenate([edges, *beside, np.random.default_rng(2).random(300_000, np.float32)])
    values = np.clip(values, 0, 1)[: len(values) // 900 * 900].reshape(-1, 300, 3)
    for image in (values, values[3:90, 5:210], values[::2]):
        wanted = np.rint(image * 255).astype(np.uint8)
        np.testing.assert_array_equal(pixels._to_bytes(image), wanted)


def test_an_axis_may_grow_while_the_other_shrinks():
    size = tf.constant([300, 100])
    view = View(tf.constant(NOISE)).resize(size, antialias=True)
    made = dataclasses.replace(view, padded=(300, 100)).pixels().numpy()
    wanted = tf.image.resize(NOISE, size, antialias=True)
    assert np.abs(made - wanted.numpy()).max() <= MOST_OFF


def test_what_keeps_its_size_keeps_its_bytes():
    view = View(tf.constant(NOISE)).resize(tf.constant(NOISE.shape[:2]), antialias=True)
    made = dataclasses.replace(view, padded=NOISE.shape[:2]).pixels()
    np.testing.assert_array_equal(made, NOISE)


def test_a_small_picture_is_exact():
    view = View(tf.constant(NOISE[:40, :40])).resize(tf.constant([33, 31]), antialias=True)
    made = dataclasses.replace(view, padded=(40, 40)).pixels().numpy()
    wanted = tf.image.resize(NOISE[:40, :40], (33, 31), antialias=True)
    np.testing.assert_array_equal(made[:33, :31], np.rint(wanted))


@pytest.mark.parametrize("antialias", [True, False])
def test_a_small_window_is_cut_out_of_the_whole(antialias):
    size, corner, window = (tf.constant(pair) for pair in ([70, 90], [11, 7], [50, 61]))
    for image in (NOISE[:60, :50], NOISE[:60, :50] / np.float32(255)):
        view = View(tf.constant(image)).resize(size, antialias=antialias).cut(corner, window)
        made = dataclasses.replace(view.mirror(tf.constant(True)), padded=(64, 64)).pixels()
        wanted = tf.image.resize(NOISE[:60, :50], size, antialias=antialias)[11:61, 7:68][:, ::-1]
        np.testing.assert_allclose(made[:50, :61], wanted, atol=0.501)


def test_pixels_are_handed_to_tensorflow_without_a_copy():
    given, got = {}, {}  # addresses by number: rows may be made ahead

    def made(number):
        pixels = empty_pixels(150, 220)
        given[int(number)] = pixels.ctypes.data
        return pixels

    def taken(number, pixels):
        got[int(number)] = pixels.ctypes.data
        return np.int64(0)

    def row(number):
        pixels = tf.numpy_function(made, [number], tf.uint8, stateful=False)
        return tf.numpy_function(taken, [number, pixels], tf.int64, stateful=False)

    assert len(list(tf.data.Dataset.range(3).map(row))) == 3
    assert given == got and len(given) == 3


def test_cuts_and_mirrors_compose_in_any_order():
    view = View(tf.constant(NOISE)).mirror(tf.constant(True))
    view = view.cut(tf.constant([3, 5]), tf.constant([100, 90])).mirror(tf.constant(True))
    view = view.cut(tf.constant([7, 2]), tf.constant([50, 40]))
    wanted = NOISE[:, ::-1][3:103, 5:95][:, ::-1][7:57, 2:42]
    np.testing.assert_array_equal(view.pixels(), wanted)
    assert view.shape.numpy().tolist() == [50, 40]


def test_a_chain_gives_what_its_ops_give_one_by_one():
    chain = read_chain(
        "decode|crop_to_box(2.0)|scale_jitter(200,1.0,2.0)|fixed_crop(160)|flip_lr|pad_image(160)"
    )
    for draw in range(8):
        example = {
            "image": tf.constant(NOISE),
            "boxes": tf.constant([[0.3, 0.3, 0.9, 0.9]]),
            "orig_size": tf.constant(NOISE.shape[:2]),
            "crop_offset": tf.zeros([2], tf.int32),
        }
        placed = apply(chain.tensor_ops, example, 3, tf.constant(draw, tf.int64))
        for number, op in enumerate(chain.tensor_ops):
            seed = tf.stack([tf.constant(3 * 2**20 + 16 * number, tf.int64), draw])
            example = op(example, seed)
        off = placed["image"].numpy().astype(int) - example["image"].numpy()
        assert np.abs(off).max() <= MOST_OFF
        for name in ("boxes", "crop_offset", "orig_size", "unpadded_size"):
            np.testing.assert_array_equal(placed[name], example[name])


def test_colours_that_change_after_resizing_to_bytes_are_near_those_of_floats():
    """At most 4 levels, 0.25 on average. But TensorFlow makes a pixel grey, about one of a million,
    whose red is largest and whose blue is above its green by one rounding of a float."""
    chain = read_chain(
        "decode|scale_jitter(200,0.5,2.0)|fixed_crop(160)|color_jitter(0.5)|pad_image(160)"
    )
    off = []
    for draw in range(40):
        made = [
            apply(
                chain.tensor_ops,
                {"image": tf.constant(image), "crop_offset": tf.zeros([2], tf.int32)},
                3,
                tf.constant(draw, tf.int64),
            )["image"].numpy()
            for image in (NOISE, NOISE.astype(np.float32) / 255)
        ]
        off.append(np.abs(made[0].astype(int) - made[1]))
    assert np.mean(off) <= 0.25 and np.mean(np.array(off) > 4) <= 3e-6


def test_a_window_larger_than_its_padding_is_refused():
    size = np.array([150, 220])
    with pytest.raises(ValueError, match="150 x 220 pixels is larger than its padding, 100 x 300"):
        pixels.window_bytes(
            NOISE,
            size,
            np.zeros(2, int),
            size,
            np.array(False),
            antialias=True,
            padded=(100, 300),
        )
