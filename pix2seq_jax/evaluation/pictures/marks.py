"""Marks of objects on a picture, by PIL: tinted masks, boxes and skeletons."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pix2seq_jax.evaluation.pictures.lettering import INK, Frame

TINT = 0.4  # share of the class's colour inside of a mask
LINES = 250  # the longer side of a picture in widths of its lines
# Okabe and Ito, "Color Universal Design" (2008), without black, which is lost on photographs:
# vermillion, sky blue, yellow, blue, orange, bluish green, reddish purple. Neighbours differ in
# lightness as well.
PALETTE = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
)
# Of the further rounds of the palette: share of white (above 0) or of black that is mixed in.
SHADES = (0, 0.42, -0.4, 0.62, -0.55, 0.22, -0.2, 0.52, -0.48, 0.32, -0.3, 0.1)
FAINT = (160, 160, 160)  # of boxes that others lie on
FAR = 1e4  # pixels; edges are cut here, because PIL counts in 32 bits


def draw_marks(
    picture: Image.Image,
    objects: dict,
    numbers: Sequence[int],
    scale: float,
    skeleton: Sequence[tuple[int, int]],
) -> dict[int, Frame]:
    """Draws the masks, the boxes above them and the skeletons above both.

    Args:
        picture: to draw on.
        objects: as `draw.draw_objects` has checked them.
        numbers: of the objects to draw; the last lies on top.
        scale: of the picture relative to the image that the objects are measured in.
        skeleton: pairs of keypoints, counted from 0.

    Returns:
        For each object that is seen the frame of its box, else of its mask, else of its keypoints.
    """
    line = line_width(picture.size)
    fills = {i: color(int(objects["labels"][i])) for i in numbers}
    fills |= {i: FAINT for i in numbers if faint(objects, i)}
    masks, boxes, skeletons = {}, {}, {}
    if "masks" in objects:
        masks = {i: _draw_mask(picture, objects["masks"][i], fills[i], line) for i in numbers}
    if "boxes" in objects:
        edges = {i: np.asarray(objects["boxes"][i], np.float64) * scale for i in numbers}
        lines = {i: 1 if faint(objects, i) else line for i in numbers}
        boxes = {i: _draw_box(picture, edges[i], fills[i], lines[i]) for i in numbers}
    if "keypoints" in objects:
        points = {i: objects["keypoints"][i] * scale for i in numbers}
        skeletons = {i: _draw_skeleton(picture, points[i], skeleton, line) for i in numbers}
    frames: dict[int, Frame] = {}
    for kind in (skeletons, masks, boxes):  # the last that is seen counts
        frames |= {i: frame for i, frame in kind.items() if frame is not None}
    return frames


def faint(objects: dict, i: int) -> bool:
    """Whether object i is one that others lie on."""
    return "faint" in objects and bool(objects["faint"][i])


def line_width(size: tuple[int, int]) -> int:
    """Pixels, in a picture of this width and height; long strips have thin lines."""
    return max(1, round(min(max(size) / LINES, min(size) / 50)))


def color(label: int) -> tuple[int, int, int]:
    """RGB of a label, counted from 1: always the same one.

    The first seven are those of Okabe and Ito, which people with any of the usual kinds of colour
    blindness tell apart. Further labels have them lighter and darker: with more than seven classes
    the name tells, the colour helps.
    """
    shade, number = divmod(label - 1, len(PALETTE))
    share = SHADES[shade % len(SHADES)]
    ground = 255 if share > 0 else 0
    red, green, blue = (round(c + abs(share) * (ground - c)) for c in PALETTE[number])
    return red, green, blue


def _draw_mask(picture: Image.Image, mask, fill: tuple, line: int) -> Frame | None:
    """Tints and outlines bool[H,W], scaled to the picture; returns its frame, None for an empty
    mask."""
    whole = Image.fromarray(np.asarray(mask, bool).astype(np.uint8) * 255).resize(picture.size)
    whole = whole.point(lambda value: 255 * (value > 127))  # the scaled edge is smooth: cut at half
    seen = whole.getbbox()
    if seen is None:
        return None
    area = (seen[0] - line, seen[1] - line, seen[2] + line, seen[3] + line)
    part = whole.crop(area)  # outside of the picture is no mask: the outline closes at its edge
    # Only where all neighbours are of the mask the mean stays at 255; all else is outline.
    inner = part.filter(ImageFilter.BoxBlur(line)).point(
        lambda value: round(value * (1 - TINT)) if value == 255 else 0
    )
    picture.paste(fill, area, ImageChops.subtract(part, inner))
    return seen[0], seen[1], seen[2] - 1, seen[3] - 1


def _draw_box(picture: Image.Image, edges, fill: tuple, line: int) -> Frame | None:
    """Outlines f64[4] yxyx, inside of the edges; returns the frame of what is seen, if any."""
    frame = _frame(edges, picture)
    if frame is not None:
        shorter = min(frame[2] - frame[0], frame[3] - frame[1])
        thickness = min(line, 1 + shorter // 2)  # thicker lines leave the box
        ImageDraw.Draw(picture).rectangle(frame, outline=fill, width=thickness)
    return frame


def _draw_skeleton(
    picture: Image.Image, keypoints: np.ndarray, skeleton: Sequence[tuple[int, int]], line: int
) -> Frame | None:
    """Limbs and keypoints f64[J,2] yx, NaN for those not visible; returns the frame of the
    keypoints, if any."""
    draw, seen = ImageDraw.Draw(picture), np.isfinite(keypoints).all(-1)
    for number, pair in enumerate(skeleton):
        if seen[list(pair)].all():
            ends = [(x, y) for y, x in keypoints[list(pair)].tolist()]
            draw.line(ends, fill=color(number + 1), width=line + 1)
    for y, x in keypoints[seen].tolist():
        draw.ellipse((x - line, y - line, x + line, y + line), fill=INK, outline=(0, 0, 0))
    if not seen.any():
        return None
    return _frame(np.concatenate([keypoints[seen].min(0), keypoints[seen].max(0) + 1]), picture)


def _frame(edges, picture: Image.Image) -> Frame | None:
    """The pixels between edges f64[4] yxyx; a flat box is still a line. None where nothing of it
    can be seen."""
    if not np.isfinite(edges).all():
        return None
    y0, x0, y1, x1 = (round(edge) for edge in np.clip(edges, -FAR, FAR).tolist())
    if x0 >= picture.width or y0 >= picture.height or x1 < 0 or y1 < 0:
        return None
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)
