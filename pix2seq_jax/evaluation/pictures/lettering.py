"""Text on pictures, by PIL's own font: names at objects, wrapped captions."""

import functools
import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

INK = (255, 255, 255)  # of text on a dark ground
BRIGHT = 140  # luma of a ground that is written on in black

Frame = tuple[int, int, int, int]  # x0, y0, x1, y1: the first and the last pixels inside


class Tag(NamedTuple):
    """A text at an object: what is written, the colour of its ground, the frame of the object."""

    text: str
    fill: tuple[int, int, int]
    frame: Frame


def write_tags(picture: Image.Image, tags: Sequence[Tag], size: int) -> None:
    """Writes each tag above, inside or below its frame, inside the picture and clear of the others.

    The first tag chooses first and is drawn last. `size` is that of the letters in pixels.
    """
    draw, font = ImageDraw.Draw(picture), text_font(size)
    height = sum(font.getmetrics())
    spots: list[Frame] = []
    for tag in tags:
        width = math.ceil(font.getlength(tag.text)) + 4
        choices = _spots(tag.frame, (width, height), picture.size)
        free = [spot for spot in choices if all(_apart(spot, other) for other in spots)]
        spots.append(free[0] if free else choices[0])
    for tag, spot in reversed(list(zip(tags, spots, strict=True))):
        red, green, blue = tag.fill
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # BT.601
        draw.rectangle(spot, fill=tag.fill)
        ink = (0, 0, 0) if luma > BRIGHT else INK
        draw.text((spot[0] + 2, spot[1]), tag.text, fill=ink, font=font)


def _spots(frame: Frame, size: tuple[int, int], picture: tuple[int, int]) -> list[Frame]:
    """Where a tag of a size (width, height) may lie: above the frame, at its top and below it."""
    width, height = size
    x = max(0, min(frame[0], picture[0] - width))
    tops = [frame[1], frame[3] + 1]
    if frame[1] >= height:
        tops.insert(0, frame[1] - height)
    tops = [max(0, min(y, picture[1] - height)) for y in tops]
    return [(x, y, x + width - 1, y + height - 1) for y in tops]


def _apart(a: Frame, b: Frame) -> bool:
    return a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels in letters of `size` pixels; a longer word is cut.

    At least one line, "(empty)" for a text without words. Of a text of more than `most` lines the
    last one is "...".
    """
    measure = text_font(size).getlength
    lines = [""]
    for word in writable(text).split():
        if measure(f"{lines[-1]} {word}".strip()) <= width:
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and measure(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
        if len(lines) > most:
            return [*lines[: most - 1], "..."]
    return lines if lines[0] else ["(empty)"]


def text_font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of all pictures, in pixels. It comes with PIL: the same on every machine."""
    return ImageFont.load_default(size=size)


def writable(text: str) -> str:
    """One line of text that the font can write: without the accents that it lacks, "?" for letters
    that it has in no form."""
    text = unicodedata.normalize("NFC", text).replace("–", "-").replace("—", "-")
    return "".join(_substitute(letter) for letter in " ".join(text.split()))


def _substitute(letter: str) -> str:
    """The letter; if the font lacks it, the letter without its accents, or else "?"."""
    if not lacks(letter):
        return letter
    parts = unicodedata.normalize("NFKD", letter)
    plain = "".join(part for part in parts if not unicodedata.combining(part))
    return "?" if not plain or any(lacks(part) for part in plain) else plain


def readable(name: str, label: int) -> str:
    """The name of a class, or "class 3" where the font lacks one of its letters."""
    return f"class {label}" if any(lacks(letter) for letter in name) else name


@functools.cache
def lacks(letter: str) -> bool:
    """Whether the font has no such letter. It has those of ASCII and few others."""
    font = text_font(12)
    return bytes(font.getmask(letter)) == bytes(font.getmask("\uffff"))
