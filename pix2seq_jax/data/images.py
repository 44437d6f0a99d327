"""The only reader of image files: bytes -> u8[h,w,3], by libjpeg-turbo or Pillow, for training,
evaluation and prediction alike."""

import contextlib
import ctypes
import io
import os
import re
import stat
import sys

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
MAX_PIXELS = 200_000_000  # decoded, 600 MB; a small file may claim any number
# Pillow's own limit, which warns at a half; `_check_pixels` has one line for it.
Image.MAX_IMAGE_PIXELS = None
# Pillow's name of what has none; another one at every read.
_IN_MEMORY = re.compile(r" <_io\.BytesIO object at \w+>")
_ORIENTATION = 0x0112  # EXIF tag
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}  # how a JPEG and a PNG begin and end
_TAIL = 4096  # bytes; some cameras write after the end
_ALIGNED = 64  # bytes; TensorFlow takes memory that begins at a multiple without a copy
# Parameters of glibc's mallopt, in bytes: how much free memory is not given back to the system,
# and from what size on an array gets pages of its own. 32 MiB is the most that glibc takes.
_MALLOC = {-1: 256 << 20, -3: 32 << 20}


def _keep_freed_memory() -> None:
    """Lets this process keep the memory of one picture for the next.

    Pictures are a megabyte, and glibc would give each back to the system, which hands out every
    page anew: a quarter of the time of preparing pictures.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            for parameter, value in _MALLOC.items():
                ctypes.CDLL(None).mallopt(parameter, value)


_keep_freed_memory()


def decode_image(data: bytes, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes a JPEG, PNG or any other file that Pillow reads; grayscale, palette, CMYK, 16-bit and
    float images become RGB.

    Args:
        data: content of the file.
        name: path, for the error.
        size: (height, width) by the annotations. The EXIF orientation is applied if that gives this
            size and the stored pixels do not, since annotations are made on either; None applies it
            always, as viewers do.

    Returns:
        u8[h,w,3].

    Raises:
        ValueError: the file is broken or truncated.
    """
    pixels = None if size is None else _plain_jpeg(data, tuple(size))
    if pixels is not None:
        return pixels
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(image)
            turn = image.getexif().get(_ORIENTATION, 1)
            if size is not None:
                stored = (image.height, image.width)
                turned = stored[::-1] if turn in _TURNED else stored
                turn = turn if tuple(size) == turned != stored else 1
            if turn != 1:
                image = ImageOps.exif_transpose(image)
            return np.asarray(_rgb(image))
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise _damaged(name, error) from error


