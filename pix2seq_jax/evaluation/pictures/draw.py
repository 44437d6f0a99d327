"""Pictures of predictions beside the ground truth, by PIL: boxes, masks, skeletons and captions.

Boxes are yxyx and joints yx, in pixels of the picture they lie on.
"""

import colorsys
import functools
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

# Pictures are scaled until their longer side lies between these: text is readable on 48 px, and
# files stay small.
SIDES = (480, 1024)
GAP = 6  # pixels between pictures
BACKGROUND = (32, 32, 32)
INK = (255, 255, 255)  # of text on the background, and of joints
TINT = 0.4  # share of the class's colour inside of a mask
CAPTION_LINES = 6  # longer captions end in "..."
PER_OBJECT = ("boxes", "scores", "is_crowd", "masks", "keypoints", "visible")

Frame = tuple[int, int, int, int]  # x0, y0, x1, y1: the first and the last pixels inside


def color(label: int) -> tuple[int, int, int]:
    """RGB of a label: always the same one; hues a golden angle apart, so that neighbouring labels
    differ most."""
    hue = label * (math.sqrt(5) - 1) / 2 % 1
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, (0.9, 0.6)[label // 8 % 2], 1.0))


def text_font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of all pictures, in pixels."""
    return ImageFont.load_default(size=size)  # comes with PIL: the same on every machine


@functools.cache
def _lacks(letter: str) -> bool:
    """Whether PIL's font has no such letter; it has those of ASCII and, of late, few others."""
    font = text_font(12)
    return bytes(font.getmask(letter)) == bytes(font.getmask("\uffff"))


def _readable(name: str, label: int) -> str:
    """The name, or "class 3" where PIL's font lacks one of its letters."""
    return f"class {label}" if any(_lacks(letter) for letter in name) else name


def _substitute(letter: str) -> str:
    """The letter, or if PIL's font lacks it without its accents, or else "?"."""
    if not _lacks(letter):
        return letter
    plain = "".join(
        part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part)
    )
    return "?" if not plain or any(_lacks(part) for part in plain) else plain


def writable(text: str) -> str:
    """One line of text that PIL's font can write: without the accents that it lacks, with "?" for
    letters."""
    text = unicodedata.normalize("NFC", text).replace("–", "-").replace("—", "-")
    return "".join(_substitute(letter) for letter in " ".join(text.split()))


