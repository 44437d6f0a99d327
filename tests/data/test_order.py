"""The order of images: permutations that look random for every size, seed and epoch."""

import itertools
import math

import numpy as np
import pytest

from pix2seq_jax.data import order

SIZES = (1, 2, 3, 5, 20, 64, 1000, 4097)


def permutation(images: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """i64[images], the images of an epoch in their order."""
    return order.shuffled(np.arange(images), images, order.key(seed, epoch, stream))


def epochs(images: int, count: int, seed: int = 0) -> np.ndarray:
    """i64[count,images], the first epochs of a seed."""
    return np.stack([permutation(images, seed, epoch) for epoch in range(count)])


@pytest.mark.parametrize("images", SIZES)
def test_every_epoch_is_a_permutation(images):
    for row in epochs(images, 5, seed=2**31 - 1):
        np.testing.assert_array_equal(np.sort(row), np.arange(images))


@pytest.mark.parametrize("images", [2, 3, 5, 20, 64, 1000])
def test_images_stay_at_their_place_as_often_as_by_chance(images):
    """The number of fixed points of a random permutation has mean 1 and variance 1."""
    count = 400
    fixed = (epochs(images, count) == np.arange(images)).sum() / count
    assert abs(fixed - 1) < 5 / math.sqrt(count), fixed


@pytest.mark.parametrize("images", [2, 3, 5, 20, 64])
def test_every_image_comes_first_equally_often(images):
    count = 400
    seen = np.bincount(epochs(images, count)[:, 0], minlength=images)
    chi_square = ((seen - count / images) ** 2 / (count / images)).sum()
    freedom = images - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 5, seen


@pytest.mark.parametrize(("images", "count"), [(20, 10_000), (1000, 1000), (118_287, 1000)])
def test_thousands_of_epochs_differ(images, count):
    """Their first 20 images do already. The keys of the index shuffle have 24 bits for small sets,
    and would repeat."""
    first = np.arange(20)
    seen = {
        order.shuffled(first, images, order.key(0, epoch, 0)).tobytes() for epoch in range(count)
    }
    assert len(seen) == count


@pytest.mark.parametrize("images", [20, 1000, 118_287])
def test_numbers_far_apart_do_not_repeat(images):
    """Of the seed, the epoch and the stream every bit counts: they were cut to 8 to 11 bits."""
    one = permutation(images, 3, 4, 0)
    for power in range(6, 31):
        assert (one != permutation(images, 3 + 2**power, 4, 0)).any(), power
        assert (one != permutation(images, 3, 4 + 2**power, 0)).any(), power
    assert (one != permutation(images, 4, 3, 0)).any() and (
        one != permutation(images, 3, 4, 1)
    ).any()


@pytest.mark.parametrize(("images", "batch"), [(1000, 10), (118_287, 128), (1_700_000, 256)])
def test_images_of_one_batch_meet_again_as_often_as_by_chance(images, batch):
    """Of the pairs of images that share a batch in one epoch, how many share one in the next."""
    batches = images // batch
    first, second = permutation(images, 0, 0), permutation(images, 0, 1)
    place = np.empty(images, np.int64)
    place[second] = np.arange(images) // batch
    rows = np.sort(place[first[: batches * batch]].reshape(batches, batch), axis=1)
    # Pairs in a row with the same number: of sorted rows those at distance d, for each d.
    pairs = sum(int((rows[:, d:] == rows[:, :-d]).sum()) for d in range(1, 6))
    expected = batches * batch * (batch - 1) / 2 * (batch - 1) / (images - 1)
    assert abs(pairs - expected) < 5 * math.sqrt(expected), (pairs, expected)


def test_neighbours_of_one_epoch_are_none_in_the_next():
    rows = epochs(1000, 50)
    neighbours = [set(itertools.pairwise(row)) for row in rows.tolist()]
    both = [len(one & other) for one, other in itertools.pairwise(neighbours)]
    assert 0.3 < np.mean(both) < 1.9  # by chance 1


def test_the_order_is_pinned():
    """Another NumPy or TensorFlow must not change it: resumed runs would repeat and skip images."""
    assert order.key(7, 11, 2).tolist() == [3562193848, 3224792649, 737462529]
    assert permutation(10, 0, 0).tolist() == [5, 4, 9, 0, 6, 7, 1, 3, 8, 2]
    assert permutation(600, 1, 2)[:4].tolist() == [511, 161, 199, 250]
    assert permutation(1_700_000, 5, 9)[:5].tolist() == [833920, 378566, 1280446, 1086379, 1053334]


def test_another_image_is_a_function_of_row_and_attempt():
    drawn = [order.other_index(3, draw, attempt, 50) for draw in range(200) for attempt in (1, 2)]
    assert drawn == [
        order.other_index(3, draw, attempt, 50) for draw in range(200) for attempt in (1, 2)
    ]
    assert set(drawn) == set(range(50))
