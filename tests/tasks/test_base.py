"""What tasks share: the way to original pixels, and points as tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.tasks import base
from pix2seq_jax.vocab import FAKE, INVISIBLE, PADDING, SEPARATOR, Vocab

VOCAB = Vocab(size=3000)
EXAMPLE = {
    "image": jnp.zeros((2, 64, 128, 3)),
    "unpadded_size": jnp.array([[64, 48], [32, 64]]),
    "orig_size": jnp.array([[640, 480], [100, 200]]),
}
POINTS = jnp.array([[[0.0, 0.0], [0.5, 0.1875], [1.0, 0.375], [1.0, 1.0]]] * 2)
PIXELS = np.array(
    [
        [
            [0, 0],
            [320, 240],
            [640, 480],
            [640, 480],
        ],  # the padding right of the image is clipped away
        [[0, 0], [100, 75], [100, 150], [100, 200]],
    ],
    np.float32,
)


def test_points_are_scaled_per_image_and_clipped():
    np.testing.assert_allclose(base.to_original(POINTS, EXAMPLE), PIXELS, rtol=1e-6)
    nested = base.to_original(POINTS.reshape(2, 2, 2, 2), EXAMPLE)
    np.testing.assert_allclose(nested.reshape(2, 4, 2), PIXELS, rtol=1e-6)


def test_the_corner_of_a_window_is_added_after_clipping_to_it():
    whole = base.to_original(POINTS, EXAMPLE | {"crop_offset": jnp.zeros((2, 2), jnp.int32)})
    np.testing.assert_array_equal(whole, base.to_original(POINTS, EXAMPLE))
    cut = base.to_original(POINTS, EXAMPLE | {"crop_offset": jnp.array([[0, 0], [30, 7]])})
    np.testing.assert_allclose(cut, PIXELS + np.array([[[0, 0]], [[30, 7]]]), rtol=1e-6)


def test_boxes_go_the_same_way():
    boxes = base.boxes_to_original(EXAMPLE | {"boxes": POINTS.reshape(2, 2, 4)})
    np.testing.assert_allclose(boxes, PIXELS.reshape(2, 2, 4), rtol=1e-6)


def test_reserved_floats_have_tokens_of_their_own():
    tokens = base.point_tokens(VOCAB, jnp.array([0.0, 1.0, -1.0, -2.0, -3.0, -1e-6, 1.2]))
    assert tokens.tolist() == [1000, 1999, PADDING, SEPARATOR, INVISIBLE, 1000, 1999]
    assert tokens.dtype == jnp.int32


def test_reading_tokens_that_are_no_proper_list():
    def read(*tokens):
        return np.asarray(base.read_points(VOCAB, jnp.array(tokens)))

    np.testing.assert_array_equal(read(1000, 1999, SEPARATOR, SEPARATOR), [0, 1, -2, -2])
    for lone in ((SEPARATOR, 1500), (1500, SEPARATOR), (SEPARATOR, INVISIBLE)):
        np.testing.assert_array_equal(read(1000, 1999, *lone, 1999, 1000), [0, 1, -2, -2, 1, 0])
    for end in ((PADDING, PADDING), (PADDING, 1500), (1500, PADDING), (SEPARATOR, PADDING)):
        np.testing.assert_array_equal(read(1000, 1999, *end, 1999, 1000), [0, 1, -1, -1, -1, -1])
    for odd in ((INVISIBLE, INVISIBLE), (1500, 120), (FAKE, 1500), (2000, 999), (11, -5)):
        np.testing.assert_array_equal(read(1000, 1999, *odd, 1999, 1000), [0, 1, -3, -3, 1, 0])
    np.testing.assert_array_equal(read(1000, 1999, 1000), [0, 1])  # a y without its x
    assert read(1000).shape == (0,)


def test_any_tokens_give_pairs_that_are_points_or_reserved():
    tokens = jax.random.randint(jax.random.key(0), (5, 3, 400), -10, VOCAB.size + 10)
    pairs = np.asarray(base.read_points(VOCAB, tokens)).reshape(5, 3, 200, 2)
    reserved = np.isin(pairs, (-1, -2, -3))
    assert (reserved[..., 0] == reserved[..., 1]).all()
    assert (pairs[..., 0] == pairs[..., 1])[reserved[..., 0]].all()
    assert ((pairs >= 0) & (pairs <= 1) | reserved).all()


def test_objects_are_padded_or_refused():
    example = {"boxes": jnp.ones((2, 3, 4)), "labels": jnp.ones((2, 3), jnp.int32)}
    boxes, labels = base.pad_objects(example, ("boxes", "labels"), 5, "segmentation")
    np.testing.assert_array_equal(labels, [[1, 1, 1, 0, 0]] * 2)
    assert boxes.shape == (2, 5, 4) and (boxes[:, 3:] == 0).all()
    with pytest.raises(
        ValueError, match=r"3 objects per image but segmentation.max_instances=2; raise it, or give"
    ):
        base.pad_objects(example, ("boxes",), 2, "segmentation")


def test_samples_of_another_shape_are_refused():
    tokens, labels = jnp.zeros((2, 3, 4, 6)), jnp.zeros((2, 3))
    base.check_samples(tokens, tokens, labels)
    for bad in (
        (tokens[:, 0], tokens[:, 0], labels),
        (tokens, tokens[..., 0], labels),
        (tokens, tokens, labels[:, :2]),
    ):
        with pytest.raises(ValueError, match=r"give the tokens and likelihoods \[B,N,K,T\]"):
            base.check_samples(*bad)
    with pytest.raises(ValueError, match=r"tokens\[2, 3, 0, 6\]"):
        base.check_samples(tokens[:, :, :0], tokens[:, :, :0], labels)
