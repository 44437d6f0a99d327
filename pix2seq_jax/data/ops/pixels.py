"""How the pixels of a row are made: once, of the window that is kept, after all ops in a row have
said what is resized, cut, mirrored and padded.

Bytes stay bytes, and padding makes bytes of floats; `window_bytes` does both. The bytes of a small
picture are what resizing in float32 gives, rounded; those of a large one differ from that by at
most MOST_OFF levels.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image
from threadpoolctl import threadpool_limits

from pix2seq_jax.data.images import empty_pixels

MOST_OFF = 2  # of 255 levels; one per rounding to bytes between and behind Pillow's two passes
LARGE = 128 * 128  # pixels
# Images are prepared side by side already, and threads of a small product wait for each other.
cv2.setNumThreads(1)
threadpool_limits(1, user_api="blas")


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
            are u8 then. None: there is no padding, and they are of the type of the image.
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
        """u8[padded,3] where it is padded, else [h,w,3] of the type of the image."""
        is_byte = self.image.dtype == tf.uint8
        if self.padded is not None or (self.size is not None and is_byte):
            return self._bytes()
        image = self.image
        if self.size is not None:
            image = _resize(image, self.size, self.antialias)
        if self.corner is not None:
            zero, three = tf.constant([0]), tf.constant([3])
            start, size = tf.concat([self.corner, zero], 0), tf.concat([self.window, three], 0)
            image = tf.slice(image, start, size)
        if self.mirrored is not None:
            whole = image
            image = tf.cond(self.mirrored, lambda: tf.reverse(whole, [1]), lambda: whole)
        return image

    def _bytes(self) -> tf.Tensor:
        """The bytes, in one call of NumPy."""
        values = [self.image, *self.placement()]
        made = tf.numpy_function(self.drawing(), values, tf.uint8, stateful=False)
        height, width = self.padded or (None, None)
        return tf.ensure_shape(made, [height, width, 3])

    def placement(self) -> list[tf.Tensor]:
        """`size`, `corner`, `window` and `mirrored`, each with its value."""
        size = tf.shape(self.image)[:2] if self.size is None else self.size
        corner = tf.zeros([2], tf.int32) if self.corner is None else self.corner
        mirrored = tf.constant(False) if self.mirrored is None else self.mirrored
        return [size, corner, self.shape, mirrored]

    def drawing(self) -> Callable[..., np.ndarray]:
        """NumPy's (image, *placement) -> the bytes. It knows nothing of the tensors."""
        return functools.partial(window_bytes, antialias=self.antialias, padded=self.padded)


def to_float(image: tf.Tensor) -> tf.Tensor:
    """u8 in [0,255] or float in [0,1] -> f32 in [0,1]."""
    return tf.cast(image, tf.float32) * (1 / 255) if image.dtype == tf.uint8 else image


def _resize(image: tf.Tensor, size: tf.Tensor, antialias: bool) -> tf.Tensor:
    """f32[h,w,3] -> f32[size,3], bilinear, half-pixel centres."""
    ratio = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    return _resized(image[None], size, ratio if antialias else None)[0]


def _resized(images, size, ratio) -> tf.Tensor:
    """f32[1,size,3]: what tf.image.resize comes to, with a third of its ops. Where a ratio f32[2]
    of the sizes is given, shrinking takes means."""
    if ratio is None:
        return tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True)
    origin = np.zeros(2, np.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=images, size=size, scale=ratio, translation=origin, kernel_type="triangle"
    )