def _plain_jpeg(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """u8[h,w,3] of a sound JPEG in colour or grey that has this size as it is stored, in half of
    the time that Pillow takes for the same pixels; None for any other file."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != size or height * width > MAX_PIXELS or "K" in colours:
            return None
        return simplejpeg.decode_jpeg(data, "RGB", buffer=empty_pixels(height, width))
    except ValueError:  # no JPEG, or a broken one: Pillow says what is wrong, or reads it
        return None


def empty_pixels(height: int, width: int) -> np.ndarray:
    """u8[height,width,3] of any content, in memory that TensorFlow takes without a copy."""
    memory = np.empty(height * width * 3 + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + height * width * 3].reshape(height, width, 3)


def is_aligned(array: np.ndarray) -> bool:
    """Whether TensorFlow takes the memory of the array without a copy."""
    contiguous = array.flags.c_contiguous and array.flags.writeable
    return contiguous and array.ctypes.data % _ALIGNED == 0


def pixels_of(image) -> np.ndarray:
    """An image in memory as u8[h,w,3].

    Args:
        image: u8[h,w,3], u8[h,w] or u8[h,w,1] in grey, or a PIL image of any mode, whose EXIF
            orientation is applied.

    Raises:
        ValueError: another type or shape.
    """
    if isinstance(image, Image.Image):
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(
            f"an image of type {pixels.dtype} and shape {list(pixels.shape)}: give u8[h,w,3] or "
            "u8[h,w] with values from 0 to 255, a PIL image, or the path of a file"
        )
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.shape[2] != 3:
        raise ValueError(
            f"an image of shape {list(pixels.shape)}: give three channels, red, green and blue"
        )
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    """As RGB. Pillow's conversion copies the pixels even of what is RGB already."""
    image = _eight_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow's conversion of 16-bit images cuts at 255; this one divides by 256 as for other
    formats."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_of_floats(np.asarray(image)))
    if "transparency" in image.info:  # of a palette: applied before it is dropped
        return image.convert("RGBA")
    return image


def _of_floats(pixels: np.ndarray) -> np.ndarray:
    """u8[h,w] of f32[h,w] in [0,1] or, where one is above 1, in [0,255].

    Raises:
        ValueError: another range, of which nobody can tell what is white.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(f"its floats go from {low:g} to {high:g}, not from 0 to 1 or to 255")
    return np.rint(pixels * (255 if high <= 1 else 1)).astype(np.uint8)


def header(file: str) -> tuple[int, int, bool]:
    """(height, width, turned) of a file as stored, without decoding it.

    `turned`: the EXIF orientation, which viewers apply, exchanges height and width. Raises
    ValueError where the file is no image, or has more than MAX_PIXELS.
    """
    try:
        check_regular(file, os.stat(file))
        with Image.open(file) as image:
            _check_pixels(image)
            # Pillow would decode a PNG to look for an orientation behind the pixels.
            silent = image.format == "PNG" and "exif" not in image.info
            turn = 1 if silent else image.getexif().get(_ORIENTATION, 1)
            return image.height, image.width, turn in _TURNED
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise _damaged(file, error) from error


def glance(data: bytes, name: str, size: tuple[int, int]) -> tuple[int, int, bool, np.ndarray]:
    """(height, width, turned) as `header` gives them, and a small copy u8[h,w,3] of an image of
    this size (height, width), its aspect not kept.

    All of the file is read, but a JPEG is decoded at a fraction of its size, which takes a fifth of
    the time. Raises ValueError where the file is broken or truncated, see `decode_image`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(image)
            height, width = image.height, image.width
            image.draft(None, (4 * size[1], 4 * size[0]))
            share = round(width / image.width)  # 1, 2, 4 or 8; the size is rounded up
            box = (0, 0, width / share, height / share)
            small = _rgb(image).resize(size[::-1], Image.Resampling.BILINEAR, box)
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            return height, width, turned, np.asarray(small)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise _damaged(name, error) from error


def _check_pixels(image: Image.Image) -> None:
    """Raises ValueError for an image whose pixels would fill the memory."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} that are "
            "read; make it smaller"
        )


def check_file(file: str) -> tuple[int, int, bool]:
    """`header` of a file that is whole, as far as its beginning and its end tell; only one without
    an end is decoded.

    Raises:
        ValueError: the file is missing or broken, or see `header`.
    """
    sizes = header(file)
    try:
        if not _looks_whole(file):
            with open(file, "rb") as stream:
                decode_image(stream.read(), file)
    except OSError as error:
        raise _damaged(file, error) from error
    return sizes


def _looks_whole(file: str) -> bool:
    """Whether a JPEG or PNG has its end; other formats are decoded. Reads a few kilobytes."""
    with open(file, "rb") as stream:
        head = stream.read(4)
        end = next((end for start, end in _ENDS.items() if head.startswith(start)), None)
        if end is None:
            return False
        stream.seek(max(stream.seek(0, io.SEEK_END) - _TAIL, 0))
        return end in stream.read()


def check_regular(file: str, status: os.stat_result) -> None:
    """Raises ValueError for what is no file: reading from a pipe or a device would wait for
    ever."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"image {file} is no file but a folder, pipe or device; replace it by an image"
        )


def _damaged(name: str, error: Exception) -> ValueError:
    reason = _IN_MEMORY.sub("", str(error))
    return ValueError(
        f"image {name} cannot be decoded ({type(error).__name__}: {reason}); "
        "replace the file, or remove the image from the annotations"
    )
