"""Pictures of token sequences: a list of tokens beside a picture, and maps of where was looked, by
PIL."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pix2seq_jax.evaluation.pictures.draw import BACKGROUND, contact_sheet
from pix2seq_jax.evaluation.pictures.lettering import INK, letter_size, text_font, writable

# Colours of the kinds of tokens, of the palette of Okabe and Ito or grey.
KINDS = {
    "task": (170, 170, 170),
    "coordinate": (86, 180, 233),
    "class": (230, 159, 0),
    "text": (0, 158, 115),
    "noise": (204, 121, 167),
    "separator": (240, 228, 66),
    "invisible": (170, 170, 170),
    "end": (170, 170, 170),
    "unused": (213, 94, 0),
}
HOT = np.array((213, 94, 0))  # where the decoder looks
LINE = 1.5  # height of a line in letters


def listed(
    picture: Image.Image, tokens: Sequence[Mapping[str, Any]], *, columns: int = 3
) -> Image.Image:
    """A picture with a list of tokens on its right, as many as there is room for.

    A line has the token's number, what it means in the colour of its kind, its probability, and the
    three likeliest others with theirs; or what else `words_of` makes of it.
    """
    size = letter_size(picture.size, 55)
    height = max(picture.height, round(30 * LINE * size))
    most = int(height / (LINE * size)) - 1
    rows = [list(tokens[start : start + most]) for start in range(0, len(tokens), most)]
    left_out = sum(map(len, rows[columns:]))
    sheets = [_column(own, size, height) for own in rows[:columns]]
    whole = Image.new("RGB", (picture.width + sum(s.width for s in sheets), height), BACKGROUND)
    whole.paste(picture, (0, 0))
    x = picture.width
    for sheet in sheets:
        whole.paste(sheet, (x, 0))
        x += sheet.width
    if left_out:
        text = f"and {left_out} more tokens"
        spot = (x - size, height - size // 4)
        ImageDraw.Draw(whole).text(spot, text, fill=INK, font=text_font(size), anchor="rs")
    return whole


def words_of(token: Mapping[str, Any]) -> tuple[str, str, str]:
    """(number, meaning, all else) of a token as text."""
    rest = ""
    if "probability" in token:
        rest = f"{token['probability']:.2f}"
    if token.get("runners_up"):
        others = [f"{one['text']} {one['probability']:.2f}" for one in token["runners_up"]]
        rest = f"{rest}   not {', '.join(others)}"
    if "read" in token:
        rest = f"weight {token['weight']:g}"
        if token["read"] != token["text"]:
            rest = f"{rest}, reads {token['read']}"
    return str(token.get("position", "")), str(token["text"]), rest


def _column(tokens: Sequence[Mapping[str, Any]], size: int, height: int) -> Image.Image:
    rows = [(token["kind"], *map(writable, words_of(token))) for token in tokens]
    meaning = max(text_font(size, row[2]).getlength(row[2]) for row in rows)
    rest = max(text_font(size, row[3]).getlength(row[3]) for row in rows)
    # Number, meaning, rest, each a little apart from the one before.
    starts = (3 * size, round(4 * size), round(5 * size + meaning))
    sheet = Image.new("RGB", (round(starts[2] + rest + size), height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for line, (kind, number, text, more) in enumerate(rows):
        y = round((line + 0.5) * LINE * size)
        draw.text((starts[0], y), number, fill=KINDS["task"], font=text_font(size), anchor="ra")
        draw.text((starts[1], y), text, fill=KINDS[kind], font=text_font(size, text))
        draw.text((starts[2], y), more, fill=INK, font=text_font(size, more))
    return sheet


def heated(pixels: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """A picture u8[H,W,3], grey, with a map f32[H,W] in [0, 1] over it."""
    grey = pixels.astype(np.float32).mean(axis=-1, keepdims=True) * 0.6 + 50
    share = 0.85 * attention[..., None]
    return np.round(grey * (1 - share) + HOT * share).clip(0, 255).astype(np.uint8)


def attention_sheet(
    pixels: np.ndarray,
    tokens: Sequence[Mapping[str, Any]],
    maps: np.ndarray,
    *,
    columns: int,
    side: int = 260,
) -> Image.Image:
    """A map for each token, in rows of `columns`, each under what the token means.

    Args:
        pixels: u8[H,W,3].
        tokens: their words.
        maps: f32[T,H,W] in [0, 1].
        columns: maps in a row.
        side: longer side of a map, in pixels.
    """
    tiles, size = [], 16
    scale = side / max(pixels.shape[:2])
    shape = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
    for token, own in zip(tokens, maps, strict=True):
        picture = Image.fromarray(heated(pixels, own)).resize(shape, Image.Resampling.BICUBIC)
        tile = Image.new("RGB", (max(shape[0], 160), shape[1] + round(2 * size)), BACKGROUND)
        tile.paste(picture, (0, round(1.7 * size)))
        words = writable(f"{token['text']}  {token['probability']:.2f}")
        spot, fill = (4, size // 4), KINDS[token["kind"]]
        ImageDraw.Draw(tile).text(spot, words, fill=fill, font=text_font(size, words))
        tiles.append(tile)
    return contact_sheet(tiles, columns)