def _picture(image) -> Image.Image:
    """u8[H,W,3] -> picture."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {image.dtype}{list(image.shape)}: a picture must be uint8[H,W,3]")
    return Image.fromarray(image)


def _apart(a: Frame, b: Frame) -> bool:
    return a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]


def _write_names(picture: Image.Image, names: list[tuple[str, tuple, Frame]], size: int) -> None:
    """Writes each (text, color, box as x0, y0, x1, y1) at its box and inside the picture; the first
    choose first."""
    draw, font = ImageDraw.Draw(picture), text_font(size)
    height = sum(font.getmetrics())
    frames = []
    for text, _, (x0, y0, _, y1) in names:
        width = math.ceil(font.getlength(text)) + 4
        x = max(0, min(x0, picture.width - width))
        spots = [y0 - height, y0, y1 + 1] if y0 >= height else [y0, y1 + 1]  # above, inside, below
        spots = [
            (x, y, x + width - 1, y + height - 1)
            for y in (max(0, min(y, picture.height - height)) for y in spots)
        ]
        frames.append(
            next((spot for spot in spots if all(_apart(spot, other) for other in frames)), spots[0])
        )
    for (text, fill, _), frame in reversed(list(zip(names, frames, strict=True))):
        bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140  # luma of BT.601
        draw.rectangle(frame, fill=fill)
        draw.text((frame[0] + 2, frame[1]), text, fill=(0, 0, 0) if bright else INK, font=font)


def _checked(objects: dict, size: tuple[int, int], skeleton: Sequence[tuple[int, int]]) -> dict:
    """The objects without what is None, joints as f64[N,J,2] with NaN where not visible; refuses
    what does not fit."""
    found = {key: value for key, value in objects.items() if value is not None}
    count = len(found.setdefault("labels", ()))
    for key in PER_OBJECT:
        if len(found.get(key, found["labels"])) != count:
            raise ValueError(
                f"{len(found[key])} {key} of {count} labels: give one per object, label 0 for none"
            )
    for mask in found.get("masks", ()):
        if np.shape(mask) != size:
            raise ValueError(
                f"a mask of {list(np.shape(mask))}: must be bool{list(size)}, the size of its image"
            )
    if "keypoints" in found and count:
        joints = np.array(found["keypoints"], np.float64)
        if joints.ndim != 3 or joints.shape[2] != 2:
            raise ValueError(
                f"keypoints of shape {list(joints.shape)}: must be [N,J,2], yx in pixels"
            )
        visible = np.asarray(found.get("visible", np.ones(joints.shape[:2])), bool)
        if visible.shape != joints.shape[:2]:
            raise ValueError(
                f"visible of shape {list(visible.shape)}: must be {list(joints.shape[:2])}, "
                "as keypoints"
            )
        last = joints.shape[1] - 1
        if any(not 0 <= joint <= last for pair in skeleton for joint in pair):
            raise ValueError(
                f"skeleton {list(skeleton)}: joints are 0 to {last}; COCO's files count from "
                "1, subtract it"
            )
        joints[~visible | ~(np.abs(joints) < 1e5).all(-1)] = np.nan
        found["keypoints"] = joints
    return found


def _shown(objects: dict, threshold: float) -> list[int]:
    """Numbers of the objects that are no empty slots and score enough, the best last."""
    labels = objects["labels"]
    ranks = np.asarray(objects.get("scores", np.ones(len(labels))))
    return [
        int(i) for i in np.argsort(ranks, kind="stable") if labels[i] > 0 and ranks[i] >= threshold
    ]


def _frame(edges, picture: Image.Image) -> Frame | None:
    """The pixels between edges f64[4] yxyx; a flat box is still a line. None where nothing of it
    can be seen."""
    if not np.isfinite(edges).all():
        return None
    y0, x0, y1, x1 = (round(edge) for edge in np.clip(edges, -1e4, 1e4).tolist())
    if x0 >= picture.width or y0 >= picture.height or x1 < 0 or y1 < 0:
        return None
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _draw_box(picture: Image.Image, edges, fill: tuple, line: int) -> Frame | None:
    """Outlines f64[4] yxyx, inside of the edges; returns the frame of what is seen, if any."""
    frame = _frame(edges, picture)
    if frame is not None:
        thickness = min(
            line, 1 + min(frame[2] - frame[0], frame[3] - frame[1]) // 2
        )  # thicker lines leave the box
        ImageDraw.Draw(picture).rectangle(frame, outline=fill, width=thickness)
    return frame


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


def _draw_skeleton(picture: Image.Image, joints: np.ndarray, skeleton, line: int) -> Frame | None:
    """Limbs and joints f64[J,2] yx, NaN for those not visible; returns the frame of the joints, if
    any."""
    draw, seen = ImageDraw.Draw(picture), np.isfinite(joints).all(-1)
    for number, pair in enumerate(skeleton):
        if seen[list(pair)].all():
            draw.line(
                [(x, y) for y, x in joints[list(pair)].tolist()],
                fill=color(number + 1),
                width=line + 1,
            )
    for y, x in joints[seen].tolist():
        draw.ellipse((x - line, y - line, x + line, y + line), fill=INK, outline=(0, 0, 0))
    if not seen.any():
        return None
    return _frame(np.concatenate([joints[seen].min(0), joints[seen].max(0) + 1]), picture)


def _draw_marks(
    picture: Image.Image, objects: dict, shown: list[int], scale: float, skeleton
) -> dict[int, Frame]:
    """Masks below boxes below skeletons; returns where each object is seen: its box, else its mask,
    else its joints."""
    line = max(1, round(max(picture.size) / 250))
    places = {}
    for i in shown if "masks" in objects else ():
        places["masks", i] = _draw_mask(
            picture, objects["masks"][i], color(int(objects["labels"][i])), line
        )
    for i in shown if "boxes" in objects else ():
        edges = np.asarray(objects["boxes"][i], np.float64) * scale
        places["boxes", i] = _draw_box(picture, edges, color(int(objects["labels"][i])), line)
    for i in shown if "keypoints" in objects else ():
        places["keypoints", i] = _draw_skeleton(
            picture, objects["keypoints"][i] * scale, skeleton, line
        )
    kinds = ("keypoints", "masks", "boxes")  # the last that is seen
    return {i: places[kind, i] for kind in kinds for i in shown if places.get((kind, i))}


def draw_objects(
    image,
    objects: dict,
    names: Sequence[str] | None = None,
    *,
    skeleton: Sequence[tuple[int, int]] = (),
    threshold: float = 0.0,
    sides: tuple[int, int] = SIDES,
) -> Image.Image:
    """A scaled copy of an image with all that is known of its objects, the best-scored on top.

    Args:
        image: u8[H,W,3].
        objects: `labels` i32[N], 1-based, slots with label 0 are left out (without it there are no
            objects), and any of `boxes` f32[N,4] yxyx in pixels of `image`, parts outside of it are
            not drawn; `scores` f32[N] in [0, 1]; `is_crowd` bool[N], crowds are named as such;
            `masks` N times bool[H,W] of `image`, tinted and outlined in the class's colour;
            `keypoints` f32[N,J,2] yx in pixels of `image`, and `visible` bool[N,J] (all, if not
            given).
        names: name of label l at l - 1 (written as "class l" if PIL's font lacks its letters);
            None: no text.
        skeleton: pairs of joints, counted from 0, each a limb of its own colour.
        threshold: objects that score less are left out.
        sides: smallest and largest longer side of the result, in pixels.

    Returns:
        RGB picture of the proportions of `image`.

    Raises:
        ValueError: an image that is not u8[H,W,3], masks of another size, not one entry per label,
            keypoints that are not [N,J,2], or a skeleton with joints that do not exist.
    """
    picture = _picture(image)
    objects = _checked(objects, (picture.height, picture.width), skeleton)
    longer = max(picture.size)
    scale = min(max(longer, sides[0]), sides[1]) / longer
    if scale != 1:
        size = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    shown = _shown(objects, threshold)
    places = _draw_marks(picture, objects, shown, scale, skeleton)
    texts = []
    for i in shown if names is not None else ():
        label = int(objects["labels"][i])
        words = [_readable(str(names[label - 1]), label)]
        words += [f"{float(objects['scores'][i]):.2f}"] if "scores" in objects else []
        words += ["(crowd)"] if "is_crowd" in objects and objects["is_crowd"][i] else []
        texts += [(" ".join(words), color(label), places[i])] if i in places else []
    # After all marks, so that no line crosses a name.
    _write_names(picture, texts[::-1], max(12, round(max(picture.size) / 40)))
    return picture


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
    """`draw_objects` of boxes f32[N,4] yxyx in pixels of `image`, labels i32[N], scores f32[N] and
    is_crowd bool[N]."""
    objects = {"boxes": boxes, "labels": labels, "scores": scores, "is_crowd": is_crowd}
    return draw_objects(image, objects, names, threshold=threshold, sides=sides)


def _headed(picture: Image.Image, text: str) -> Image.Image:
    """A picture under a line of text."""
    size = max(12, round(max(picture.size) / 36))
    headed = Image.new("RGB", (picture.width, picture.height + 2 * size), BACKGROUND)
    headed.paste(picture, (0, 2 * size))
    ImageDraw.Draw(headed).text((size // 2, size // 2), text, fill=INK, font=text_font(size))
    return headed


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer is cut. At least one, at most
    CAPTION_LINES."""
    measure = text_font(size).getlength
    lines = [""]
    for word in writable(text).split():
        if measure(f"{lines[-1]} {word}".strip()) <= width:
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            lines += [""] if lines[-1] and measure(lines[-1] + letter) > width else []
            lines[-1] += letter
        if len(lines) > CAPTION_LINES:
            return [*lines[: CAPTION_LINES - 1], "..."]
    return lines if lines[0] else ["(empty)"]


def captioned(picture: Image.Image, captions: Sequence[str]) -> Image.Image:
    """A picture above its captions, each on lines of its own (several: with a dash before each);
    without any, itself.

    "?" stands for letters that PIL's font has in no form, "(empty)" for a caption without words,
    "..." for what is beyond CAPTION_LINES lines. Pictures too narrow for text get an empty margin
    on the right.
    """
    if not captions:
        return picture
    size = max(12, round(max(picture.size) / 36))
    width, dash = max(picture.width, 12 * size), size if len(captions) > 1 else 0
    texts = [_wrapped(caption, size, width - size - dash) for caption in captions]
    height = round(1.4 * size)
    whole = Image.new(
        "RGB", (width, picture.height + height * sum(map(len, texts)) + size), BACKGROUND
    )
    whole.paste(picture, (0, 0))
    draw, font, y = ImageDraw.Draw(whole), text_font(size), picture.height + size // 2
    for lines in texts:
        if dash:
            draw.text((size // 2, y), "-", fill=INK, font=font)
        for line in lines:
            draw.text((size // 2 + dash, y), line, fill=INK, font=font)
            y += height
    return whole


def _captions(example: dict) -> list[str]:
    """What stands under `caption` and under `captions`, either a text or several."""
    given = [example.get(key) for key in ("caption", "captions")]
    return [
        text
        for texts in given
        if texts is not None
        for text in ([texts] if isinstance(texts, str) else texts)
    ]


def side_by_side(
    image,
    predictions: dict,
    ground_truth: dict,
    names: Sequence[str] | None,
    *,
    skeleton: Sequence[tuple[int, int]] = (),
    threshold: float = 0.3,
    title: str = "",
    sides: tuple[int, int] = SIDES,
) -> Image.Image:
    """The prediction on the left, the ground truth on the right, captions below.

    Args:
        image: u8[H,W,3].
        predictions: objects as in `draw_objects`, if there are any, and `caption` str or `captions`
            list[str].
        ground_truth: likewise; its scores are not looked at, and the numbers of objects may differ.
        names: name of label l at l - 1.
        skeleton: pairs of joints, counted from 0.
        threshold: predictions that score less are not drawn.
        title: written before "prediction", such as the image's name.
        sides: smallest and largest longer side of each half, in pixels.

    Raises:
        ValueError: as `draw_objects`.
    """
    left = draw_objects(
        image, predictions, names, skeleton=skeleton, threshold=threshold, sides=sides
    )
    right = draw_objects(
        image, ground_truth | {"scores": None}, names, skeleton=skeleton, sides=sides
    )
    scored = "" if predictions.get("scores") is None else f", score from {threshold:g}"
    left, right = (
        _headed(left, f"{title}  prediction{scored}".strip()),
        _headed(right, "ground truth"),
    )
    return contact_sheet(
        [captioned(left, _captions(predictions)), captioned(right, _captions(ground_truth))]
    )


def contact_sheet(images: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Pictures of any sizes in rows of `columns`, on a dark ground. Raises ValueError without
    pictures or columns."""
    if not images or columns < 1:
        raise ValueError(
            f"{len(images)} pictures in {columns} columns: at least one of each is needed"
        )
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    widths = [
        max(picture.width for picture in images[column::columns])
        for column in range(min(columns, len(images)))
    ]
    heights = [max(picture.height for picture in row) for row in rows]
    size = [sum(sides) + GAP * (len(sides) - 1) for sides in (widths, heights)]
    sheet = Image.new("RGB", size, BACKGROUND)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (sum(widths[:x]) + GAP * x, sum(heights[:y]) + GAP * y))
    return sheet
