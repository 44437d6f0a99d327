"""How the pixels of a row are made: once, of the window that is kept, after all ops in a row have
said what is resized, cut, mirrored and padded.

A large picture goes through `window_bytes`, which hands over bytes that differ from those of
`View.pixels` by at most MOST_OFF levels; all else goes through TensorFlow in float32.
"""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from PIL import Image

MOST_OFF = 2  # of 255 levels; one per rounding to bytes between and behind the two passes
LARGE = 128 * 128  # pixels; below them a call of Python costs more than it saves
_BILINEAR, _MIRROR = Image.Resampling.BILINEAR, Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class View:
    """What is kept of an image: it is resized, then cut, then mirrored, then padded.

    Attributes:
        image: u8[h,w,3] in [0,255] or f32[h,w,3] in [0,1].
        size: i32[2], height and width that it is resized to; None: it is not.
        corner, window: i32[2], corner and size of what is cut out of the resized image; None: it
            stays whole.
        mirrored: bool[], whether left and right change sides; None: they do not.
        antialias: whether shrinking takes the mean of all pixels that become one.
        padded: height and width of what the window is put into, at the top left corner; the pixels
            are u8 then. None: there is no padding.
    """

    image: tf.Tensor
    size: tf.Tensor | None = None
    corner: tf.Tensor | None = None
    window: tf.Tensor | None = None
    mirrored: tf.Tensor | None = None
    antialias: bool = False
    padded: tuple[int, int] | None = None

    @property
    def shape(self) -> tf.Tensor:
        """i32[2], height and width of what is kept, without padding."""
        if self.window is not None:
            return self.window
        return tf.shape(self.image)[:2] if self.size is None else self.size

    def resize(self, size: tf.Tensor, *, antialias: bool) -> "View":
        """Resized to i32[2], bilinear, half-pixel centres."""
        return View(self.pixels(), size, antialias=antialias)

    def cut(self, corner: tf.Tensor, window: tf.Tensor) -> "View":
        """The window i32[2] with this corner i32[2]."""
        if self.mirrored is not None:  # the corner before mirroring
            column = self.shape[1] - window[1] - corner[1]
            corner = tf.stack([corner[0], tf.where(self.mirrored, column, corner[1])])
        if self.corner is not None:
            corner += self.corner
        return replace(self, corner=corner, window=window)

    def mirror(self, coin: tf.Tensor) -> "View":
        """Mirrored where the coin bool[] says so."""
        both = coin if self.mirrored is None else self.mirrored ^ coin
        return replace(self, mirrored=both)

    def pixels(self) -> tf.Tensor:
        """f32[h,w,3] in [0,1] where it is resized, else as the image; u8[padded,3] where it is
        padded."""
        if self.padded is None or self.size is None or self.image.dtype != tf.uint8:
            return self._exact()
        now = tf.shape(self.image)[:2]
        fast = tf.reduce_prod(now) >= LARGE
        if not self.antialias:
            fast &= tf.reduce_all(self.size >= now)
        made = tf.cond(fast, self._fast, self._exact)
        return tf.ensure_shape(made, [*self.padded, 3])

    def _exact(self) -> tf.Tensor:
        """The pixels, by TensorFlow."""
        image = self.image
        if self.size is not None:
            image = _resize(image, self.size, self.antialias)
        if self.corner is not None:
            zero, three = tf.constant([0]), tf.constant([3])
            start, size = tf.concat([self.corner, zero], 0), tf.concat([self.window, three], 0)
            image = tf.slice(image, start, size)
        if self.padded is not None:
            image = to_bytes(image)
        if self.mirrored is not None:
            whole = image
            image = tf.cond(self.mirrored, lambda: tf.reverse(whole, [1]), lambda: whole)
        if self.padded is None:
            return image
        # As a matrix of bytes: TensorFlow pads triples of them several times slower.
        (height, width), now = self.padded, self.shape
        room = [[0, height - now[0]], [0, 3 * (width - now[1])]]
        return tf.reshape(tf.pad(tf.reshape(image, [now[0], -1]), room), [height, width, 3])

    def _fast(self) -> tf.Tensor:
        """The padded bytes, by Pillow and NumPy."""
        corner = tf.zeros([2], tf.int32) if self.corner is None else self.corner
        mirrored = tf.constant(False) if self.mirrored is None else self.mirrored
        draw = functools.partial(window_bytes, padded=self.padded)
        values = [self.image, self.size, corner, self.shape, mirrored]
        return tf.numpy_function(draw, values, tf.uint8, stateful=False)


def to_float(image: tf.Tensor) -> tf.Tensor:
    """u8 in [0,255] or float in [0,1] -> f32 in [0,1]."""
    return tf.cast(image, tf.float32) * (1 / 255) if image.dtype == tf.uint8 else image


