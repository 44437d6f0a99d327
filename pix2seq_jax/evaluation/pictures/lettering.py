"""Text on pictures: names at objects, wrapped captions.

PIL brings a font of its own, the same on every machine, with the letters of Western Europe. Text
that it cannot write is written in a font of the system that can, where there is one.
"""

import functools
import logging
import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

log = logging.getLogger("pix2seq_jax")

# Fonts of systems with the letters of many languages, by the names of their files: Linux, macOS,
# Windows. The first that has all letters of a text writes it.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
)
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
    draw, pad = ImageDraw.Draw(picture), max(2, size // 8)
    spots: list[Frame] = []
    for tag in tags:
        font = text_font(size, tag.text)
        width, height = math.ceil(font.getlength(tag.text)) + 2 * pad, sum(font.getmetrics())
        choices = _spots(tag.frame, (width, height), picture.size)
        free = [spot for spot in choices if all(_apart(spot, other) for other in spots)]
        spots.append(free[0] if free else choices[0])
    for tag, spot in reversed(list(zip(tags, spots, strict=True))):
        red, green, blue = tag.fill
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # BT.601
        draw.rectangle(spot, fill=tag.fill)
        ink = (0, 0, 0) if luma > BRIGHT else INK
        font = text_font(size, tag.text)
        draw.text((spot[0] + pad, spot[1]), tag.text, fill=ink, font=font)


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
    text = writable(text)
    measure = text_font(size, text).getlength
    lines = [""]
    for word in text.split():
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


def text_font(size: float, text: str = "") -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of a text, in pixels: that of PIL wherever it has all letters."""
    return _font(_file_for(text), max(1, round(size)))


def letter_size(size: tuple[int, int], share: int = 40) -> int:
    """Pixels of the letters on a picture of this width and height: a share of its longer side, at
    least 12, less on long strips."""
    return max(12, round(min(max(size) / share, min(size) / 8)))


def writable(text: str) -> str:
    """One line of text that a font can write: without the accents that it lacks, "?" for letters
    that it has in no form."""
    text = unicodedata.normalize("NFC", text)
    text = " ".join(text.replace("–", "-").replace("—", "-").split())
    return "".join(_substitute(letter) for letter in text) if missing(text) else text


def _substitute(letter: str) -> str:
    """The letter; if the font lacks it, the letter without its accents, or else "?"."""
    if not lacks(letter):
        return letter
    parts = unicodedata.normalize("NFKD", letter)
    plain = "".join(part for part in parts if not unicodedata.combining(part))
    return "?" if not plain or any(lacks(part) for part in plain) else plain


def readable(name: str, label: int) -> str:
    """The name of a class, or "class 3" where no font has all of its letters; the log says so
    once."""
    if not missing(name):
        return name
    _warn(name, label)
    return f"class {label}"


def missing(text: str) -> bool:
    """Whether no font has all letters of a text."""
    file = _file_for(text)
    return any(lacks(letter, file) for letter in text)


@functools.cache
def _warn(name: str, label: int) -> None:
    text = "no font has the letters of %r: pictures say 'class %d'; install one of %s"
    log.warning(text, name, label, ", ".join(FONTS))


@functools.lru_cache(maxsize=4096)
def _file_for(text: str) -> str:
    """The file of the font that has all letters of a text; "" is that of PIL, which stands for none
    as well."""
    if not any(lacks(letter) for letter in set(text)):
        return ""
    return next(
        (file for file in FONTS if _there(file) and not any(lacks(one, file) for one in text)), ""
    )


@functools.cache
def _there(file: str) -> bool:
    """Whether the system has a font; PIL looks for it in the folders where fonts are."""
    try:
        _font(file, 12)
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=64)
def _font(file: str, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size=size)


@functools.lru_cache(maxsize=65536)
def lacks(letter: str, file: str = "") -> bool:
    """Whether a font has no such letter. That of PIL has those of ASCII and few others."""
    if letter == " ":
        return False
    if unicodedata.category(letter) in ("Cs", "Cc", "Cn"):  # halves of pairs, controls, none
        return True
    font = _font(file, 12)
    return bytes(font.getmask(letter)) == bytes(font.getmask("\uffff"))
