"""From the body of a request to pixels, within limits."""

import io
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pix2seq_jax.data.images import decode_image

# Pillow reads more, some by other programs. Its JPEG reader takes MPO, too.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENVELOPE = 65_536  # bytes that multipart may add to the file
MULTIPART = "multipart/form-data"


class Refused(Exception):
    """A request that is answered with an HTTP status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Upload(NamedTuple):
    """The bytes of an image and the name of its file, "" where it has none."""

    data: bytes
    name: str


async def read_upload(request: Request, most_bytes: int) -> Upload:
    """The image in a request: the raw body, or the one file of a form (multipart/form-data).

    Raises:
        Refused: 413 for more than `most_bytes`, 400 for no image or a form that cannot be read.
    """
    multipart = request.headers.get("content-type", "").lower().startswith(MULTIPART)
    most = most_bytes + ENVELOPE if multipart else most_bytes
    stream = _limited(request, most, most_bytes)
    if not multipart:
        upload = Upload(b"".join([part async for part in stream]), "")
    else:
        upload = await _file_of_form(request, stream)
    if len(upload.data) > most_bytes:
        raise _too_large(most_bytes)
    if not upload.data:
        raise Refused(400, "the request has no image: send one as the body, or as a form's file")
    return upload


def pixels_of_upload(upload: Upload, most_pixels: int) -> np.ndarray:
    """u8[h,w,3], EXIF orientation applied. The header is read first, so that a small file of many
    pixels is refused before it is decoded.

    Raises:
        Refused: 413 for more than `most_pixels`, 400 for what is no image or a broken one.
    """
    name = upload.name or "of the request"
    try:
        with Image.open(io.BytesIO(upload.data), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises many kinds on damaged files
        kinds = ", ".join(FORMATS)
        raise Refused(400, f"image {name} is none that can be read ({kinds})") from error
    if width * height > most_pixels:
        raise Refused(
            413,
            f"image {name} has {width} x {height} pixels, more than the {most_pixels:,} that are "
            "taken; send a smaller one",
        )
    try:
        return decode_image(upload.data, name)
    except ValueError as error:
        reason = str(error).split("; ")[0]
        raise Refused(400, f"{reason}; send a whole file") from error


async def _limited(request: Request, most: int, most_bytes: int) -> AsyncIterator[bytes]:
    """The body in parts, as long as there are at most `most` bytes."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(most_bytes)
    count = 0
    async for part in request.stream():
        count += len(part)
        if count > most:
            raise _too_large(most_bytes)
        yield part


async def _file_of_form(request: Request, stream: AsyncIterator[bytes]) -> Upload:
    """The one file of a form."""
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refused(400, f"the form cannot be read ({error}); send one file in it") from error
    try:
        files = [value for value in form.values() if not isinstance(value, str)]
        if not files:
            raise Refused(400, "the form has no file; send the image as its one file")
        return Upload(await files[0].read(), files[0].filename or "")
    finally:
        await form.close()


def _too_large(most_bytes: int) -> Refused:
    return Refused(413, f"the image has more than {most_bytes:,} bytes; send a smaller one")