def to_bytes(image: tf.Tensor) -> tf.Tensor:
    """u8 in [0,255] or float in [0,1] -> u8, rounded to the nearest."""
    return image if image.dtype == tf.uint8 else tf.cast(tf.round(image * 255), tf.uint8)


def _resize(image: tf.Tensor, size: tf.Tensor, antialias: bool) -> tf.Tensor:
    """Bilinear, half-pixel centres -> f32[size,3] in [0,1]."""
    if antialias:
        resized = tf.image.resize(image, size, "bilinear", antialias=True)
    else:  # what tf.image.resize comes to, with a third of its ops
        images = image[None]
        resized = tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True)[0]
    return resized * (1 / 255) if image.dtype == tf.uint8 else resized


def window_bytes(
    image: np.ndarray,
    size: np.ndarray,
    corner: np.ndarray,
    window: np.ndarray,
    mirrored: np.ndarray,
    *,
    padded: tuple[int, int],
) -> np.ndarray:
    """A window of a resized image, in padding: only the source of the window is resized.

    Args:
        image: u8[h,w,3].
        size: height and width that it is resized to, antialiased where it shrinks.
        corner, window: corner and size of the window of the resized image.
        mirrored: whether left and right change sides.
        padded: height and width of the result.

    Returns:
        u8[padded,3], 0 in the padding.

    Raises:
        ValueError: the window does not fit.
    """
    (height, width), (top, left) = window.tolist(), corner.tolist()
    if height > padded[0] or width > padded[1]:
        raise ValueError(
            f"an image of {height} x {width} pixels is larger than its padding, {padded[0]} x "
            f"{padded[1]}; resize or crop before pad_image"
        )
    result = np.zeros((*padded, 3), np.uint8)
    kept = result[:height, :width]
    rows = _Span.of(image.shape[0], int(size[0]), top, height)
    columns = _Span.of(image.shape[1], int(size[1]), left, width)
    source = image[rows.start : rows.stop, columns.start : columns.stop]
    # Columns first, by Pillow, which rounds to bytes. Rows by Pillow as well where it has to take
    # means; where rows grow, NumPy is faster.
    grows = rows.scale < 1
    if not (columns.same and (rows.same or grows) and not mirrored):
        picture = Image.fromarray(source)
        if not (columns.same and (rows.same or grows)):
            low, high = (0, len(source)) if grows else (rows.low, rows.high)
            between = len(source) if grows else height
            box = (columns.low, low, columns.high, high)
            picture = picture.resize((width, between), _BILINEAR, box=box)
        source = np.asarray(picture.transpose(_MIRROR) if mirrored else picture)
    kept[...] = _grow_rows(source, rows, top, height) if grows else source
    return result


@dataclass(frozen=True)
class _Span:
    """Which pixels of the source a window needs along one axis.

    Attributes:
        scale: pixels of the source that become one.
        start, stop: the pixels that are needed.
        low, high: ends of the window, in pixels from `start`.
        same: whether the window is the pixels start..stop-1 as they are.
        last: the last pixel of the source.
    """

    scale: float
    start: int
    stop: int
    low: float
    high: float
    same: bool
    last: int

    @classmethod
    def of(cls, length: int, resized: int, first: int, count: int) -> "_Span":
        """Of `count` pixels from the `first` one of `length` pixels that become `resized`."""
        scale = length / resized
        low, high, reach = first * scale, (first + count) * scale, max(scale, 1.0)
        if length == resized:
            return cls(1.0, first, first + count, 0.0, float(count), True, length - 1)
        start = max(math.floor(low - reach), 0)
        stop = min(math.ceil(high + reach), length)
        high = min(high - start, stop - start)
        return cls(scale, start, stop, low - start, high, False, length - 1)


def _grow_rows(source: np.ndarray, rows: _Span, top: int, height: int) -> np.ndarray:
    """u16[height,w,3]: rows between those of the source u8[h,w,3], which begins at rows.start.

    The weights are whole 256ths, so that 16 bits hold the products.
    """
    centre = (np.arange(top, top + height) + 0.5) * rows.scale - 0.5
    above = np.floor(centre)
    weight = np.rint((centre - above) * 256).astype(np.uint16)[:, None, None]
    upper, lower = (
        np.clip(row, 0, rows.last).astype(np.intp) - rows.start for row in (above, above + 1)
    )
    source = source.astype(np.uint16)
    mixed, below = source[upper], source[lower]
    mixed *= 256 - weight
    below *= weight
    mixed += below
    mixed += 128
    mixed >>= 8
    return mixed
