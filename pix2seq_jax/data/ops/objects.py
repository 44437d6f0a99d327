"""Ops on the objects of an image."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from pix2seq_jax.data.ops.base import Example, Op, derive
from pix2seq_jax.data.source import OBJECT_FIELDS
from pix2seq_jax.vocab import NOISE_LABEL


def _fields(example: Example) -> list[str]:
    return [field for field in OBJECT_FIELDS if field in example]


def _gather(example: Example, rows: tf.Tensor) -> Example:
    return {**example, **{field: tf.gather(example[field], rows) for field in _fields(example)}}


@dataclass(frozen=True)
class FilterObjects(Op):
    """Drops objects whose box has no area (left by a crop), by default crowd regions, and those
    with fewer than `min_keypoints` labelled keypoints in the image."""

    drop_crowd: bool = True
    min_keypoints: int = 0

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        boxes = example["boxes"]
        keep = tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1)
        if self.drop_crowd:
            keep &= ~example["is_crowd"]
        if self.min_keypoints:
            if "keypoints" not in example:
                raise ValueError(
                    f"filter_objects(min_keypoints={self.min_keypoints}): these data have no "
                    "keypoints; open them with keypoints, or leave min_keypoints out"
                )
            seen = tf.cast(example["keypoints"][:, ::2] >= 0.0, tf.int32)
            keep &= tf.reduce_sum(seen, axis=1) >= self.min_keypoints
        return _gather(example, tf.where(keep)[:, 0])


@dataclass(frozen=True)
class Order(Op):
    """Order of the objects in the sequence: random; area (largest first); dist2ori (distance of the
    upper left corner from that of the image, nearest first); class (by label); scores (highest
    first). Ties keep their order."""

    by: str = "random"

    def __post_init__(self) -> None:
        if self.by not in ("random", "area", "dist2ori", "class", "scores"):
            raise ValueError(f"order({self.by!r}): give random, area, dist2ori, class or scores")

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        boxes = example["boxes"]
        if self.by == "random":
            key = tf.random.stateless_uniform(tf.shape(boxes)[:1], seed)
        elif self.by == "area":
            key = -tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        elif self.by == "dist2ori":
            key = tf.reduce_sum(boxes[:, :2] ** 2, axis=1)
        elif self.by == "class":
            key = example["labels"]
        else:
            key = -example["scores"]
        return _gather(example, tf.argsort(key, stable=True))


@dataclass(frozen=True)
class Truncate(Op):
    """Keeps the first `n` objects."""

    n: int

    @property
    def slots(self) -> int:
        return self.n

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        return {**example, **{field: example[field][: self.n] for field in _fields(example)}}


def _grow(value: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Appends rows of zeros."""
    return tf.pad(value, [[0, rows]] + [[0, 0]] * (value.shape.rank - 1))


@dataclass(frozen=True)
class PadObjects(Op):
    """Exactly `n` objects: the first ones, then zeros (label 0)."""

    keeps_whole: ClassVar[bool] = True
    n: int

    @property
    def slots(self) -> int:
        return self.n

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        example = Truncate(self.n)(example, seed)
        missing = self.n - tf.shape(example["boxes"])[0]
        padded = {field: _grow(example[field], missing) for field in _fields(example)}
        fixed = {k: tf.ensure_shape(v, [self.n, *v.shape[1:]]) for k, v in padded.items()}
        return {**example, **fixed}


@dataclass(frozen=True)
class NoiseBoxes(Op):
    """Appends noise objects (label NOISE_LABEL) up to `n` objects: the sequence augmentation of
    Pix2Seq, section 3.2.

    Of k = n - m noise boxes d, uniform in 0..k, are near duplicates: real boxes whose coordinates
    move by a truncated normal of σ = 0.05 of the box. The others are *bad*: drawn from as many
    moved real boxes (uniform centre) and as many random ones (uniform centre, height and width
    |truncated normal(0, ½)|). All are shuffled and cut to the image. Without real objects all are
    random. Real boxes are repeated equally often before they are drawn from, as in the release.
    """

    n: int

    def _noise(self, boxes: tf.Tensor, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """f32[count,4]."""
        real = tf.shape(boxes)[0]
        u = tf.random.stateless_uniform([6, 2 * self.n + 1], seed)  # each row is used for one thing
        normal = tf.random.stateless_truncated_normal([6, self.n], derive(seed, 1))
        repeats = count // tf.maximum(real, 1) + 1
        tiled = tf.tile(boxes, [repeats, 1])  # at least `count` rows, or none
        twins = tf.where(real > 0, tf.cast(u[0, 0] * tf.cast(count + 1, tf.float32), tf.int32), 0)
        bad = count - twins

        moved = tf.gather(tiled, tf.argsort(u[1, : real * repeats])[:bad])
        bad_boxes = _bad_boxes(moved, bad, u[2:5], normal[:2])
        twin = tf.gather(tiled, tf.argsort(u[5, : real * repeats])[:twins])
        noise = tf.concat([bad_boxes, _near_duplicates(twin, normal[2:, :twins])], 0)
        order = tf.argsort(u[0, 1 : count + 1])
        return tf.clip_by_value(tf.gather(noise, order), 0.0, 1.0)

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        boxes = example["boxes"]
        count = tf.maximum(self.n - tf.shape(boxes)[0], 0)
        grown = {field: _grow(example[field], count) for field in _fields(example)}
        grown["boxes"] = tf.concat([boxes, self._noise(boxes, count, seed)], 0)
        grown["labels"] = tf.concat([example["labels"], tf.fill([count], NOISE_LABEL)], 0)
        return {**example, **grown}


def _bad_boxes(moved: tf.Tensor, count: tf.Tensor, u: tf.Tensor, normal: tf.Tensor) -> tf.Tensor:
    """f32[count,4], drawn from `moved` boxes and as many random ones, by u f32[3,n] and normal
    f32[2,n]."""
    random = tf.abs(tf.transpose(normal[:, :count])) * 0.5
    pool = tf.concat([moved[:, 2:] - moved[:, :2], random], 0)  # height, width
    half = tf.gather(pool, tf.argsort(u[0, : tf.shape(pool)[0]])[:count]) / 2
    centre = tf.transpose(u[1:, :count])
    return tf.concat([centre - half, centre + half], 1)


def _near_duplicates(boxes: tf.Tensor, normal: tf.Tensor) -> tf.Tensor:
    """The boxes f32[n,4], each coordinate moved by 0.05 of the box times normal f32[4,n]."""
    size = boxes[:, 2:] - boxes[:, :2]
    jitter = tf.transpose(normal) * 0.05
    return boxes + jitter * tf.concat([size, size], 1)


OPS = {
    "filter_objects": FilterObjects,
    "order": Order,
    "truncate": Truncate,
    "noise_boxes": NoiseBoxes,
    "pad_objects": PadObjects,
}
