"""Which image each row of each batch reads: arithmetic on the seed, no state.

Rows are numbered through all batches by `draw`. Row `draw` is position q = draw // repeats of an
endless list of images. Each cycle of CYCLE positions is dealt out to the streams by one pattern, a
permutation seeded with `seed` that gives every stream its exact share; so the number m of the image
in its stream is a sum of counts. The epoch of the stream is e = m // N; it is a permutation of the
N images, whose key is a hash of (seed, e, number of the stream): by NumPy for small N, by
TensorFlow's index shuffle, which needs no list of all images, for large ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

CYCLE = 1000  # positions over which the shares of the streams are exact
_ROUNDS = 16  # of the index shuffle; with 4 many pairs stay together and small sets stay in order
# The index shuffle walks through at least 2^16 numbers until it meets one below N: for 20 images
# 0.2 ms for each row.
_SMALL = 512


def image_order(
    lengths: Sequence[int], weights: Sequence[float], *, seed: int, repeats: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """The function draw i64[n] -> (stream i64[n], index in its source i64[n], epoch of the stream
    i64[n]).

    Args:
        lengths: images of each stream.
        weights: of the streams, see `shares`.
        seed: 0 to 2³¹ - 1.
        repeats: rows in sequence that read the same image.

    Raises:
        ValueError: weights that are not positive.
    """
    counts, lengths = shares(weights), np.array(lengths, np.int64)
    pattern, before = _pattern(counts, seed)

    def locate(draw: np.ndarray) -> tuple[np.ndarray, ...]:
        cycle, offset = draw // repeats // CYCLE, draw // repeats % CYCLE
        stream = pattern[offset]
        number, images = cycle * counts[stream] + before[offset], lengths[stream]
        epoch, index = number // images, number % images
        distinct, which = np.unique(np.stack([epoch, stream], axis=1), axis=0, return_inverse=True)
        for permutation, (e, s) in enumerate(distinct.tolist()):
            rows = np.flatnonzero(which.reshape(-1) == permutation)
            index[rows] = shuffled(index[rows], int(lengths[s]), key(seed, e, s))
        return stream, index, epoch

    def image_of(draw: tf.Tensor) -> tuple[tf.Tensor, ...]:
        values = tf.numpy_function(locate, [draw], [tf.int64] * 3, stateful=False)
        for value in values:
            value.set_shape([draw.shape[0]])
        return tuple(values)

    return image_of


def shares(weights: Sequence[float]) -> np.ndarray:
    """Rows of each stream among CYCLE: i64[S], in proportion to the weights, at least one each.

    The largest remainders are rounded up. Raises ValueError for weights that are not positive.
    """
    if (
        not all(np.isfinite(weight) and weight > 0 for weight in weights)
        or not 0 < len(weights) <= CYCLE
    ):
        raise ValueError(
            f"stream weights {list(weights)}: give positive numbers; leave out a stream of weight 0"
        )
    exact = np.array(weights, np.float64) / sum(weights) * CYCLE
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    while counts.sum() < CYCLE:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > CYCLE:  # others were raised to one
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return counts


def _pattern(counts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stream of each position of a cycle i64[CYCLE], and how many positions before it have the same
    one i64[CYCLE]."""
    # RandomState, not default_rng: NumPy promises never to change what it draws.
    streams = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    before = np.zeros(CYCLE, np.int64)
    for stream, count in enumerate(counts):
        before[streams == stream] = np.arange(count)
    return streams, before


def key(seed: int, epoch: int, stream: int) -> np.ndarray:
    """u32[3], the key of the permutation of one epoch of one stream.

    The index shuffle reads only the low 8 to 11 bits of each word, so that numbers put there as
    they are would repeat (epoch 256 would be epoch 0) and hardly differ. SeedSequence spreads every
    bit of the three over all of them.
    """
    return np.random.SeedSequence([seed, epoch, stream]).generate_state(3, np.uint32)


def shuffled(index: np.ndarray, images: int, epoch_key: np.ndarray) -> np.ndarray:
    """What numbers i64[n] below `images` become in the permutation with this key u32[3]: i64[n]."""
    if images < _SMALL:
        return np.random.RandomState(epoch_key).permutation(images)[index]
    return tf.raw_ops.RandomIndexShuffle(
        index=index, seed=epoch_key, max_index=images - 1, rounds=_ROUNDS
    ).numpy()


def other_index(seed: int, draw: int, attempt: int, images: int) -> int:
    """The index of the image that row `draw` reads in place of one that cannot be read, at the
    attempt 1, 2, …

    A function of seed and row alone, so that a resumed run takes the same one.
    """
    return int(
        np.random.SeedSequence([seed, draw, attempt]).generate_state(1, np.uint64)[0] % images
    )
