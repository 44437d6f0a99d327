"""Coordinates under cropping, flipping and padding. Point lists are f32[n,2k]: y, x, y, x, ... normalised to the image.

A box is a list of two points. Points below zero are reserved words of a list (padding, separator, invisible; see vocab)
and pass through unchanged.
"""

import tensorflow as tf

from pix2seq_jax.vocab import POINT_INVISIBLE

POINT_FIELDS = ("boxes", "polygons", "keypoints")
OBJECT_FIELDS = (*POINT_FIELDS, "labels", "area", "is_crowd", "scores")  # first axis: the objects


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size given as one number or as (height, width), in pixels. Raises ValueError where it is neither."""
    pair = (size, size) if isinstance(size, int) else size
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)):
        raise ValueError(f"image size {size!r}: give a positive integer or (height, width)")
    return pair


def _per_point(points: tf.Tensor, pair: tf.Tensor) -> tf.Tensor:
    """(y, x) f32[2] repeated along the last axis of points: f32[2k]."""
    return tf.tile(pair, [points.shape[-1] // 2])


def _reserved(points: tf.Tensor) -> tf.Tensor:
    return points < 0.0


def scale(field: str, points: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies coordinates by (y, x) factors f32[2]; padding an image makes its points smaller."""
    scaled = points * _per_point(points, factor)
    return scaled if field == "boxes" else tf.where(_reserved(points), points, scaled)


def crop(field: str, points: tf.Tensor, offset: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Coordinates in a window of the image, as the release does it.

    Args:
        field: "boxes" and "polygons" are clipped to the window, "keypoints" on or over its border become invisible.
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


def flip_lr(field: str, points: tf.Tensor) -> tf.Tensor:
    """Mirrors x. In "keypoints" the 17 COCO joints change sides too: after the nose come (left, right) pairs."""
    if field == "boxes":
        ymin, xmin, ymax, xmax = tf.unstack(points, axis=1)
        return tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], axis=1)
    pairs = tf.reshape(points, [-1, points.shape[-1] // 2, 2])
    mirrored = tf.stack([pairs[..., 0], 1.0 - pairs[..., 1]], axis=-1)
    mirrored = tf.where(_reserved(pairs), pairs, mirrored)
    if field == "keypoints":
        joints = pairs.shape[1]
        swapped = [0, *(j + 1 if j % 2 else j - 1 for j in range(1, joints))]
        mirrored = tf.gather(mirrored, swapped, axis=1)
    return tf.reshape(mirrored, tf.shape(points))