def window_bytes(
    image: np.ndarray,
    size: np.ndarray,
    corner: np.ndarray,
    window: np.ndarray,
    mirrored: np.ndarray,
    *,
    antialias: bool,
    padded: tuple[int, int] | None,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """A window of a resized image, in padding.

    Args:
        image: u8[h,w,3] in [0,255] or f32[h,w,3] in [0,1].
        size: height and width that it is resized to.
        corner, window: corner and size of the window of the resized image.
        mirrored: whether left and right change sides.
        antialias: whether shrinking takes means.
        padded: height and width of the result; None: those of the window.
        into: u8[padded,3] of any content, which becomes the result; None: new memory.

    Returns:
        u8[padded,3], 0 in the padding; TensorFlow takes new memory without a copy.

    Raises:
        ValueError: the window does not fit.
    """
    (height, width), (top, left) = window.tolist(), corner.tolist()
    padded = padded or (height, width)
    if height > padded[0] or width > padded[1]:
        raise ValueError(
            f"an image of {height} x {width} pixels is larger than its padding, {padded[0]} x "
            f"{padded[1]}; resize or crop before pad_image"
        )
    result = empty_pixels(*padded) if into is None else into
    result[height:] = 0
    result[:height, width:] = 0
    kept = result[:height, :width]
    made = _resized_window(image, size, (top, left), (height, width), antialias)
    if mirrored:
        cv2.flip(made, 1, dst=kept)
    else:
        kept[...] = made
    return result


def _resized_window(
    image: np.ndarray,
    size: np.ndarray,
    corner: tuple[int, int],
    window: tuple[int, int],
    antialias: bool,
) -> np.ndarray:
    """u8[window,3], see `window_bytes`."""
    now, resized = image.shape[:2], tuple(size.tolist())
    cut = slice(corner[0], corner[0] + window[0]), slice(corner[1], corner[1] + window[1])
    if resized == now:
        return _to_bytes(image[cut])
    shrinks = antialias and (resized[0] < now[0] or resized[1] < now[1])
    if image.dtype != np.uint8 or now[0] * now[1] < LARGE:
        return _exact(image, resized, shrinks)[cut]
    if shrinks:
        return _means(image, resized, corner, window)
    # OpenCV cannot begin between two pixels, but resizes all of it in less time than others take
    # for the window.
    return cv2.resize(image, resized[::-1])[cut]


def _exact(image: np.ndarray, resized: tuple[int, int], means: bool) -> np.ndarray:
    """u8[resized,3], rounded once, behind both axes."""
    floats = image.astype(np.float32, copy=False)
    if means:
        rows, columns = (_weights(old, new) for old, new in zip(image.shape, resized, strict=False))
        made = rows @ floats.reshape(len(floats), -1)
        made = columns @ made.reshape(len(rows), -1, 3)  # f32[h,w,3], for each row
    else:
        made = cv2.resize(floats, resized[::-1])
    return _to_bytes(made * (1 / 255) if image.dtype == np.uint8 else made)


@functools.lru_cache(maxsize=128)  # of a large picture 2 MB each
def _weights(old: int, new: int) -> np.ndarray:
    """f32[new,old], how much of each of `old` pixels of an axis goes into each of `new` ones: by a
    triangle about its centre, two new pixels wide where they are the larger ones."""
    scale = old / new
    centres, pixels = (np.arange(new) + 0.5) * scale, np.arange(old) + 0.5
    weights = np.maximum(1 - np.abs(pixels - centres[:, None]) / max(scale, 1), 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    """u8 in [0,255] or float in [0,1] -> u8, rounded to the nearest."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255)


def _means(
    image: np.ndarray, resized: tuple[int, int], corner: tuple[int, int], window: tuple[int, int]
) -> np.ndarray:
    """u8[window,3], a window of the image resized by Pillow, which takes the mean of all pixels
    that become one."""
    scale = [old / new for old, new in zip(image.shape, resized, strict=False)]
    low = [first * ratio for first, ratio in zip(corner, scale, strict=True)]
    high = [
        min((first + count) * ratio, end)
        for first, count, ratio, end in zip(corner, window, scale, image.shape[:2], strict=True)
    ]
    box = (low[1], low[0], high[1], high[0])
    picture = Image.fromarray(image).resize(window[::-1], Image.Resampling.BILINEAR, box)
    return np.asarray(picture)
