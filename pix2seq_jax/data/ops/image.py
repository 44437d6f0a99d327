"""Ops on the image and the coordinates in it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import tensorflow as tf

from pix2seq_jax.data.images import decode_image
from pix2seq_jax.data.ops import geometry
from pix2seq_jax.data.ops.base import Example, Op, derive
from pix2seq_jax.data.ops.pixels import View, to_float
from pix2seq_jax.data.source import POINT_FIELDS

Size = int | tuple[int, int]
MIN_WINDOW = 8.0  # pixels; a predicted box may have no area, or lie outside the image


class ImageOp(Op):
    """An op that changes the image."""

    on_image: ClassVar[bool] = True


class PlacingOp(ImageOp):
    """An op that says where pixels come from and go to; what the pixels are does not matter to it.

    In a chain, `place` gets and gives an image that is a View; called alone, the op makes the
    pixels.
    """

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        raise NotImplementedError

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        return drawn(self.place(viewed(example), seed))


def viewed(example: Example) -> Example:
    """The example with its image as a View."""
    image = example["image"]
    return example if isinstance(image, View) else {**example, "image": View(image)}


def drawn(example: Example) -> Example:
    """The example with the pixels of its image."""
    image = example["image"]
    return {**example, "image": image.pixels()} if isinstance(image, View) else example


@dataclass(frozen=True)
class Decode(ImageOp):
    """Bytes of a file -> u8[h,w,3], oriented as annotated (see images.decode_image). The first op
    of every chain.

    Unlike the others it works on NumPy, right where the file is read: a Python call from TensorFlow
    costs as much as all other ops of a small image. `orig_size` (0, 0) means that of the file,
    orientation applied.
    """

    def read(self, features: dict) -> dict:
        """Raw features of a source -> the same with the image decoded."""
        file, (height, width) = features["file"], features["orig_size"].tolist()
        image = decode_image(features["image"], file, (height, width) if height else None)
        size = features["orig_size"] if height else np.array(image.shape[:2], np.int32)
        return {**features, "image": image, "orig_size": size}


@dataclass(frozen=True)
class ScaleJitter(PlacingOp):
    """Resizes to fit a box of `size` times a factor uniform in [min, max), the aspect stays, cut
    to whole pixels."""

    size: Size
    min: float = 0.3
    max: float = 2.0
    antialias: bool = False

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        image = example["image"]
        factor = tf.random.stateless_uniform([], seed, self.min, self.max)
        now = tf.cast(image.shape, tf.float32)
        ratio = tf.reduce_min(
            tf.constant(geometry.height_width(self.size), tf.float32) * factor / now
        )
        size = tf.maximum(tf.cast(now * ratio, tf.int32), 1)
        return {**example, "image": image.resize(size, antialias=self.antialias)}


@dataclass(frozen=True)
class Resize(PlacingOp):
    """Resizes to the largest size that fits `size`, the aspect stays, rounded to whole pixels."""

    keeps_whole: ClassVar[bool] = True
    size: Size
    antialias: bool = False

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        image = example["image"]
        now = tf.cast(image.shape, tf.float32)
        ratio = tf.reduce_min(tf.constant(geometry.height_width(self.size), tf.float32) / now)
        size = tf.maximum(tf.cast(tf.round(now * ratio), tf.int32), 1)
        return {**example, "image": image.resize(size, antialias=self.antialias)}


def crop(example: Example, corner: tf.Tensor, size: tf.Tensor) -> Example:
    """Cuts the window with this corner i32[2] and size i32[2] (height, width), in pixels, out of
    View and points."""
    image = example["image"]
    now = tf.cast(image.shape, tf.float32)
    offset, factor = tf.cast(corner, tf.float32) / now, now / tf.cast(size, tf.float32)
    points = {k: geometry.crop(k, example[k], offset, factor) for k in POINT_FIELDS if k in example}
    offset = example["crop_offset"] + corner
    return {**example, **points, "image": image.cut(corner, size), "crop_offset": offset}


@dataclass(frozen=True)
class FixedCrop(PlacingOp):
    """Window of at most `size`; the offsets of the two axes are drawn independently, uniform over
    all that fit."""

    size: Size

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        now = example["image"].shape
        size = tf.minimum(now, geometry.height_width(self.size))
        # Uniform is below 1, and so the corner is below the room.
        room = tf.cast(now - size + 1, tf.float32)
        corner = tf.cast(tf.random.stateless_uniform([2], seed) * room, tf.int32)
        return crop(example, tf.minimum(corner, now - size), size)


@dataclass(frozen=True)
class CropToBox(PlacingOp):
    """Window of `scale` times the box of the first object, about its centre, cut at the image, for
    tasks on one object: Pix2Seq v2, section 3.1, looks at keypoints in twice the box. An image
    without objects stays whole.

    At least MIN_WINDOW pixels remain of each side, however small or misplaced the box. The window
    stands for the original: `orig_size` becomes its size, `crop_offset` its corner, both in pixels
    of the original image.
    """

    per_object: ClassVar[bool] = True
    scale: float = 2.0

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        now = tf.cast(example["image"].shape, tf.float32)
        low, high = tf.split(tf.concat([example["boxes"], [[0.0, 0.0, 1.0, 1.0]]], 0)[0], 2)
        least = tf.minimum(MIN_WINDOW, now)
        centre = (low + high) / 2 * now
        half = tf.maximum((high - low) * now * self.scale, least) / 2
        corner = tf.clip_by_value(tf.round(centre - half), 0.0, now - least)
        size = tf.clip_by_value(tf.round(centre + half), corner + least, now) - corner
        # 1, but for annotations of another size than the file.
        ratio = tf.cast(example["orig_size"], tf.float32) / now
        offset, window = (tf.cast(tf.round(value * ratio), tf.int32) for value in (corner, size))
        cropped = crop(example, tf.cast(corner, tf.int32), tf.cast(size, tf.int32))
        return {**cropped, "orig_size": window, "crop_offset": example["crop_offset"] + offset}


@dataclass(frozen=True)
class FlipLr(PlacingOp):
    """Mirrors image and points with probability ½; left keypoints become right ones, polygons run
    clockwise as before.

    Images whose keypoints have no left and right (`keypoint_swap` -1) are never mirrored.
    """

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        coin = tf.random.stateless_uniform([], seed) < 0.5
        swap = example.get("keypoint_swap")
        if swap is not None:
            coin, swap = coin & tf.reduce_all(swap >= 0), tf.maximum(swap, 0)
        points = {k: geometry.flip_lr(k, example[k], swap) for k in POINT_FIELDS if k in example}
        if "polygons" in points:
            points["polygons"] = geometry.reverse_rings(points["polygons"])
        points = {k: tf.where(coin, v, example[k]) for k, v in points.items()}
        return {**example, **points, "image": example["image"].mirror(coin)}


@dataclass(frozen=True)
class ColorJitter(ImageOp):
    """SimCLR colour distortion: with probability 0.8 brightness, contrast, saturation (each ±
    0.8·strength) and hue (± 0.2·strength) in random order, clipped after each; then with
    probability 0.2 gray."""

    strength: float = 0.5

    def _distort(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        span, u = 0.8 * self.strength, tf.random.stateless_uniform([8], derive(seed, 1))
        factor = tf.maximum(1 - span, 0.0) + u[:3] * (1 + span - tf.maximum(1 - span, 0.0))
        hue = (2 * u[3] - 1) * 0.2 * self.strength
        order = tf.argsort(u[4:])
        for i in range(4):
            changes = [
                lambda x=image: x * factor[0],
                lambda x=image: tf.image.adjust_contrast(x, factor[1]),
                lambda x=image: tf.image.adjust_saturation(x, factor[2]),
                lambda x=image: tf.image.adjust_hue(x, hue),
            ]
            image = tf.clip_by_value(tf.switch_case(order[i], changes), 0.0, 1.0)
        return image

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        image = to_float(example["image"])
        coins = tf.random.stateless_uniform([2], seed)
        image = tf.cond(coins[0] < 0.8, lambda x=image: self._distort(x, seed), lambda x=image: x)
        gray = lambda x=image: tf.tile(tf.image.rgb_to_grayscale(x), [1, 1, 3])  # noqa: E731
        return {**example, "image": tf.cond(coins[1] < 0.2, gray, lambda x=image: x)}


@dataclass(frozen=True)
class PadImage(PlacingOp):
    """Pads at the bottom and on the right to `size` with `value`; coordinates become fractions of
    the padded image.

    The image becomes u8, a quarter of the memory of f32, with 0 in the padding. `pad_value` and
    `unpadded_size` tell the device what belongs there (tasks.base.images): 0.3, as published, is no
    whole number of 255ths.

    Raises ValueError (while iterating) for an image larger than `size`: resize or crop before.
    """

    keeps_whole: ClassVar[bool] = True
    size: Size
    value: float = 0.3

    def place(self, example: Example, seed: tf.Tensor) -> Example:
        target = geometry.height_width(self.size)
        now = example["image"].shape
        image = replace(example["image"], padded=target)
        factor = tf.cast(now, tf.float32) / tf.constant(target, tf.float32)
        points = {k: geometry.scale(k, example[k], factor) for k in POINT_FIELDS if k in example}
        value = tf.constant(self.value, tf.float32)
        return {**example, **points, "image": image, "unpadded_size": now, "pad_value": value}


OPS = {
    "decode": Decode,
    "scale_jitter": ScaleJitter,
    "resize": Resize,
    "fixed_crop": FixedCrop,
    "crop_to_box": CropToBox,
    "flip_lr": FlipLr,
    "color_jitter": ColorJitter,
    "pad_image": PadImage,
}
