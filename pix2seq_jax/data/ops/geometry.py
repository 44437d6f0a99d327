"""Coordinates under cropping, flipping and padding. Point lists are f32[n,2k]: y, x, y, x, ...
normalised to the image.

A box is a list of two points. Points below zero are reserved words of a list (padding, separator,
invisible; see vocab) and pass through unchanged.
"""

import tensorflow as tf

from pix2seq_jax.vocab import POINT_INVISIBLE


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size in pixels, one number or (height, width), as the latter. Raises ValueError where it is
    neither."""
    pair = (size, size) if isinstance(size, int) else size
    if not (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(isinstance(n, int) and n > 0 for n in pair)
    ):
        raise ValueError(f"image size {size!r}: give a positive integer or (height, width)")
    return pair


def _per_point(points: tf.Tensor, pair: tf.Tensor) -> tf.Tensor:
    """(y, x) f32[2] repeated along the last axis of points: f32[2k]."""
    return tf.tile(pair, [points.shape[-1] // 2])


def _reserved(points: tf.Tensor) -> tf.Tensor:
    return points < 0.0


def scale(field: str, points: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies coordinates by (y, x) factors f32[2]; padding an image makes its points
    smaller."""
    scaled = points * _per_point(points, factor)
    return scaled if field == "boxes" else tf.where(_reserved(points), points, scaled)


def crop(field: str, points: tf.Tensor, offset: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Coordinates in a window of the image, as the release does it.

    Args:
        field: "boxes" and "polygons" are clipped to the window, "keypoints" on or over its border
            become invisible.
        points: f32[n,2k].
        offset: f32[2], corner (y, x) of the window, normalised to the image.
        factor: f32[2], size of the image divided by that of the window.

    Returns:
        f32[n,2k], normalised to the window.
    """
    moved = (points - _per_point(points, offset)) * _per_point(points, factor)
    if field == "boxes":
        return tf.clip_by_value(moved, 0.0, 1.0)
    if field == "polygons":
        return tf.where(_reserved(points), points, tf.clip_by_value(moved, 0.0, 1.0))
    pairs = tf.reshape(moved, [-1, points.shape[-1] // 2, 2])
    outside = tf.reduce_any((pairs >= 1.0) | (pairs <= 0.0), axis=-1, keepdims=True)  # [n,k,1]
    seen = tf.reshape(tf.where(outside, POINT_INVISIBLE, pairs), tf.shape(points))
    return tf.where(_reserved(points), points, seen)


def flip_lr(field: str, points: tf.Tensor, swap: tf.Tensor | None = None) -> tf.Tensor:
    """Mirrors x. In "keypoints", number j becomes number `swap[j]`, i32[k]: left and right change
    sides.

    A polygon keeps its order of points, and so runs the other way round; see `reverse_rings`.
    """
    if field == "boxes":
        ymin, xmin, ymax, xmax = tf.unstack(points, axis=1)
        return tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], axis=1)
    pairs = tf.reshape(points, [-1, points.shape[-1] // 2, 2])
    mirrored = tf.stack([pairs[..., 0], 1.0 - pairs[..., 1]], axis=-1)
    mirrored = tf.where(_reserved(pairs), pairs, mirrored)
    if field == "keypoints":
        mirrored = tf.gather(mirrored, swap, axis=1)
    return tf.reshape(mirrored, tf.shape(points))


def reverse_rings(polygons: tf.Tensor) -> tf.Tensor:
    """Every polygon of f32[n,2k] the other way round from the same first point; separators and
    padding stay."""
    pairs = tf.reshape(polygons, [-1, polygons.shape[-1] // 2, 2])
    count, length = tf.shape(pairs)[0], pairs.shape[1]
    position = tf.range(length)
    word = _reserved(pairs[..., 0])  # [n,k]
    # A ring has the number of words before it; the numbers of one object follow those of the one
    # before.
    ring = tf.cumsum(tf.cast(word, tf.int32), axis=1) + tf.range(count)[:, None] * (length + 1)
    rings = count * (length + 1)
    first = tf.gather(
        tf.math.unsorted_segment_min(tf.where(word, length, position), ring, rings), ring
    )
    last = tf.gather(tf.math.unsorted_segment_max(tf.where(word, -1, position), ring, rings), ring)
    source = tf.where(word | (position == first), position, first + last + 1 - position)
    return tf.reshape(tf.gather(pairs, source, batch_dims=1), tf.shape(polygons))
