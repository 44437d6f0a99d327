"""Pictures of predictions beside the ground truth, by PIL. Boxes are yxyx in pixels of the picture they lie on."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pictures are scaled until their longer side lies between these: text is readable on 48 px, and files stay small.
SIDES = (480, 1024)
GAP = 6  # pixels between pictures
BACKGROUND = (32, 32, 32)


def color(label: int) -> tuple[int, int, int]:
    """RGB of a label: always the same one; hues a golden angle apart, so that neighbouring labels differ most."""
    hue = label * (math.sqrt(5) - 1) / 2 % 1
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, (0.9, 0.6)[label // 8 % 2], 1.0))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)  # comes with PIL: the same on every machine


def _readable(name: str, label: int) -> str:
    """The name, or "class 3" where PIL's font lacks one of its letters (it has the Latin ones)."""
    font = _font(12)
    missing = bytes(font.getmask("\uffff"))
    return f"class {label}" if any(bytes(font.getmask(letter)) == missing for letter in name) else name


def _picture(image) -> Image.Image:
    """u8[H,W,3] -> picture."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {image.dtype}{list(image.shape)}: a picture must be uint8[H,W,3]")
    return Image.fromarray(image)


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]


def _write_names(picture: Image.Image, names: list[tuple[str, tuple, tuple]], size: int) -> None:
    """Writes each (text, color, box as x0, y0, x1, y1) at its box and inside the picture; the first choose first."""
    draw, font = ImageDraw.Draw(picture), _font(size)
    height = sum(font.getmetrics())
    frames = []
    for text, _, (x0, y0, _, y1) in names:
        width = math.ceil(font.getlength(text)) + 4
        x = max(0, min(x0, picture.width - width))
        spots = [y0 - height, y0, y1 + 1] if y0 >= height else [y0, y1 + 1]  # above, inside, below
        spots = [
            (x, y, x + width - 1, y + height - 1) for y in (max(0, min(y, picture.height - height)) for y in spots)
        ]
        frames.append(next((spot for spot in spots if all(_apart(spot, other) for other in frames)), spots[0]))
    for (text, fill, _), frame in reversed(list(zip(names, frames, strict=True))):
        bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140  # luma of BT.601
        draw.rectangle(frame, fill=fill)
        draw.text((frame[0] + 2, frame[1]), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def draw_boxes(
    image,
    boxes,
    labels,
    names: Sequence[str] | None = None,
    scores=None,
    *,
    is_crowd=None,
    threshold: float = 0.0,
    sides: tuple[int, int] = SIDES,
) -> Image.Image:
    """A scaled copy of an image with boxes, the best-scored on top.

    Args:
        image: u8[H,W,3].
        boxes: f32[N,4] yxyx in pixels of `image`; parts outside of it are not drawn.
        labels: i32[N]; 1-based, slots with label 0 are left out.
        names: name of label l at l - 1 (written as "class l" if PIL's font lacks its letters); None: no text.
        scores: f32[N] in [0, 1], or None.
        is_crowd: bool[N] or None; crowds are named as such.
        threshold: boxes that score less are left out.
        sides: smallest and largest longer side of the result, in pixels.

    Returns:
        RGB picture of the proportions of `image`.

    Raises:
        ValueError: an image that is not u8[H,W,3].
    """
    picture = _picture(image)
    longer = max(picture.size)
    scale = min(max(longer, sides[0]), sides[1]) / longer
    if scale != 1:
        size = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    ranks = np.ones(len(labels)) if scores is None else np.asarray(scores)
    line = max(1, round(max(picture.size) / 250))
    draw = ImageDraw.Draw(picture)
    texts = []
    for i in np.argsort(ranks, kind="stable"):
        edges = np.asarray(boxes[i], np.float64) * scale
        if labels[i] <= 0 or not ranks[i] >= threshold or not np.isfinite(edges).all():
            continue
        y0, x0, y1, x1 = (round(edge) for edge in np.clip(edges, -1e4, 1e4).tolist())
        if x0 >= picture.width or y0 >= picture.height or x1 < 0 or y1 < 0:
            continue
        box = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))  # the last pixels inside; a flat box is still a line
        thickness = min(line, 1 + min(box[2] - box[0], box[3] - box[1]) // 2)  # thicker lines would leave the box
        draw.rectangle(box, outline=color(int(labels[i])), width=thickness)
        if names is not None:
            words = [_readable(str(names[labels[i] - 1]), int(labels[i]))]
            words += [f"{ranks[i]:.2f}"] if scores is not None else []
            words += ["(crowd)"] if is_crowd is not None and is_crowd[i] else []
            texts.append((" ".join(words), color(int(labels[i])), box))
    # After all boxes, so that no line crosses a name.
    _write_names(picture, texts[::-1], max(12, round(max(picture.size) / 40)))
    return picture


def _headed(picture: Image.Image, text: str) -> Image.Image:
    """A picture under a line of text."""
    size = max(12, round(max(picture.size) / 36))
    headed = Image.new("RGB", (picture.width, picture.height + 2 * size), BACKGROUND)
    headed.paste(picture, (0, 2 * size))
    ImageDraw.Draw(headed).text((size // 2, size // 2), text, fill=(255, 255, 255), font=_font(size))
    return headed


def side_by_side(
    image,
    predictions: dict,
    ground_truth: dict,
    names: Sequence[str],
    *,
    threshold: float = 0.3,
    title: str = "",
    sides: tuple[int, int] = SIDES,
) -> Image.Image:
    """The prediction on the left, the ground truth on the right.

    Args:
        image: u8[H,W,3].
        predictions: boxes f32[N,4] yxyx in pixels of `image`, labels i32[N] (0: empty slot), scores f32[N].
        ground_truth: boxes, labels and, if known, is_crowd bool[N]; the numbers of objects may differ.
        names: name of label l at l - 1.
        threshold: predictions that score less are not drawn.
        title: written before "prediction", such as the image's name.
        sides: smallest and largest longer side of each half, in pixels.
    """
    left = draw_boxes(
        image,
        predictions["boxes"],
        predictions["labels"],
        names,
        predictions["scores"],
        threshold=threshold,
        sides=sides,
    )
    right = draw_boxes(
        image,
        ground_truth["boxes"],
        ground_truth["labels"],
        names,
        is_crowd=ground_truth.get("is_crowd"),
        sides=sides,
    )
    halves = [_headed(left, f"{title}  prediction, score from {threshold:g}".strip()), _headed(right, "ground truth")]
    return contact_sheet(halves, columns=2)


def contact_sheet(images: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Pictures of any sizes in rows of `columns`, on a dark ground. Raises ValueError without pictures or columns."""
    if not images or columns < 1:
        raise ValueError(f"{len(images)} pictures in {columns} columns: at least one of each is needed")
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    widths = [max(picture.width for picture in images[column::columns]) for column in range(min(columns, len(images)))]
    heights = [max(picture.height for picture in row) for row in rows]
    size = [sum(sides) + GAP * (len(sides) - 1) for sides in (widths, heights)]
    sheet = Image.new("RGB", size, BACKGROUND)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (sum(widths[:x]) + GAP * x, sum(heights[:y]) + GAP * y))
    return sheet
