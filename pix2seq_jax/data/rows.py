"""Preprocessing of single images that are decoded already, for evaluation and prediction.

Training streams its rows through tf.data (data.pipeline). Here the graph of a chain of ops is
traced once per process and called for one row at a time. Its input is pixels, so it keeps no source
alive, and one decoded image can serve several tasks and every window that is cut from it. Where the
ops only place pixels, the graph says where, and NumPy makes them behind it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from pix2seq_jax.data.images import is_aligned
from pix2seq_jax.data.ops import image as ops_image
from pix2seq_jax.data.ops.chain import check_shapes, place
from pix2seq_jax.data.ops.pixels import View
from pix2seq_jax.data.source import layout

Row = dict[str, np.ndarray]
PIXEL_FIELDS = ("image", "orig_size")
PROMPT_FIELDS = ("boxes", "labels", "scores", "is_crowd")  # of predicted objects


class Preprocess:
    """A chain of ops as a function of one decoded image.

    Attributes:
        shapes: name -> (dtype, shape) of what it gives.
    """

    def __init__(self, ops: tuple, *, objects: bool, spec: str) -> None:
        """Traces the chain, unless the process has done so before.

        Args:
            ops: `tensor_ops` or `image_ops` of a chain (data.ops.chain).
            objects: whether rows have boxes, labels, scores and is_crowd.
            spec: the preprocessing string, for errors.

        Raises:
            ValueError: the ops need what a row does not have, or what they give has no fixed shape.
        """
        self._names = PIXEL_FIELDS + PROMPT_FIELDS if objects else PIXEL_FIELDS
        self._spec = spec
        try:
            self._function, self._drawing = _traced(ops, self._names)
        except KeyError as error:
            raise ValueError(
                f"preprocessing {spec!r}: an op needs {error}, which is not given; leave it out"
            ) from error
        except (TypeError, tf.errors.OpError) as error:
            raise ValueError(
                f"preprocessing {spec!r} cannot be done: {error}; correct the arguments"
            ) from error
        outputs, _ = self._function.structured_outputs
        check_shapes(outputs, spec)
        self.shapes = {
            name: (value.dtype.as_numpy_dtype, tuple(value.shape))
            for name, value in outputs.items()
        }
        if self._drawing is not None:
            self.shapes["image"] = np.uint8, (*self._drawing.keywords["padded"], 3)

    def __call__(
        self, features: Mapping[str, np.ndarray], draw: int, into: np.ndarray | None = None
    ) -> Row:
        """The row of one image.

        Args:
            features: `image u8[h,w,3]` and the other fields, as data.source.FIELDS describes them.
            draw: number of the row, which random ops draw from.
            into: one of `images`, which becomes that of the row; None: new memory.

        Raises:
            ValueError: an op that cannot be done on this image.
        """
        try:
            outputs, placement = self._function(
                tf.constant(draw, tf.int64), *(_tensor(features[name]) for name in self._names)
            )
        except tf.errors.OpError as error:
            raise ValueError(f"preprocessing {self._spec!r} failed: {error.message}") from error
        row = {name: np.asarray(value) for name, value in outputs.items()}  # no copy
        if self._drawing is not None:
            placed = map(np.asarray, placement)
            try:
                row["image"] = self._drawing(features["image"], *placed, into=into)
            except (ValueError, cv2.error) as error:
                raise ValueError(f"preprocessing {self._spec!r} failed: {error}") from error
        elif into is not None:
            into[...] = row["image"]
            row["image"] = into
        return row

    def images(self, size: int) -> np.ndarray:
        """u8[size,height,width,3] of any content, for the images of a batch."""
        dtype, shape = self.shapes["image"]
        return np.empty((size, *shape), dtype)

    def batch(self, rows: Mapping[int, Row], size: int, images: np.ndarray | None = None) -> Row:
        """The rows by their number as a batch of `size`; those that are missing are blank images of
        one pixel. Where `images` are given, each row was made into the one of its number."""
        filled = {}
        for name, (dtype, shape) in self.shapes.items():
            if name == "image" and images is not None:
                for number in set(range(size)).difference(rows):
                    images[number] = 0
                filled[name] = images
                continue
            filled[name] = np.zeros((size, *shape), dtype)  # no memory is touched before a row is
            if name in ("orig_size", "unpadded_size"):
                filled[name][:] = 1
            for number, row in rows.items():
                filled[name][number] = row[name]
        return filled


def _tensor(array: np.ndarray) -> tf.Tensor:
    """The array as a tensor, which shares the memory of an image where that begins as TensorFlow
    wants it."""
    if array.dtype != np.uint8 or not is_aligned(array):
        return tf.constant(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


@functools.lru_cache(maxsize=64)
def _traced(ops: tuple, names: tuple[str, ...]) -> tuple[Any, Callable[..., np.ndarray] | None]:
    """The graph of a chain, (draw i64[], one tensor per name) -> (fields of the row, placement),
    and what makes the image of the pixels and the placement: a Python call from the graph costs
    more than all of its ops. None where the graph makes it."""
    drawings = []

    def make(draw: tf.Tensor, *values: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        given = dict(zip(names, values, strict=True))
        example = {"crop_offset": tf.zeros([2], tf.int32), **given}
        example = place(ops, example, 0, draw)
        view = example["image"]
        if not isinstance(view, View) or view.image is not given["image"] or view.padded is None:
            return ops_image.drawn(example), []
        drawings.append(view.drawing())
        return {name: example[name] for name in example if name != "image"}, view.placement()

    specs = [tf.TensorSpec(shape, dtype) for dtype, shape in layout(names).values()]
    # Errors of our code stay as they are.
    untouched = tf.autograph.experimental.do_not_convert(make)
    function = tf.function(untouched, [tf.TensorSpec([], tf.int64), *specs])
    return function.get_concrete_function(), drawings[-1] if drawings else None


def read(
    file: str, size: tuple[int, int], load: Callable[[str], bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """(pixels u8[h,w,3], orig_size i32[2]) of an image file; `size` (0, 0) means that of the file.

    Raises:
        ValueError: the file cannot be read or decoded.
    """
    features = {"image": load(file), "file": file, "orig_size": np.array(size, np.int32)}
    decoded = ops_image.Decode().read(features)
    return decoded["image"], decoded["orig_size"]
